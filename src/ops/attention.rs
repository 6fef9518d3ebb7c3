//! Scaled dot-product attention.

mod cases;
mod lower;

use super::attention_gradient::AttentionGradient;
use super::attention_statistics::AttentionStatistics;
use super::binary::broadcast_shape;
use super::{Backward, Case, Family, Inputs, LowerContext, Operation, Variant, expect_float, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference::{self, AttentionSide};
use crate::tensor::HostTensor;

/// How queries, keys and values are stored. C is the number of channels of all heads, K that of the key heads: K = C,
/// or less where heads share keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Three tensors: `q [N, T, C]`, `k [N, S, K]`, `v [N, S, K]`.
    #[default]
    Separate,
    /// One tensor `q [N, T, C + 2K]` whose rows hold query, key and value one after another.
    Qkv,
    /// `q [N, T, C]` and `k [N, S, 2K]` whose rows hold key and value one after another.
    Kv,
}

/// `y[n, t, h·D + d] = Σ_s p[t, s] · v[n, s, g·D + d]`,
/// `p[t, ·] = softmax_s(scale · q[n, t, h·D..] · k[n, s, g·D..] + bias[n, h, t, s])`, g = h, or the key head that h
/// shares. Vaswani et al. 2017, "Attention Is All You Need", section 3.2; Ainslie et al. 2023, "GQA".
///
/// Inputs as [`Packing`] says; every tensor may have several middle dimensions, e.g. `[N, H, W, C]`, which count as one
/// of length T or S. The shape of `bias`? broadcasts to `[N, heads, T, S]` by numpy's rules. `mask [N or 1, S]`? is 0
/// for keys that no query sees. A query that sees no key gets zeros. Output: the shape of `q` with C channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Number of heads; divides C. Head h owns the channels h·D .. (h+1)·D with D = C / heads.
    pub heads: usize,
    /// Number of key and value heads, each shared by heads / kv_heads neighbouring heads; `None`: as many as heads.
    pub kv_heads: Option<usize>,
    /// Query t sees only the keys s ≤ t; requires T = S.
    pub causal: bool,
    /// Factor on the dot products; 1/√D if absent.
    pub scale: Option<f64>,
    /// How the inputs are stored.
    pub packing: Packing,
}

impl Default for Attention {
    fn default() -> Self {
        Self { heads: 1, kv_heads: None, causal: false, scale: None, packing: Packing::Separate }
    }
}

/// Positions of the inputs besides queries, keys and values.
const BIAS: usize = 3;
const MASK: usize = 4;

/// Sizes of an instance.
#[derive(Clone, Copy)]
struct Dims {
    images: usize,
    queries: usize,
    keys: usize,
    channels: usize,
    head_dim: usize,
}

impl Attention {
    /// Positions of the inputs that hold the keys and the values.
    fn sources(&self) -> (usize, usize) {
        match self.packing {
            Packing::Separate => (1, 2),
            Packing::Qkv => (0, 0),
            Packing::Kv => (1, 1),
        }
    }

    fn dims(&self, context: &LowerContext<'_>) -> Dims {
        let (y, k) = (context.output, context.input(self.sources().0));
        let images = y.shape[0];
        let channels = y.channels();
        Dims { images, queries: y.rows() / images, keys: k.rows() / images, channels, head_dim: channels / self.heads }
    }

    fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    fn scale(&self, head_dim: usize) -> f64 {
        self.scale.unwrap_or(1.0 / (head_dim as f64).sqrt())
    }

    /// Channels of a head: what tiles and registers depend on.
    pub(crate) fn head_dim(&self, context: &LowerContext<'_>) -> usize {
        self.dims(context).head_dim
    }
}

impl Attention {
    /// Queries, keys and values as separate tensors, and the reference's options.
    fn parts<'a>(
        &self,
        inputs: Inputs<'a, HostTensor>,
    ) -> (HostTensor, HostTensor, HostTensor, reference::AttentionOptions<'a>) {
        let (q, kv_heads) = (inputs.get(0), self.kv_heads());
        let width = q.shape[q.shape.len() - 1];
        let in_row = if self.packing == Packing::Qkv { self.heads + 2 * kv_heads } else { self.heads };
        let head_dim = width / in_row;
        let (c, k) = (self.heads * head_dim, kv_heads * head_dim);
        let part = reference::slice_columns;
        let (q, k, v) = match self.packing {
            Packing::Separate => (q.clone(), inputs.get(1).clone(), inputs.get(2).clone()),
            Packing::Qkv => (part(q, 0, c), part(q, c, k), part(q, c + k, k)),
            Packing::Kv => (q.clone(), part(inputs.get(1), 0, k), part(inputs.get(1), k, k)),
        };
        let options = reference::AttentionOptions {
            kv_heads,
            causal: self.causal,
            scale: self.scale(head_dim),
            bias: inputs.optional(BIAS),
            mask: inputs.optional(MASK),
        };
        (q, k, v, options)
    }
}

impl Operation for Attention {
    const NAME: &'static str = "attention";
    const INPUTS: &'static [&'static str] = &["q", "k", "v", "bias", "mask"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let q = inputs.required(0)?;
        expect_float("q", q.dtype)?;
        let kv_heads = self.kv_heads();
        if kv_heads == 0 || !self.heads.is_multiple_of(kv_heads) {
            return Err(Error::Shape(format!("{} heads cannot share {kv_heads} heads of keys", self.heads)));
        }
        // Heads in a row of q; those of the queries come first.
        let in_row = if self.packing == Packing::Qkv { self.heads + 2 * kv_heads } else { self.heads };
        if q.shape.len() < 3 || q.elements() == 0 {
            return Err(Error::Shape(format!(
                "q: expected [N, T, C], or [N, T, C + 2K] where it holds keys and values too, found {:?}",
                q.shape
            )));
        }
        if !q.channels().is_multiple_of(in_row) {
            return Err(Error::Shape(format!("{} channels cannot be divided into {in_row} heads", q.channels())));
        }
        let head_dim = q.channels() / in_row;
        let channels = head_dim * self.heads;
        let (images, queries) = (q.shape[0], q.rows() / q.shape[0]);
        let mut keys = queries;
        let expected: &[usize] = match self.packing {
            Packing::Separate => &[1, 1],
            Packing::Qkv => &[],
            Packing::Kv => &[2],
        };
        for (position, name) in Self::INPUTS.iter().enumerate().take(BIAS).skip(1) {
            let Some(parts) = expected.get(position - 1) else {
                if inputs.optional(position).is_some() {
                    return Err(Error::Shape(format!(
                        "{name}: must be absent, another input holds it with packing {:?}",
                        self.packing
                    )));
                }
                continue;
            };
            let input = inputs.required(position)?;
            expect_float(name, input.dtype)?;
            if input.shape.len() < 3
                || input.elements() == 0
                || input.shape[0] != images
                || input.channels() != parts * head_dim * kv_heads
            {
                return Err(Error::Shape(format!(
                    "{name}: expected [{images}, S, {}], found {:?}",
                    parts * head_dim * kv_heads,
                    input.shape
                )));
            }
            let rows = input.rows() / images;
            if position == 2 && rows != keys {
                return Err(Error::Shape(format!("v has {rows} positions, k has {keys}")));
            }
            keys = rows;
        }
        if self.causal && keys != queries {
            return Err(Error::Shape(format!(
                "causal attention needs as many keys as queries, found {keys} and {queries}"
            )));
        }
        if let Some(bias) = inputs.optional(BIAS) {
            expect_float("bias", bias.dtype)?;
            let scores = [images, self.heads, queries, keys];
            if broadcast_shape(&scores, &bias.shape).as_deref() != Some(&scores[..]) {
                return Err(Error::Shape(format!("bias {:?} does not broadcast to {scores:?}", bias.shape)));
            }
        }
        if let Some(mask) = inputs.optional(MASK) {
            expect_float("mask", mask.dtype)?;
            if mask.shape != [images, keys] && mask.shape != [1, keys] {
                return Err(Error::Shape(format!("mask: expected [{images} or 1, {keys}], found {:?}", mask.shape)));
            }
        }
        let mut shape = q.shape.clone();
        *shape.last_mut().expect("checked above") = channels;
        Ok(q.with_shape(shape))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        let images = output.shape[0];
        let queries = output.rows() / images;
        let keys = inputs.get(self.sources().0).rows() / images;
        let pairs = if self.causal { queries * (queries + 1) / 2 } else { queries * keys };
        (4 * images * output.channels()).saturating_mul(pairs) as u64 // q · k and p · v
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (q, k, v, options) = self.parts(inputs);
        reference::attention(&q, &k, &v, self.heads, &options)
    }

    fn reference_at(&self, inputs: Inputs<'_, HostTensor>, elements: &[usize]) -> Option<Vec<f32>> {
        let (q, k, v, options) = self.parts(inputs);
        Some(reference::attention_at(&q, &k, &v, self.heads, &options, elements))
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        if self.packing != Packing::Separate || self.kv_heads() != self.heads {
            return back.refuse("packed inputs or shared heads: differentiate before the passes run");
        }
        if back.has(BIAS) || back.has(MASK) {
            return back.refuse("attention with a bias or a mask");
        }
        let [q, k, v] = [back.input(0)?, back.input(1)?, back.input(2)?];
        let attended = back.output()?;
        let shape = back.shape(0);
        let (heads, scale) = (self.heads, self.scale(shape[shape.len() - 1] / self.heads));
        let statistics = AttentionStatistics { heads, scale, causal: self.causal };
        let (name, dy) = (back.name("statistics"), back.dy);
        let statistics = back.graph.push(name, statistics, &[q, k, attended, dy].map(Some))?;
        let mut gradients = vec![None; 5];
        for (position, side) in [AttentionSide::Query, AttentionSide::Key, AttentionSide::Value].into_iter().enumerate()
        {
            if back.wants(position) {
                let gradient = AttentionGradient { side, heads, scale, causal: self.causal };
                let name = back.name(Self::INPUTS[position]);
                gradients[position] = Some(back.graph.push(name, gradient, &[q, k, v, dy, statistics].map(Some))?);
            }
        }
        Ok(gradients)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "matrix",
                family: Family::Gpu,
                legal: lower::matrix_legal,
                knobs: lower::matrix_knobs,
                lower: Self::matrix,
            },
            Variant {
                name: "flash",
                family: Family::Gpu,
                legal: lower::flash_legal,
                knobs: lower::flash_knobs,
                lower: Self::flash,
            },
            Variant {
                name: "shuffle",
                family: Family::Cpu,
                legal: lower::shuffle_legal,
                knobs: lower::shuffle_knobs,
                lower: Self::shuffle,
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |op, context| {
                    let Dims { keys, head_dim, .. } = op.dims(context);
                    // The most heads that four elements can lie in. For each, two loops over the keys, one score per
                    // round.
                    let heads = if head_dim.is_multiple_of(4) { 1 } else { 1 + 3usize.div_ceil(head_dim) };
                    context.can_loop(heads * (keys * (2 * head_dim + 2 + 4) + 1))
                },
                knobs: no_knobs,
                lower: |op, context, _| op.naive(context),
            },
        ]
    }

    fn attributes(&self) -> String {
        let mut text = format!("heads={}", self.heads);
        if let Some(kv_heads) = self.kv_heads {
            text.push_str(&format!(" kv_heads={kv_heads}"));
        }
        if self.causal {
            text.push_str(" causal");
        }
        if let Some(scale) = self.scale {
            text.push_str(&format!(" scale={scale}"));
        }
        match self.packing {
            Packing::Separate => {}
            Packing::Qkv => text.push_str(" qkv"),
            Packing::Kv => text.push_str(" kv"),
        }
        text
    }

    fn cases() -> Vec<Case> {
        cases::all()
    }
}

impl Graph {
    /// Attention of the queries `q` over keys and values, given as [`Packing`] says.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not agree, or an input is missing or superfluous.
    pub fn attention(
        &mut self,
        name: impl Into<String>,
        q: ValueId,
        k: Option<ValueId>,
        v: Option<ValueId>,
        op: Attention,
    ) -> Result<ValueId> {
        self.masked_attention(name, [Some(q), k, v], None, None, op)
    }

    /// As [`Graph::attention`], with a bias added to the scores and a mask over the keys; see [`Attention`].
    ///
    /// # Errors
    /// As [`Graph::attention`].
    pub fn masked_attention(
        &mut self,
        name: impl Into<String>,
        [q, k, v]: [Option<ValueId>; 3],
        bias: Option<ValueId>,
        mask: Option<ValueId>,
        op: Attention,
    ) -> Result<ValueId> {
        self.push(name, op, &[q, k, v, bias, mask])
    }
}
