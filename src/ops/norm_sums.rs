//! What a norm passes back to its parameters.

use super::norm::NormKind;
use super::norm_moments::{attributes, cases, dims};
use super::{Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Lowered, Operand, Operation, Variant};
use super::{expect_float, expect_shape, in_fours, no_knobs};
use crate::error::Result;
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// Of each channel of each image, over all its positions: the sums of dy · n and of dy, for the normalised value
/// `n = (x − mean) · r`. The gradients of gamma, beta, scale and shift are made of them.
///
/// Inputs: `x` and `dy [N, .., C]`, `moments [images, groups, 4]` ([`super::norm_moments::NormMoments`]); output f32
/// `[N, 2, C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NormSums {
    /// Which values are normalised together.
    pub kind: NormKind,
}

/// Positions that one invocation sums, if an image has more.
const LENGTH: usize = 64;

impl NormSums {
    /// Sums over `length` positions each: `[images, parts, 2, channels]`.
    fn launch(&self, context: &LowerContext<'_>, length: usize, vectors: bool) -> Launch {
        let x = context.input(0);
        let (positions, channels) = (x.rows() / x.shape[0], x.channels());
        let parts = positions.div_ceil(length);
        let elements = x.shape[0] * parts * 2 * channels;
        let (rows, groups) = match self.kind {
            NormKind::Group { groups } => (false, groups),
            NormKind::Layer | NormKind::Rms => (true, 1),
        };
        let (kernel, of_one) = if vectors { ("norm_sums/vec4", 8) } else { ("norm_sums/naive", 4) };
        Launch::new(kernel)
            .flag("ROWS", rows)
            .param("elements", elements)
            .param("positions", positions)
            .param("channels", channels)
            .param("groups", groups)
            .param("parts", parts)
            .param("length", length)
            .cover(elements.div_ceil(of_one), 64)
    }

    /// Sums of [`LENGTH`] positions each, and their sum.
    fn parts(&self, context: &LowerContext<'_>, vectors: bool) -> Lowered {
        let x = context.input(0);
        let parts = positions(context).div_ceil(LENGTH);
        let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
        let between = lowered.add_scratch([x.shape[0], parts, 2, x.channels()]);
        lowered.launches.push(self.launch(context, LENGTH, vectors).bind("y", between));
        let second = super::sum::launch([x.shape[0], parts, 2 * x.channels()], parts, false);
        lowered.launches.push(second.bind("x", between).bind("y", Operand::Output));
        lowered
    }
}

fn many_positions(context: &LowerContext<'_>) -> std::result::Result<(), String> {
    match positions(context) {
        few if few <= LENGTH => Err(format!("{few} positions are too few to sum them in parts")),
        _ => Ok(()),
    }
}

fn positions(context: &LowerContext<'_>) -> usize {
    context.input(0).rows() / context.input(0).shape[0]
}

impl Operation for NormSums {
    const NAME: &'static str = "norm_sums";
    const INPUTS: &'static [&'static str] = &["x", "dy", "moments"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, dy) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("dy", dy.dtype)?;
        expect_shape("dy", &dy.shape, &x.shape)?;
        let [images, _, groups] = dims(self.kind, &x.shape);
        expect_shape("moments", &inputs.required(2)?.shape, &[images, groups, 4])?;
        Ok(TensorDesc::f32([x.shape[0], 2, x.channels()]))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        5 * inputs.get(0).elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let rows = !matches!(self.kind, NormKind::Group { .. });
        reference::norm_sums(inputs.get(0), inputs.get(1), inputs.get(2), rows)
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
                lower: |op, context, _| match many_positions(context) {
                    Ok(()) => op.parts(context, true),
                    Err(_) => op.launch(context, positions(context), true).into(),
                },
            },
            Variant {
                name: "parts",
                family: Family::Any,
                legal: |_, context| many_positions(context),
                knobs: no_knobs,
                lower: |op, context, _| op.parts(context, false),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, context| context.can_loop(4 * positions(context)),
                knobs: no_knobs,
                lower: |op, context, _| op.launch(context, positions(context), false).into(),
            },
        ]
    }

    fn attributes(&self) -> String {
        attributes(self.kind, None)
    }

    fn cases() -> Vec<Case> {
        // Sums of dy around 0 cancel: what tells a wrong moment apart is dy · n, which does not.
        let moments = |images, groups| CaseInput::f32([images, groups, 4], Fill::Uniform(0.2, 1.2));
        let mut cases = cases(0, |kind, _| NormSums { kind }.into(), moments);
        for case in &mut cases {
            let dy = case.inputs[1].as_mut().expect("a norm's gradient has one");
            dy.fill = Fill::Uniform(-0.5, 1.5);
        }
        cases
    }
}
