//! What a norm passes back to its input.

use super::norm::NormKind;
use super::norm_moments::{attributes, cases, dims, with_factor};
use super::{Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Operation, Variant, expect_float};
use super::{expect_shape, in_fours, no_knobs};
use crate::error::Result;
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// `dx = r · (g − mean of g − n · mean of g · n)` with the normalised value `n = (x − mean) · r` and its gradient
/// `g = dy · gamma · (1 + scale)`; the means over a group are those of [`super::norm_moments::NormMoments`].
///
/// Inputs: `x` and `dy [N, .., C]`, `moments [images, groups, 4]`, `gamma [C]`?, `modulation [N, .., k·C]`?; output as
/// `dy`.
#[derive(Clone, Debug, PartialEq)]
pub struct NormGradient {
    /// Which values are normalised together.
    pub kind: NormKind,
    /// The part of `modulation` that holds the scales, if it is given.
    pub scale: Option<usize>,
}

impl NormGradient {
    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        let [_, positions, groups] = dims(self.kind, &context.input(0).shape);
        let elements = context.output.elements();
        let launch = Launch::new(kernel)
            .flag("CENTERED", self.kind != NormKind::Rms)
            .param("elements", elements)
            .param("positions", positions)
            .param("groups", groups)
            .cover(elements.div_ceil(4), 64);
        with_factor(launch, context, [3, 4], self.scale)
    }
}

impl Operation for NormGradient {
    const NAME: &'static str = "norm_gradient";
    const INPUTS: &'static [&'static str] = &["x", "dy", "moments", "gamma", "modulation"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, dy) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("dy", dy.dtype)?;
        expect_shape("dy", &dy.shape, &x.shape)?;
        let [images, _, groups] = dims(self.kind, &x.shape);
        expect_shape("moments", &inputs.required(2)?.shape, &[images, groups, 4])?;
        Ok(dy.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        8 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let scale = inputs.optional(4).zip(self.scale);
        let centered = self.kind != NormKind::Rms;
        reference::norm_gradient(inputs.get(0), inputs.get(1), inputs.get(2), inputs.optional(3), scale, centered)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |op, context| {
                    let [_, _, groups] = dims(op.kind, &context.input(0).shape);
                    in_fours("channels of a group", context.input(0).channels() / groups)
                },
                knobs: no_knobs,
                lower: |op, context, _| op.launch("norm_gradient/vec4", context).into(),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| op.launch("norm_gradient/naive", context).into(),
            },
        ]
    }

    fn attributes(&self) -> String {
        attributes(self.kind, self.scale)
    }

    fn cases() -> Vec<Case> {
        let moments = |images, groups| CaseInput::f32([images, groups, 4], Fill::Uniform(0.2, 1.2));
        cases(1, |kind, scale| NormGradient { kind, scale }.into(), moments)
    }
}
