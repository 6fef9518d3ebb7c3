//! Noise of the strength that a model with learned variances predicted.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_shape, no_knobs};
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// What the last C channels of the model's output mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnedVariance {
    /// The variance itself.
    Direct,
    /// The position of its logarithm between two bounds, from −1 to 1.
    Range,
}

/// `y = σ · noise` with σ from the last C channels, v, of the model's output: √v, or exp(½ (f·max_log + (1 −
/// f)·min_log)) with f = (v + 1)/2 (Nichol and Dhariwal 2021, eq. 15).
///
/// Inputs: `noise [N, .., C]`, `model_output [N, .., 2C]`, `coefficients` of the step (min_log and max_log are elements
/// 4 and 5). All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleNoise {
    /// What v means.
    pub kind: LearnedVariance,
}

impl Operation for ScaleNoise {
    const NAME: &'static str = "scale_noise";
    const INPUTS: &'static [&'static str] = &["noise", "model_output", "coefficients"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (noise, output, _) = (inputs.required(0)?, inputs.required(1)?, inputs.required(2)?);
        let mut expected = noise.shape.clone();
        expected.last_mut().map(|c| *c *= 2).unwrap_or_default();
        expect_shape("model_output", &output.shape, &expected)?;
        Ok(noise.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        8 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let range = self.kind == LearnedVariance::Range;
        reference::scale_noise(inputs.get(0), inputs.get(1), inputs.get(2), range)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let elements = context.output.elements();
                Launch::new("scale_noise/naive")
                    .flag("RANGE", op.kind == LearnedVariance::Range)
                    .param("elements", elements)
                    .param("channels", context.output.channels())
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        match self.kind {
            LearnedVariance::Direct => "learned".into(),
            LearnedVariance::Range => "learned_range".into(),
        }
    }

    fn cases() -> Vec<Case> {
        let case = |label, kind, noise: &[usize], v: Fill| {
            let mut output = noise.to_vec();
            output.last_mut().map(|c| *c *= 2).unwrap_or_default();
            let inputs = vec![
                CaseInput::f32(noise, Fill::Normal),
                CaseInput::f32(output, v),
                CaseInput::f32([10], Fill::Uniform(-9.0, -2.0)),
            ];
            Case::new(label, ScaleNoise { kind }, inputs)
        };
        vec![
            case("range, odd number of elements", LearnedVariance::Range, &[3, 5, 7, 3], Fill::Uniform(-1.0, 1.0)),
            case("range, outside the bounds", LearnedVariance::Range, &[2, 4, 3, 4], Fill::Normal),
            case("direct", LearnedVariance::Direct, &[2, 5, 3, 3], Fill::Uniform(0.001, 0.5)),
            case("two whole workgroups", LearnedVariance::Range, &[2, 8, 8, 4], Fill::Uniform(-1.0, 1.0)),
        ]
    }
}

impl Graph {
    /// `noise` times the standard deviation that the model predicted for each element.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `model_output` does not have twice the channels of `noise`.
    pub fn scale_noise(
        &mut self,
        name: impl Into<String>,
        noise: ValueId,
        model_output: ValueId,
        coefficients: ValueId,
        kind: LearnedVariance,
    ) -> Result<ValueId> {
        self.push(name, ScaleNoise { kind }, &[Some(noise), Some(model_output), Some(coefficients)])
    }
}
