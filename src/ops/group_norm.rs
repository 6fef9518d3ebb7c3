//! Normalisation over groups of channels, with an activation function applied to the result.

use super::activation::{self, ActivationKind};
use super::{
    Case, CaseInput, Family, Fill, Inputs, Knobs, Launch, LowerContext, Lowered, Operand, Operation, Variant,
    expect_float, expect_shape, in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = f((x − mean) / √(variance + eps) · gamma + beta)`, mean and biased variance over all positions and the channels
/// of a group. Wu and He 2018, "Group Normalization".
///
/// Inputs: `x [N, .., C]`, `gamma [C]`, `beta [C]`; output as `x`. Group g owns the channels g·C/groups ..
/// (g+1)·C/groups.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Applied to the result.
    pub activation: Option<ActivationKind>,
}

/// Images, positions in each, channels.
fn dims(context: &LowerContext<'_>) -> (usize, usize, usize) {
    let x = context.output;
    (x.shape[0], x.rows() / x.shape[0].max(1), x.channels())
}

impl GroupNorm {
    fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let (n, positions, channels) = dims(context);
        let statistics = Launch::new("group_norm/naive_statistics")
            .bind("statistics", Operand::Scratch(0))
            .param("images", n)
            .param("positions", positions)
            .param("channels", channels)
            .param("groups", self.groups)
            .param_f32("eps", self.eps as f32)
            .cover(n * self.groups, 64);
        let apply = Launch::new("group_norm/naive")
            .constant("ACTIVATION", self.activation.map_or(activation::NONE, ActivationKind::code))
            .bind("statistics", Operand::Scratch(0))
            .param("elements", context.output.elements())
            .param("positions", positions)
            .param("channels", channels)
            .param("groups", self.groups)
            .cover(context.output.elements().div_ceil(4), 64);
        Lowered { launches: vec![statistics, apply], scratch: vec![TensorDesc::f32([n, self.groups, 2])] }
    }
}

impl GroupNorm {
    /// Chunks whose moments are summed by one invocation may be any number of positions long; beyond 256, rounding costs
    /// more than the header's error bound allows.
    fn chunked_knobs() -> Vec<Knobs> {
        let chunks: Vec<usize> = (1..=16).map(|i| 16 * i).collect();
        Knobs::combinations(&[("CHUNK", &chunks), ("POSITIONS", &[1, 2, 4, 8, 16])])
    }

    fn chunked(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let (n, positions, channels) = dims(context);
        let vectors = channels / 4;
        let chunk = knobs.get("CHUNK");
        let chunks = positions.div_ceil(chunk);
        let moments = Launch::new("group_norm/chunked_moments")
            .bind("moments", Operand::Scratch(0))
            .param("images", n)
            .param("positions", positions)
            .param("vectors", vectors)
            .param("chunks", chunks)
            .param("chunk", chunk)
            .cover(n * chunks * vectors, 64);
        let combine = Launch::new("group_norm/chunked_combine")
            .bind("moments", Operand::Scratch(0))
            .bind("affine", Operand::Scratch(1))
            .param("groups", self.groups)
            .param("channels", channels)
            .param("positions", positions)
            .param("chunks", chunks)
            .param("chunk", chunk)
            .param_f32("eps", self.eps as f32)
            .workgroups(self.groups, n, 1);
        let run = knobs.get("POSITIONS");
        let runs = positions.div_ceil(run);
        let apply = Launch::new("group_norm/chunked")
            .constant("ACTIVATION", self.activation.map_or(activation::NONE, ActivationKind::code))
            .constant("POSITIONS", run)
            .bind("affine", Operand::Scratch(1))
            .param("images", n)
            .param("positions", positions)
            .param("vectors", vectors)
            .param("runs", runs)
            .cover(n * runs * vectors, 64);
        let scratch = vec![TensorDesc::f32([n, chunks, 2, channels]), TensorDesc::f32([n, 2, channels])];
        Lowered { launches: vec![moments, combine, apply], scratch }
    }
}

impl Operation for GroupNorm {
    const NAME: &'static str = "group_norm";
    const INPUTS: &'static [&'static str] = &["x", "gamma", "beta"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let channels = x.channels();
        if x.shape.len() < 2 || x.elements() == 0 {
            return Err(Error::Shape(format!("x: expected [N, .., C], found shape {:?}", x.shape)));
        }
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            return Err(Error::Shape(format!("{channels} channels cannot be divided into {} groups", self.groups)));
        }
        expect_shape("gamma", &inputs.required(1)?.shape, &[channels])?;
        expect_shape("beta", &inputs.required(2)?.shape, &[channels])?;
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        // Mean 1, variance 3, normalisation 4; an activation function about 10, as in `activation`.
        (8 + self.activation.map_or(0, |_| 10)) * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::group_norm(
            inputs.get(0),
            inputs.get(1),
            inputs.get(2),
            self.groups,
            self.eps,
            self.activation.map(ActivationKind::reference),
        )
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "chunked",
                family: Family::Any,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: |_, _| Self::chunked_knobs(),
                lower: Self::chunked,
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| op.naive(context),
            },
        ]
    }

    fn attributes(&self) -> String {
        let activation = self.activation.map_or(String::new(), |a| format!(" {}", a.name()));
        format!("groups={} eps={:e}{activation}", self.groups, self.eps)
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], groups, eps, activation, fill| {
            let channels = shape[shape.len() - 1];
            let x = CaseInput { desc: TensorDesc::f32(shape), fill, always_f32: false };
            let inputs = vec![
                Some(x),
                CaseInput::f32([channels], Fill::Uniform(0.4, 1.7)),
                CaseInput::f32([channels], Fill::Normal),
            ];
            Case::new(label, GroupNorm { groups, eps, activation }, inputs)
        };
        let silu = Some(ActivationKind::Silu);
        vec![
            case("groups of 10 channels, silu", &[2, 5, 7, 40], 4, 1e-5, silu, Fill::Normal),
            case("groups of 3 channels", &[3, 7, 4, 15], 5, 1e-6, None, Fill::Normal),
            case("one channel a group", &[2, 3, 5, 12], 12, 1e-5, Some(ActivationKind::Gelu), Fill::Normal),
            case("one group, tokens", &[2, 33, 20], 1, 1e-5, None, Fill::Normal),
            case("one position", &[3, 24], 3, 1e-5, silu, Fill::Normal),
            case("eps larger than the variance", &[2, 4, 3, 8], 2, 1e-2, None, Fill::Uniform(-1e-2, 1e-2)),
            case("chunks exactly", &[1, 16, 16, 64], 8, 1e-6, silu, Fill::Uniform(-1.0, 3.0)),
            // Sums of more than 10 000 values.
            case("a long reduction", &[2, 31, 67, 32], 4, 1e-5, silu, Fill::Uniform(-1.0, 3.0)).tolerance(1e-4),
            // The mean is 170 times the deviation: rounding the mean alone to f32 moves the result by up to 170 · 2⁻²⁴
            // = 1e-5.
            case("mean far from zero", &[2, 13, 9, 16], 4, 1e-5, None, Fill::Uniform(99.0, 101.0)).tolerance(1e-4),
        ]
    }
}

impl Graph {
    /// Group normalisation of `x [N, .., C]` with `gamma [C]` and `beta [C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the groups do not divide C or a parameter has another length.
    pub fn group_norm(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        gamma: ValueId,
        beta: ValueId,
        op: GroupNorm,
    ) -> Result<ValueId> {
        self.push(name, op, &[Some(x), Some(gamma), Some(beta)])
    }
}
