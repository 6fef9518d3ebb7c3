//! The sampler's estimate of the clean picture.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = clamp(a · sample + b · model_output, ±clip)`: x_0 from the sample and the model's prediction (Ho et al. 2020,
/// eq. 15).
///
/// Inputs: `state [1 + S, N, .., C]` (row 0 is the sample), `model_output [N, .., C or 2C]` (the first C channels are
/// used), `coefficients` of the step (a, b and clip are elements 1 to 3); output `[N, .., C]`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct PredOriginalSample;

/// The shape of the sample in `state`, if `model_output` fits it: the same shape, or twice the channels.
pub(super) fn sample_shape(state: &TensorDesc, model_output: &TensorDesc) -> Result<Vec<usize>> {
    if state.shape.len() < 3 {
        return Err(Error::Shape(format!("state must be [1 + slots, N, .., C], found {:?}", state.shape)));
    }
    let sample = &state.shape[1..];
    let (channels, rest) = sample.split_last().expect("checked above");
    match model_output.shape.split_last() {
        Some((c, r)) if r == rest && (c == channels || *c == 2 * channels) => Ok(sample.to_vec()),
        _ => Err(Error::Shape(format!("model_output {:?} does not belong to samples {sample:?}", model_output.shape))),
    }
}

impl Operation for PredOriginalSample {
    const NAME: &'static str = "pred_original_sample";
    const INPUTS: &'static [&'static str] = &["state", "model_output", "coefficients"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        inputs.required(2)?;
        Ok(TensorDesc::f32(sample_shape(inputs.required(0)?, inputs.required(1)?)?))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        5 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::pred_original_sample(inputs.get(0), inputs.get(1), inputs.get(2))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| {
                let elements = context.output.elements();
                Launch::new("pred_original_sample/naive")
                    .param("elements", elements)
                    .param("channels", context.output.channels())
                    .param("output_channels", context.input(1).channels())
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, state: &[usize], output_channels: usize| {
            let mut output = state[1..].to_vec();
            *output.last_mut().expect("not empty") = output_channels;
            let inputs = vec![
                CaseInput::f32(state, Fill::Normal),
                CaseInput::f32(output, Fill::Normal),
                CaseInput::f32([10], Fill::Uniform(0.4, 1.2)), // a clip of about 1 cuts some elements and leaves others
            ];
            Case::new(label, PredOriginalSample, inputs)
        };
        vec![
            case("odd number of elements", &[1, 3, 5, 7, 3], 3),
            case("with memory", &[3, 2, 4, 5, 4], 4),
            case("learned variance", &[1, 2, 5, 7, 3], 6),
            case("two whole workgroups", &[2, 2, 8, 8, 4], 4),
        ]
    }
}

impl Graph {
    /// The estimate of x_0 from the sample in `state` and the model's output.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not agree.
    pub fn pred_original_sample(
        &mut self,
        name: impl Into<String>,
        state: ValueId,
        model_output: ValueId,
        coefficients: ValueId,
    ) -> Result<ValueId> {
        self.push(name, PredOriginalSample, &[Some(state), Some(model_output), Some(coefficients)])
    }
}
