//! Normalisation of groups of channels or of rows, by mean and deviation or by root mean square, with the affine part,
//! modulation and activation that follow it in models.

mod cases;
mod gradient;

use super::activation::{self, ActivationKind};
use super::{
    Backward, Case, Family, Inputs, Knobs, Launch, LowerContext, Lowered, Operand, Operation, Variant, expect_float,
    expect_shape, in_fours, no_knobs, row_lanes,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// Which values are normalised together, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// Each image's groups of channels over all its positions: group g owns the channels g·C/groups .. (g+1)·C/groups.
    /// Wu and He 2018, "Group Normalization".
    Group {
        /// Number of groups; divides C.
        groups: usize,
    },
    /// Each row of the last dimension. Ba, Kiros and Hinton 2016, "Layer Normalization".
    Layer,
    /// Each row of the last dimension, divided by its root mean square; the mean is not subtracted. Zhang and Sennrich
    /// 2019, "Root Mean Square Layer Normalization".
    Rms,
}

/// Which parts of the input `modulation` scale and shift the result: its last dimension consists of k parts of C
/// columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Modulation {
    /// The part that holds the scales.
    pub scale: usize,
    /// The part that holds the shifts; `None` adds nothing.
    pub shift: Option<usize>,
}

/// `n = (x − mean) / √(variance + eps)` as [`NormKind`] says, then `y = f((n · gamma + beta) · (1 + scale) + shift)`;
/// every step but the first is optional. Scale and shift are those of Perez et al. 2018 ("FiLM"), one for each image
/// (Dhariwal and Nichol 2021, section 3) or each token (Peebles and Xie 2023, "adaLN").
///
/// Inputs: `x [N, .., C]`, `gamma [C]`?, `beta [C]`?, `modulation [N, .., k·C]`? with one row per image or per
/// position; output as `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Which values are normalised together.
    pub kind: NormKind,
    /// Added to the variance, or to the mean square.
    pub eps: f64,
    /// Where scale and shift are, if the input `modulation` is given.
    pub modulation: Option<Modulation>,
    /// Applied to the result.
    pub activation: Option<ActivationKind>,
}

/// Positions of the inputs.
const GAMMA: usize = 1;
const BETA: usize = 2;
const MODULATION: usize = 3;

/// How the values are divided into groups that share a mean and a variance.
#[derive(Clone, Copy)]
struct Dims {
    /// Images for groups, rows otherwise.
    images: usize,
    /// Positions of each: 1 for rows.
    positions: usize,
    channels: usize,
    groups: usize,
}

impl Norm {
    /// Plain normalisation of this kind.
    pub fn new(kind: NormKind, eps: f64) -> Self {
        Self { kind, eps, modulation: None, activation: None }
    }

    fn dims(&self, context: &LowerContext<'_>) -> Dims {
        let x = context.output;
        let channels = x.channels();
        match self.kind {
            NormKind::Group { groups } => {
                Dims { images: x.shape[0], positions: x.rows() / x.shape[0], channels, groups }
            }
            NormKind::Layer | NormKind::Rms => Dims { images: x.rows(), positions: 1, channels, groups: 1 },
        }
    }

    /// Rows of `x` that share a row of `modulation`.
    fn span(&self, context: &LowerContext<'_>) -> usize {
        if context.has(MODULATION) { context.output.rows() / context.input(MODULATION).rows() } else { 1 }
    }

    /// What the launch that writes the affine part or the result sets. Columns are counted in vectors of `per`
    /// elements.
    fn finish(&self, launch: Launch, context: &LowerContext<'_>, per: usize) -> Launch {
        let part = context.output.channels() / per;
        let modulation = self.modulation.filter(|_| context.has(MODULATION));
        let columns = if context.has(MODULATION) { context.input(MODULATION).channels() / per } else { 0 };
        launch
            .flag("HAS_GAMMA", context.has(GAMMA))
            .flag("HAS_BETA", context.has(BETA))
            .flag("HAS_SCALE", modulation.is_some())
            .flag("HAS_SHIFT", modulation.is_some_and(|m| m.shift.is_some()))
            .param("modulation_columns", columns)
            .param("scale_column", modulation.map_or(0, |m| m.scale * part))
            .param("shift_column", modulation.and_then(|m| m.shift).map_or(0, |shift| shift * part))
    }

    fn activated(&self, launch: Launch) -> Launch {
        launch.constant("ACTIVATION", self.activation.map_or(activation::NONE, ActivationKind::code))
    }

    fn centered(&self, launch: Launch) -> Launch {
        launch.flag("CENTERED", self.kind != NormKind::Rms)
    }

    fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let Dims { images, positions, channels, groups } = self.dims(context);
        let statistics = Launch::new("norm/naive_statistics")
            .bind("statistics", Operand::Scratch(0))
            .param("images", images)
            .param("positions", positions)
            .param("channels", channels)
            .param("groups", groups)
            .param_f32("eps", self.eps as f32)
            .cover(images * groups, 64);
        let apply = Launch::new("norm/naive")
            .bind("statistics", Operand::Scratch(0))
            .param("elements", context.output.elements())
            .param("positions", positions)
            .param("channels", channels)
            .param("groups", groups)
            .param("span", self.span(context))
            .cover(context.output.elements().div_ceil(4), 64);
        let launches = vec![self.centered(statistics), self.activated(self.finish(apply, context, 1))];
        Lowered { launches, scratch: vec![TensorDesc::f32([images, groups, 2]).into()] }
    }

    fn chunked_legal(&self, context: &LowerContext<'_>) -> std::result::Result<(), String> {
        if !matches!(self.kind, NormKind::Group { .. }) {
            return Err("it sums over the positions of an image, not over a row".into());
        }
        if context.has(MODULATION) && context.input(MODULATION).rows() != context.output.shape[0] {
            return Err("scale and shift differ between positions".into());
        }
        in_fours("channels", context.output.channels())
    }

    /// One invocation sums the moments of a chunk, which may be any number of positions long; beyond 256, rounding
    /// errors exceed the bound in the kernel's header. The moments of a group are combined by one invocation or by 64.
    fn chunked_knobs() -> Vec<Knobs> {
        let chunks: Vec<usize> = (1..=16).map(|i| 16 * i).collect();
        Knobs::combinations(&[("CHUNK", &chunks), ("POSITIONS", &[1, 2, 4, 8, 16]), ("COMBINE_LANES", &[1, 64])])
    }

    fn chunked(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let Dims { images, positions, channels, groups } = self.dims(context);
        let vectors = channels / 4;
        let chunk = knobs.get("CHUNK");
        let chunks = positions.div_ceil(chunk);
        let moments = Launch::new("norm/chunked_moments")
            .bind("moments", Operand::Scratch(0))
            .param("images", images)
            .param("positions", positions)
            .param("vectors", vectors)
            .param("chunks", chunks)
            .param("chunk", chunk)
            .cover(images * chunks * vectors, 64);
        let combine = Launch::new("norm/chunked_combine")
            .bind("moments", Operand::Scratch(0))
            .bind("affine", Operand::Scratch(1))
            .constant("LANES", knobs.get("COMBINE_LANES"))
            .param("images", images)
            .param("groups", groups)
            .param("channels", channels)
            .param("positions", positions)
            .param("chunks", chunks)
            .param("chunk", chunk)
            .param_f32("eps", self.eps as f32)
            .cover(groups * images * knobs.get("COMBINE_LANES"), 64);
        let run = knobs.get("POSITIONS");
        let runs = positions.div_ceil(run);
        let apply = Launch::new("norm/chunked")
            .constant("POSITIONS", run)
            .bind("affine", Operand::Scratch(1))
            .param("images", images)
            .param("positions", positions)
            .param("vectors", vectors)
            .param("runs", runs)
            .cover(images * runs * vectors, 64);
        let scratch = [vec![images, chunks, 2, channels], vec![images, 2, channels]];
        let scratch = scratch.map(|shape| TensorDesc::f32(shape).into()).into();
        Lowered { launches: vec![moments, self.finish(combine, context, 1), self.activated(apply)], scratch }
    }

    /// The fewest groups whose channels are whole vectors together.
    fn slab_groups(channels: usize, groups: usize) -> usize {
        let of_one = channels / groups;
        [1, 2, 4].into_iter().find(|count| (count * of_one).is_multiple_of(4)).expect("four of any size are")
    }

    fn slab_legal(&self, context: &LowerContext<'_>) -> std::result::Result<(), String> {
        self.chunked_legal(context)?;
        let Dims { positions, channels, groups, .. } = self.dims(context);
        let count = Self::slab_groups(channels, groups);
        let vectors = count * (channels / groups) / 4;
        if !groups.is_multiple_of(count) {
            return Err("the groups at the end are no whole vectors".into());
        }
        if vectors > 64 {
            return Err(format!("needs groups of at most 256 channels, here they have {}", channels / groups));
        }
        context.can_loop(2 * positions.div_ceil(256 / vectors) + 8)
    }

    /// As many groups in a slab as make whole vectors, or more, for longer pieces of memory.
    fn slab_knobs(&self, context: &LowerContext<'_>) -> Vec<Knobs> {
        let Dims { channels, groups, .. } = self.dims(context);
        let least = Self::slab_groups(channels, groups);
        let fits =
            |count: &usize| *count <= 8 && groups.is_multiple_of(*count) && count * (channels / groups) / 4 <= 64;
        [1, 2, 4, 8].map(|times| times * least).into_iter().filter(fits).map(|n| Knobs::of([("GROUPS", n)])).collect()
    }

    fn slab(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let Dims { images, positions, channels, groups } = self.dims(context);
        let count = knobs.get("GROUPS");
        let launch = Launch::new("norm/slab")
            .flag("JOINED", context.joined.is_some())
            .bind("x_second", Operand::Second)
            .param("first_vectors", context.joined.unwrap_or(0) / 4)
            .constant("VECTORS", count * (channels / groups) / 4)
            .constant("GROUPS", count)
            .param("positions", positions)
            .param("vectors", channels / 4)
            .param("span", 1)
            .param_f32("eps", self.eps as f32)
            .workgroups(groups / count, images, 1);
        self.activated(self.finish(launch, context, 4)).into()
    }

    fn rows_legal(&self, context: &LowerContext<'_>) -> std::result::Result<(), String> {
        if matches!(self.kind, NormKind::Group { .. }) {
            return Err("it sums over a row, not over the positions of an image".into());
        }
        in_fours("channels", context.output.channels())
    }

    /// The constants and parameters that both row kernels share.
    fn row_launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        let launch = Launch::new(kernel)
            .param("rows", context.output.rows())
            .param("channels", context.output.channels())
            .param("span", self.span(context))
            .param_f32("eps", self.eps as f32);
        self.centered(self.activated(self.finish(launch, context, 4)))
    }
}

impl Operation for Norm {
    const NAME: &'static str = "norm";
    const ALIASES: &'static [&'static str] = &["group_norm", "layer_norm"];
    const INPUTS: &'static [&'static str] = &["x", "gamma", "beta", "modulation"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let channels = x.channels();
        if x.shape.is_empty() || x.elements() == 0 {
            return Err(Error::Shape(format!("x: expected [N, .., C], found shape {:?}", x.shape)));
        }
        if let NormKind::Group { groups } = self.kind {
            if x.shape.len() < 2 {
                return Err(Error::Shape(format!("x: expected [N, .., C], found shape {:?}", x.shape)));
            }
            if groups == 0 || !channels.is_multiple_of(groups) {
                return Err(Error::Shape(format!("{channels} channels cannot be divided into {groups} groups")));
            }
        }
        for position in [GAMMA, BETA] {
            if let Some(vector) = inputs.optional(position) {
                expect_shape(Self::INPUTS[position], &vector.shape, &[channels])?;
            }
        }
        match (inputs.optional(MODULATION), self.modulation) {
            (None, None) => {}
            (Some(modulation), Some(Modulation { scale, shift })) => {
                expect_float("modulation", modulation.dtype)?;
                let parts = 1 + scale.max(shift.unwrap_or(0));
                let (columns, rows) = (modulation.channels(), modulation.rows());
                let fits = columns.is_multiple_of(channels) && columns / channels >= parts;
                if modulation.shape.len() < 2 || !fits || (rows != x.shape[0] && rows != x.rows()) {
                    return Err(Error::Shape(format!(
                        "modulation: expected {} or {} rows of at least {parts} times {channels} columns, found {:?}",
                        x.shape[0],
                        x.rows(),
                        modulation.shape
                    )));
                }
            }
            (given, _) => {
                let (has, lacks) =
                    if given.is_some() { ("is", "no part of it is") } else { ("is not", "parts of it are") };
                return Err(Error::Shape(format!("modulation {has} given, but {lacks} named")));
            }
        }
        Ok(x.clone())
    }

    fn joins(&self, variant: &str, context: &LowerContext<'_>) -> bool {
        variant == "slab" && context.joined.is_some_and(|first| first.is_multiple_of(4))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        // Mean 1, variance 3, normalisation 4, modulation 3; an activation function about 10, as in `activation`.
        let modulation = inputs.optional(MODULATION).map_or(0, |_| 3);
        (8 + modulation + self.activation.map_or(0, |_| 10)) * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (x, gamma, beta) = (inputs.get(0), inputs.optional(GAMMA), inputs.optional(BETA));
        let mut y = match self.kind {
            NormKind::Group { groups } => reference::group_norm(x, gamma, beta, groups, self.eps),
            NormKind::Layer => reference::layer_norm(x, gamma, beta, self.eps),
            NormKind::Rms => reference::rms_norm(x, gamma, beta, self.eps),
        };
        if let (Some(of), Some(m)) = (inputs.optional(MODULATION), self.modulation) {
            y = reference::modulate(&y, of, m.scale, m.shift);
        }
        match self.activation {
            Some(kind) => reference::activation(&y, kind.reference()),
            None => y,
        }
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        gradient::of(self, back)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "slab",
                family: Family::Gpu,
                legal: Self::slab_legal,
                knobs: Self::slab_knobs,
                lower: Self::slab,
            },
            Variant {
                name: "chunked",
                family: Family::Any,
                legal: Self::chunked_legal,
                knobs: |_, _| Self::chunked_knobs(),
                lower: Self::chunked,
            },
            Variant {
                name: "workgroup",
                family: Family::Gpu,
                legal: Self::rows_legal,
                knobs: |_, _| row_lanes(),
                lower: |op, context, knobs| {
                    let lanes = knobs.get("ROW_LANES");
                    op.row_launch("norm/workgroup", context)
                        .constant("ROW_LANES", lanes)
                        .cover(context.output.rows() * lanes, 64)
                        .into()
                },
            },
            Variant {
                name: "rows",
                family: Family::Cpu,
                legal: |op, context| {
                    op.rows_legal(context)?;
                    context.can_loop(3 * context.output.channels() / 4) // three loops over a row
                },
                knobs: no_knobs,
                lower: |op, context, _| op.row_launch("norm/rows", context).cover(context.output.rows(), 8).into(),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |op, context| {
                    let Dims { positions, channels, groups, .. } = op.dims(context);
                    let values = positions * channels / groups;
                    context.can_loop(2 * (values + values.div_ceil(256))) // two loops over a group, in blocks of 256
                },
                knobs: no_knobs,
                lower: |op, context, _| op.naive(context),
            },
        ]
    }

    fn alias(&self) -> Option<&'static str> {
        match self.kind {
            NormKind::Group { .. } => Some("group_norm"),
            NormKind::Layer => Some("layer_norm"),
            NormKind::Rms => None,
        }
    }

    fn attributes(&self) -> String {
        let mut text = match self.kind {
            NormKind::Group { groups } => format!("group groups={groups}"),
            NormKind::Layer => "layer".into(),
            NormKind::Rms => "rms".into(),
        };
        text += &format!(" eps={:e}", self.eps);
        if let Some(Modulation { scale, shift }) = self.modulation {
            text += &format!(" scale={scale}");
            text += &shift.map_or(String::new(), |shift| format!(" shift={shift}"));
        }
        text + &self.activation.map_or(String::new(), |a| format!(" {}", a.name()))
    }

    fn cases() -> Vec<Case> {
        cases::all()
    }
}

impl Graph {
    /// Normalisation of `x [N, .., C]`; see [`Norm`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the groups do not divide C, an input has another size, or only one of `modulation` and its
    /// parts in `op` is given.
    pub fn norm(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        [gamma, beta]: [Option<ValueId>; 2],
        modulation: Option<ValueId>,
        op: Norm,
    ) -> Result<ValueId> {
        self.push(name, op, &[Some(x), gamma, beta, modulation])
    }
}
