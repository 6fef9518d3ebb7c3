//! Sums of attention's scores, and of what is passed back through them: what its gradients need to know of a query.

use super::{Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, expect_float};
use super::{expect_shape, in_fours, lower::nested, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// Of each query and head: `L = ln Σ_s exp(scale · q · k_s)` over the keys that it sees, and `D = dy · attended`, which
/// is `Σ_s p_s (dy · v_s)`. Dao et al. 2022, "FlashAttention", appendix B.
///
/// Inputs: `q [N, .., C]`, `k [N, .., C]`, `attended` (the attention's result) and `dy` as `q`; output f32
/// `[N, T, heads, 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionStatistics {
    /// Number of heads; divides C.
    pub heads: usize,
    /// Factor on the dot products.
    pub scale: f64,
    /// Query t sees only the keys s ≤ t.
    pub causal: bool,
}

impl AttentionStatistics {
    fn keys(&self, context: &LowerContext<'_>) -> usize {
        context.input(1).rows() / context.input(1).shape[0]
    }

    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        let q = context.input(0);
        let rows = q.rows() * self.heads;
        Launch::new(kernel)
            .flag("CAUSAL", self.causal)
            .param("rows", rows)
            .param("queries", q.rows() / q.shape[0])
            .param("keys", self.keys(context))
            .param("heads", self.heads)
            .param_f32("scale", self.scale as f32)
            .cover(rows, 64)
    }
}

/// Checks `q` and `k`: heads that divide the channels, images and channels that agree.
pub(super) fn check(q: &TensorDesc, k: &TensorDesc, heads: usize) -> Result<()> {
    expect_float("q", q.dtype)?;
    expect_float("k", k.dtype)?;
    let fits = q.shape.len() >= 3 && k.shape.len() >= 3 && q.shape[0] == k.shape[0] && q.channels() == k.channels();
    if !fits || heads == 0 || !q.channels().is_multiple_of(heads) || q.elements() == 0 || k.elements() == 0 {
        return Err(Error::Shape(format!(
            "q {:?} and k {:?}: expected [N, .., C] of one N and C, in {heads} heads",
            q.shape, k.shape
        )));
    }
    Ok(())
}

impl Operation for AttentionStatistics {
    const NAME: &'static str = "attention_statistics";
    const INPUTS: &'static [&'static str] = &["q", "k", "attended", "dy"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (q, k) = (inputs.required(0)?, inputs.required(1)?);
        check(q, k, self.heads)?;
        for (position, name) in [(2, "attended"), (3, "dy")] {
            let input = inputs.required(position)?;
            expect_float(name, input.dtype)?;
            expect_shape(name, &input.shape, &q.shape)?;
        }
        Ok(TensorDesc::f32([q.shape[0], q.rows() / q.shape[0], self.heads, 2]))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        let (q, k) = (inputs.get(0), inputs.get(1));
        (2 * q.elements() as u64).saturating_mul((k.rows() / k.shape[0]) as u64)
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::attention_statistics([0, 1, 2, 3].map(|i| inputs.get(i)), self.heads, self.scale, self.causal)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "rows",
                family: Family::Any,
                legal: |op, context| {
                    let head_dim = context.input(0).channels() / op.heads;
                    in_fours("head_dim", head_dim)?;
                    if head_dim > 128 {
                        return Err(format!("needs a head_dim of at most 128, here it is {head_dim}"));
                    }
                    context.can_loop(nested(&[op.keys(context), head_dim / 4]) + head_dim)
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let vectors = context.input(0).channels() / op.heads / 4;
                    op.launch("attention_statistics/rows", context).constant("HEAD_VECTORS", vectors).into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |op, context| {
                    let head_dim = context.input(0).channels() / op.heads;
                    context.can_loop(nested(&[op.keys(context), head_dim]) + head_dim + 1)
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let head_dim = context.input(0).channels() / op.heads;
                    op.launch("attention_statistics/naive", context).param("head_dim", head_dim).into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        format!("heads={}{}", self.heads, if self.causal { " causal" } else { "" })
    }

    fn cases() -> Vec<Case> {
        let case = |label, heads, causal, [n, t, s, c]: [usize; 4]| {
            let query = || CaseInput::normal([n, t, c]);
            let op = AttentionStatistics { heads, scale: 1.0 / ((c / heads) as f64).sqrt(), causal };
            Case::new(label, op, vec![query(), CaseInput::normal([n, s, c]), query(), query()])
        };
        vec![
            case("two heads of 5", 2, false, [2, 11, 7, 10]),
            case("three heads of 8, causal", 3, true, [2, 37, 37, 24]),
            case("one head of 64", 1, false, [1, 65, 33, 64]),
            case("two whole workgroups", 2, false, [2, 32, 9, 8]),
        ]
    }
}
