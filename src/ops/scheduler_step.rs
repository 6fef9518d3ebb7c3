//! The update of the sample: one operation for every sampler.

use super::pred_original_sample::sample_shape;
use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_shape, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y[r] = Σ_term K[r, term] · term`: the new sample (r = 0) and the new value of each memory slot as linear
/// combinations of the sample, the model's output, x_0, noise and the old slots (see
/// [`crate::schedulers::Combination`]).
///
/// Inputs: `state [1 + S, N, .., C]`, `model_output [N, .., C or 2C]`, `x0 [N, .., C]`, `noise [N, .., C]`?,
/// `coefficients [6 + (1 + S)(4 + S)]` of the step (K follows the first six); output like `state`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerStep;

impl Operation for SchedulerStep {
    const NAME: &'static str = "scheduler_step";
    const INPUTS: &'static [&'static str] = &["state", "model_output", "x0", "noise", "coefficients"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let state = inputs.required(0)?;
        let sample = sample_shape(state, inputs.required(1)?)?;
        expect_shape("x0", &inputs.required(2)?.shape, &sample)?;
        if let Some(noise) = inputs.optional(3) {
            expect_shape("noise", &noise.shape, &sample)?;
        }
        let slots =
            state.shape[0].checked_sub(1).ok_or_else(|| Error::Shape("state has no row for the sample".into()))?;
        expect_shape("coefficients", &inputs.required(4)?.shape, &[6 + (1 + slots) * (4 + slots)])?;
        Ok(state.clone())
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        2 * (3 + inputs.get(0).shape[0]) as u64 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::scheduler_step(inputs.get(0), inputs.get(1), inputs.get(2), inputs.optional(3), inputs.get(4))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| {
                let state = context.output;
                Launch::new("scheduler_step/naive")
                    .flag("HAS_NOISE", context.has(3))
                    .param("sample", context.input(2).elements())
                    .param("slots", state.shape[0] - 1)
                    .param("channels", state.channels())
                    .param("output_channels", context.input(1).channels())
                    .cover(state.elements().div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, state: &[usize], output_channels: usize, noise: bool| {
            let sample = &state[1..];
            let mut output = sample.to_vec();
            *output.last_mut().expect("not empty") = output_channels;
            let slots = state[0] - 1;
            let inputs = vec![
                CaseInput::f32(state, Fill::Normal),
                CaseInput::f32(output, Fill::Normal),
                CaseInput::f32(sample, Fill::Normal),
                noise.then(|| CaseInput::f32(sample, Fill::Normal)).flatten(),
                CaseInput::f32([6 + (1 + slots) * (4 + slots)], Fill::Normal),
            ];
            Case::new(label, SchedulerStep, inputs)
        };
        vec![
            case("no memory, noise, odd number of elements", &[1, 3, 5, 7, 3], 3, true),
            case("no memory, no noise", &[1, 2, 5, 4, 4], 4, false),
            case("learned variance", &[1, 2, 5, 7, 3], 6, true),
            case("four slots, rows that share a vector", &[5, 3, 5, 7, 3], 3, true),
            case("one slot, no noise", &[2, 2, 3, 5, 4], 4, false),
            case("one slot, two whole workgroups", &[2, 1, 8, 8, 4], 4, true),
        ]
    }
}

impl Graph {
    /// The sampler's next state.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not agree.
    pub fn scheduler_step(
        &mut self,
        name: impl Into<String>,
        state: ValueId,
        model_output: ValueId,
        x0: ValueId,
        noise: Option<ValueId>,
        coefficients: ValueId,
    ) -> Result<ValueId> {
        self.push(name, SchedulerStep, &[Some(state), Some(model_output), Some(x0), noise, Some(coefficients)])
    }
}
