//! What the model sees of the sampler's state.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y[r] = input_scale · state[0]` for each repetition r: `scale_model_input` of diffusers' schedulers and the repeated
/// batch of guidance.
///
/// Inputs: `state [1 + S, N, ..]`, `coefficients [..]` of the step (the first is the input scale); output
/// `[repeat · N, ..]`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInput {
    /// How many times the sample is repeated along the batch.
    pub repeat: usize,
}

impl Operation for ModelInput {
    const NAME: &'static str = "model_input";
    const INPUTS: &'static [&'static str] = &["state", "coefficients"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (state, _) = (inputs.required(0)?, inputs.required(1)?);
        if state.shape.len() < 2 {
            return Err(Error::Shape(format!("state must be [1 + slots, N, ..], found {:?}", state.shape)));
        }
        let mut shape = state.shape[1..].to_vec();
        shape[0] *= self.repeat;
        Ok(TensorDesc::f32(shape))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::model_input(inputs.get(0), inputs.get(1), self.repeat)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let elements = context.output.elements();
                Launch::new("model_input/naive")
                    .param("elements", elements)
                    .param("sample", elements / op.repeat)
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("repeat={}", self.repeat)
    }

    fn cases() -> Vec<Case> {
        let case = |label, repeat, state: &[usize]| {
            let inputs = vec![CaseInput::f32(state, Fill::Normal), CaseInput::f32([6], Fill::Uniform(0.3, 0.9))];
            Case::new(label, ModelInput { repeat }, inputs)
        };
        vec![
            case("once, no memory", 1, &[1, 2, 5, 4, 3]),
            case("twice, odd number of elements, memory", 2, &[3, 3, 5, 7, 3]),
            case("twice, latents", 2, &[2, 2, 6, 5, 4]),
            case("twice, two whole workgroups", 2, &[2, 1, 8, 8, 4]),
        ]
    }
}

impl Graph {
    /// The sample in `state`, scaled as the step's `coefficients` say and repeated along the batch.
    ///
    /// # Errors
    /// [`Error::Shape`] if `state` is not `[1 + slots, N, ..]`.
    pub fn model_input(
        &mut self,
        name: impl Into<String>,
        state: ValueId,
        coefficients: ValueId,
        repeat: usize,
    ) -> Result<ValueId> {
        self.push(name, ModelInput { repeat }, &[Some(state), Some(coefficients)])
    }
}
