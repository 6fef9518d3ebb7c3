//! Moments of a norm's groups and of what is passed back through them: what the gradient of a norm needs to know of a
//! whole group.

use super::norm::NormKind;
use super::{Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, expect_float};
use super::{in_fours, lower::nested, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// Of each group of a [`super::norm::Norm`]: mean, `r = 1 / √(variance + eps)`, mean of g, mean of g · n, for the
/// normalised value `n = (x − mean) · r` and its gradient `g = dy · gamma · (1 + scale)`.
///
/// Inputs: `x` and `dy [N, .., C]`, `gamma [C]`?, `modulation [N, .., k·C]`?; output f32 `[images, groups, 4]`, where
/// in row norms each row is an image.
#[derive(Clone, Debug, PartialEq)]
pub struct NormMoments {
    /// Which values are normalised together.
    pub kind: NormKind,
    /// Added to the variance, or to the mean square.
    pub eps: f64,
    /// The part of `modulation` that holds the scales, if it is given.
    pub scale: Option<usize>,
}

/// Images, positions and groups.
pub(super) fn dims(kind: NormKind, shape: &[usize]) -> [usize; 3] {
    let rows = shape[..shape.len() - 1].iter().product::<usize>();
    match kind {
        NormKind::Group { groups } => [shape[0], rows / shape[0], groups],
        NormKind::Layer | NormKind::Rms => [rows, 1, 1],
    }
}

/// What a backward kernel of a norm sets: whether there are gamma and scale, at these positions, and where they are.
pub(super) fn with_factor(
    launch: Launch,
    context: &LowerContext<'_>,
    [gamma, modulation]: [usize; 2],
    scale: Option<usize>,
) -> Launch {
    let x = context.input(0);
    let given = context.has(modulation);
    launch
        .flag("HAS_GAMMA", context.has(gamma))
        .flag("HAS_SCALE", given)
        .param("channels", x.channels())
        .param("span", if given { x.rows() / context.input(modulation).rows() } else { 1 })
        .param("modulation_columns", if given { context.input(modulation).channels() } else { 0 })
        .param("scale_column", scale.unwrap_or(0) * x.channels())
}

impl NormMoments {
    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        let [images, positions, groups] = dims(self.kind, &context.input(0).shape);
        let launch = Launch::new(kernel)
            .flag("CENTERED", self.kind != NormKind::Rms)
            .param("images", images)
            .param("positions", positions)
            .param("groups", groups)
            .param_f32("eps", self.eps as f32);
        with_factor(launch, context, [2, 3], self.scale)
    }
}

impl Operation for NormMoments {
    const NAME: &'static str = "norm_moments";
    const INPUTS: &'static [&'static str] = &["x", "dy", "gamma", "modulation"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, dy) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("dy", dy.dtype)?;
        super::expect_shape("dy", &dy.shape, &x.shape)?;
        if x.shape.len() < 2 || x.elements() == 0 {
            return Err(Error::Shape(format!("x: expected [N, .., C], found shape {:?}", x.shape)));
        }
        let [images, _, groups] = dims(self.kind, &x.shape);
        if groups == 0 || !x.channels().is_multiple_of(groups) {
            return Err(Error::Shape(format!("{} channels cannot be divided into {groups} groups", x.channels())));
        }
        if let Some(gamma) = inputs.optional(2) {
            super::expect_shape("gamma", &gamma.shape, &[x.channels()])?;
        }
        if inputs.optional(3).is_some() != self.scale.is_some() {
            return Err(Error::Shape("modulation and the part of it that scales belong together".into()));
        }
        Ok(TensorDesc::f32([images, groups, 4]))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        8 * inputs.get(0).elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (x, dy) = (inputs.get(0), inputs.get(1));
        let [images, _, groups] = dims(self.kind, &x.shape);
        let scale = inputs.optional(3).zip(self.scale);
        let centered = self.kind != NormKind::Rms;
        reference::norm_moments(x, dy, inputs.optional(2), scale, images, groups, self.eps, centered)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "workgroup",
                family: Family::Gpu,
                legal: |op, context| {
                    let [_, positions, groups] = dims(op.kind, &context.input(0).shape);
                    context.can_loop(2 * (positions * context.input(0).channels() / groups).div_ceil(128) + 16)
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let [images, _, groups] = dims(op.kind, &context.input(0).shape);
                    op.launch("norm_moments/workgroup", context).cover(images * groups, 1).into()
                },
            },
            Variant {
                name: "vec4",
                family: Family::Cpu,
                legal: |op, context| {
                    let [_, positions, groups] = dims(op.kind, &context.input(0).shape);
                    let width = context.input(0).channels() / groups;
                    in_fours("channels of a group", width)?;
                    context.can_loop(2 * nested(&[positions, width / 4]))
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let [images, _, groups] = dims(op.kind, &context.input(0).shape);
                    op.launch("norm_moments/vec4", context).cover(images * groups, 8).into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |op, context| {
                    let [_, positions, groups] = dims(op.kind, &context.input(0).shape);
                    let width = context.input(0).channels() / groups;
                    context.can_loop(2 * nested(&[positions, width]))
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let [images, _, groups] = dims(op.kind, &context.input(0).shape);
                    op.launch("norm_moments/naive", context).cover(images * groups, 64).into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        attributes(self.kind, self.scale)
    }

    fn cases() -> Vec<Case> {
        cases(1, |kind, scale| NormMoments { kind, eps: 1e-5, scale }.into(), |_, _| None)
    }
}

/// `group groups=8 scale=0`
pub(super) fn attributes(kind: NormKind, scale: Option<usize>) -> String {
    let kind = match kind {
        NormKind::Group { groups } => format!("group groups={groups}"),
        NormKind::Layer => "layer".into(),
        NormKind::Rms => "rms".into(),
    };
    kind + &scale.map_or(String::new(), |scale| format!(" scale={scale}"))
}

/// Cases of a backward operation of norms: `x`, `dy`, what `third` says for these images and groups, and with
/// `factors` gamma and modulation.
pub(super) fn cases(
    factors: usize,
    op: impl Fn(NormKind, Option<usize>) -> super::Op,
    third: impl Fn(usize, usize) -> Option<CaseInput>,
) -> Vec<Case> {
    let case = |label, kind, x: &[usize], gamma: bool, modulation: Option<(&[usize], usize)>| {
        let channels = x[x.len() - 1];
        let [images, _, groups] = dims(kind, x);
        // A mean far from 0 shows a wrong one.
        let values = CaseInput { fill: super::Fill::Uniform(-0.5, 2.5), ..CaseInput::normal(x).expect("it is some") };
        let mut inputs = vec![Some(values), CaseInput::normal(x)];
        inputs.extend(third(images, groups).map(Some));
        let with_factors = factors > 0;
        if with_factors {
            inputs.push(gamma.then(|| CaseInput::f32([channels], super::Fill::Uniform(0.5, 2.0)).expect("it is some")));
            inputs.push(modulation.and_then(|(rows, parts)| CaseInput::normal([rows, &[parts * channels]].concat())));
        }
        Case::new(label, op(kind, modulation.filter(|_| with_factors).map(|(_, parts)| parts - 1)), inputs)
    };
    let group = |groups| NormKind::Group { groups };
    vec![
        case("groups of 3 channels", group(2), &[2, 5, 7, 6], true, None),
        case("groups of 4 channels, bare", group(3), &[3, 9, 11, 12], false, None),
        case("groups of 8 channels, scaled", group(4), &[2, 5, 5, 32], true, Some((&[2], 2))),
        case("many groups, three workgroups of 8", group(8), &[3, 5, 7, 32], true, None),
        case("one group, a scale of each position", group(1), &[2, 7, 5], true, Some((&[2, 7], 1))),
        case("rows of 7", NormKind::Layer, &[2, 9, 7], true, None),
        case("rows of 36, bare", NormKind::Layer, &[3, 11, 36], false, None),
        case("rows of 132, scaled by image", NormKind::Layer, &[2, 5, 132], true, Some((&[2], 3))),
        case("root mean squares of 20", NormKind::Rms, &[2, 13, 20], true, None),
        case("two whole workgroups", group(32), &[4, 3, 64], true, None),
        case("a U-Net's picture of 64 channels", group(32), &[4, 64, 64, 64], true, None).large(),
        case("a U-Net's picture of 320 channels", group(32), &[2, 64, 64, 320], true, None).perf(),
    ]
}
