//! What attention passes back.

use super::attention_statistics::check;
use super::sum::in_parts;
use super::{Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Lowered, Operation, Variant};
use super::{expect_float, expect_shape, in_fours, lower::nested, no_knobs, small_subgroups};
use crate::error::Result;
use crate::graph::TensorDesc;
use crate::reference::{self, AttentionSide};
use crate::tensor::HostTensor;

/// The gradient of an attention with respect to its queries, keys or values. With
/// `w = exp(scale · q_t · k_s − L_t)` and `u = scale · w · (dy_t · v_s − D_t)`: `dq_t = Σ_s u k_s`,
/// `dk_s = Σ_t u q_t`, `dv_s = Σ_t w dy_t`. Dao et al. 2022, "FlashAttention", algorithm 4.
///
/// Inputs: `q [N, .., C]`, `k` and `v [N, .., C]`, `dy` as `q`, `statistics [N, T, heads, 2]`
/// ([`super::attention_statistics::AttentionStatistics`]); output as the input that it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradient {
    /// Which input it belongs to.
    pub side: AttentionSide,
    /// Number of heads; divides C.
    pub heads: usize,
    /// Factor on the dot products.
    pub scale: f64,
    /// Query t sees only the keys s ≤ t.
    pub causal: bool,
}

/// Positions of a part, where rows are summed in parts.
const LENGTH: usize = 256;

/// Rows of heads that fill a GPU.
const MANY_ROWS: usize = 8192;

impl AttentionGradient {
    /// Position of the input that the gradient belongs to.
    fn own(&self) -> usize {
        self.side as usize
    }

    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        let (q, k) = (context.input(0), context.input(1));
        Launch::new(kernel)
            .flag("CAUSAL", self.causal)
            .constant("OF", self.own())
            .param("queries", q.rows() / q.shape[0])
            .param("keys", k.rows() / k.shape[0])
            .param("heads", self.heads)
            .param_f32("scale", self.scale as f32)
    }

    /// Positions that one invocation sums over: all, unless there are many and too few rows to fill a GPU, or
    /// the driver ends long loops.
    fn length(&self, context: &LowerContext<'_>) -> usize {
        let (rows, others) = (context.output.rows() * self.heads, self.others(context));
        let rounds = nested(&[others, self.head_dim(context) / 2 + 1]);
        let whole = others <= LENGTH || rows >= MANY_ROWS && context.can_loop(rounds).is_ok();
        if whole { others } else { LENGTH }
    }

    /// A row for each invocation, or a part of one and their sum.
    fn rows(&self, context: &LowerContext<'_>) -> Lowered {
        let (rows, [parts, length]) = (context.output.rows() * self.heads, self.parts(context));
        let launch = self
            .launch("attention_gradient/rows", context)
            .constant("HEAD_VECTORS", self.head_dim(context) / 4)
            .param("rows", rows)
            .param("parts", parts)
            .param("length", length)
            .cover(rows * parts, 64);
        in_parts(launch, parts, context.output.elements())
    }

    /// A row for each lane of a subgroup, or a part of one and their sum.
    fn shuffle(&self, context: &LowerContext<'_>) -> Lowered {
        let lanes = small_subgroups(context.caps).expect("`legal` was asked first");
        let (y, [parts, length]) = (context.output, self.parts(context));
        let blocks = (y.rows() / y.shape[0]).div_ceil(lanes);
        let launch = self
            .launch("attention_gradient/shuffle", context)
            .constant("HEAD_VECTORS", self.head_dim(context) / 4)
            .constant("LANES", lanes)
            .param("rows", y.rows() * self.heads)
            .param("length", length)
            .workgroups(self.heads, y.shape[0] * blocks, parts);
        in_parts(launch, parts, context.output.elements())
    }

    /// Channels of a head.
    fn head_dim(&self, context: &LowerContext<'_>) -> usize {
        context.output.channels() / self.heads
    }

    /// Vectors of four channels in a head, for kernels that keep all of them in registers.
    fn vectors(&self, context: &LowerContext<'_>) -> std::result::Result<usize, String> {
        let head_dim = self.head_dim(context);
        in_fours("head_dim", head_dim)?;
        if head_dim > 128 {
            return Err(format!("needs a head_dim of at most 128, here it is {head_dim}"));
        }
        Ok(head_dim / 4)
    }

    /// How many parts each sum has, and of how many positions.
    fn parts(&self, context: &LowerContext<'_>) -> [usize; 2] {
        let length = self.length(context);
        [self.others(context).div_ceil(length), length]
    }

    /// Positions that a row of the gradient sums over.
    fn others(&self, context: &LowerContext<'_>) -> usize {
        let other = context.input(if self.side == AttentionSide::Query { 1 } else { 0 });
        other.rows() / other.shape[0]
    }
}

impl Operation for AttentionGradient {
    const NAME: &'static str = "attention_gradient";
    const INPUTS: &'static [&'static str] = &["q", "k", "v", "dy", "statistics"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (q, k, v, dy) = (inputs.required(0)?, inputs.required(1)?, inputs.required(2)?, inputs.required(3)?);
        check(q, k, self.heads)?;
        expect_float("v", v.dtype)?;
        expect_shape("v", &v.shape, &k.shape)?;
        expect_float("dy", dy.dtype)?;
        expect_shape("dy", &dy.shape, &q.shape)?;
        expect_shape("statistics", &inputs.required(4)?.shape, &[q.shape[0], q.rows() / q.shape[0], self.heads, 2])?;
        Ok(dy.with_shape(inputs.required(self.own())?.shape.clone()))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        let (q, k) = (inputs.get(0), inputs.get(1));
        let products = if self.side == AttentionSide::Value { 4 } else { 6 };
        (products * q.elements() as u64).saturating_mul((k.rows() / k.shape[0]) as u64)
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let tensors = [0, 1, 2, 3].map(|i| inputs.get(i));
        reference::attention_gradient(self.side, tensors, inputs.get(4), self.heads, self.scale, self.causal)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "shuffle",
                family: Family::Cpu,
                legal: |op, context| {
                    op.vectors(context)?;
                    let lanes = small_subgroups(context.caps)?;
                    context.can_loop(op.length(context).div_ceil(lanes))
                },
                knobs: no_knobs,
                lower: |op, context, _| op.shuffle(context),
            },
            Variant {
                name: "rows",
                family: Family::Any,
                legal: |op, context| {
                    let vectors = op.vectors(context)?;
                    context.can_loop(nested(&[op.length(context) + 1, 2 * vectors + 1]))
                },
                knobs: no_knobs,
                lower: |op, context, _| op.rows(context),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |op, context| {
                    let head_dim = op.head_dim(context);
                    context.can_loop(nested(&[4, op.others(context), head_dim]))
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let elements = context.output.elements();
                    op.launch("attention_gradient/naive", context)
                        .param("elements", elements)
                        .param("head_dim", op.head_dim(context))
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        let of = ["query", "key", "value"][self.own()];
        format!("{of} heads={}{}", self.heads, if self.causal { " causal" } else { "" })
    }

    fn cases() -> Vec<Case> {
        let case = |label, side, heads, causal, [n, t, s, c]: [usize; 4]| {
            let scale = 1.0 / ((c / heads) as f64).sqrt();
            let [query, key] = [t, s].map(|rows| move || CaseInput::normal([n, rows, c]));
            // L near the scores' log-sum, so that the weights are neither 0 nor beyond f16.
            let statistics = CaseInput::f32([n, t, heads, 2], Fill::Uniform(2.0, 3.0));
            let op = AttentionGradient { side, heads, scale, causal };
            Case::new(label, op, vec![query(), key(), key(), query(), statistics])
        };
        use AttentionSide::{Key, Query, Value};
        vec![
            case("queries, two heads of 5", Query, 2, false, [2, 11, 7, 10]),
            case("keys, two heads of 5", Key, 2, false, [2, 11, 7, 10]),
            case("values, two heads of 5", Value, 2, false, [2, 11, 7, 10]),
            case("queries, three heads of 8, causal", Query, 3, true, [2, 23, 23, 24]),
            case("keys, three heads of 8, causal", Key, 3, true, [2, 23, 23, 24]),
            case("values, three heads of 8, causal", Value, 3, true, [2, 23, 23, 24]),
            case("queries, one head of 64", Query, 1, false, [1, 65, 33, 64]),
            case("keys, one head of 64", Key, 1, false, [1, 65, 33, 64]),
            case("values, one head of 64", Value, 1, false, [1, 65, 33, 64]),
            case("queries over keys in three parts", Query, 2, false, [1, 3, 515, 8]),
            case("keys over queries in two parts, causal", Key, 1, true, [2, 301, 301, 12]),
            case("values over queries in three parts", Value, 2, false, [1, 600, 5, 16]),
            case("values, a few positions, causal", Value, 2, true, [3, 7, 7, 8]),
            case("queries, two whole workgroups", Query, 2, false, [2, 32, 9, 8]),
            case("keys, 8 x 8 pixels of 96 channels", Key, 3, false, [16, 64, 64, 96]).perf(),
        ]
    }
}
