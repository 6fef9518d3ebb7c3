//! Scaled dot-product attention.

mod cases;

use super::binary::broadcast_shape;
use super::{
    Case, Family, Inputs, Knobs, Launch, LowerContext, Lowered, Operand, Operation, Variant, expect_float, in_fours,
    no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{HostTensor, strides as strides_of};

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

    /// The bindings, constants and parameters that all variants share. Strides and offsets count elements.
    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        let dims = self.dims(context);
        let (c, k) = (dims.channels, dims.head_dim * self.kv_heads());
        let all = c + 2 * k;
        let (q_stride, k_stride, v_stride, k_offset, v_offset) = match self.packing {
            Packing::Separate => (c, k, k, 0, 0),
            Packing::Qkv => (all, all, all, c, c + k),
            Packing::Kv => (c, 2 * k, 2 * k, 0, k),
        };
        let (k, v) = self.sources();
        let bias = context.inputs[BIAS].map_or([0; 4], |bias| bias_strides(&bias.shape));
        let mask_image = context.inputs[MASK].map_or(0, |mask| if mask.shape[0] == 1 { 0 } else { dims.keys });
        Launch::new(kernel)
            .bind("k", Operand::Input(k))
            .bind("v", Operand::Input(v))
            .flag("CAUSAL", self.causal)
            .flag("HAS_BIAS", context.has(BIAS))
            .flag("HAS_MASK", context.has(MASK))
            .param("queries", dims.queries)
            .param("keys", dims.keys)
            .param("heads", self.heads)
            .param("q_stride", q_stride)
            .param("k_stride", k_stride)
            .param("v_stride", v_stride)
            .param("k_offset", k_offset)
            .param("v_offset", v_offset)
            .param("group", self.heads / self.kv_heads())
            .param("bias_image", bias[0])
            .param("bias_head", bias[1])
            .param("bias_query", bias[2])
            .param("bias_key", bias[3])
            .param("mask_image", mask_image)
            .param_f32("scale", self.scale(dims.head_dim) as f32)
    }

    /// Channels of a head: what tiles and registers depend on.
    pub(crate) fn head_dim(&self, context: &LowerContext<'_>) -> usize {
        self.dims(context).head_dim
    }

    fn flash(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let dims = self.dims(context);
        let tile = FlashTile::new(dims.head_dim / 4, knobs.get("LANES_X"));
        self.launch("attention/flash", context)
            .constant("HEAD_VECTORS", dims.head_dim / 4)
            .constant("LANES_X", tile.lanes_x)
            .constant("LANES_Y", tile.lanes_y)
            .constant("DEPTH", tile.depth)
            .constant("V_ROWS", tile.v_rows)
            .constant("QUADS", tile.quads)
            .constant("STAGE", tile.stage)
            .workgroups(self.heads, dims.images * dims.queries.div_ceil(4 * tile.lanes_y), 1)
            .into()
    }

    fn shuffle(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let dims = self.dims(context);
        let lanes = context.caps.subgroup_size().expect("`legal` was asked first") as usize;
        let queries = knobs.get("QUERIES");
        self.launch("attention/shuffle", context)
            .constant("HEAD_VECTORS", dims.head_dim / 4)
            .constant("LANES", lanes)
            .constant("QUERIES", queries)
            .workgroups(self.heads, dims.images * dims.queries.div_ceil(lanes * queries), 1)
            .into()
    }

    fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let elements = context.output.elements();
        self.launch("attention/naive", context)
            .param("elements", elements)
            .param("head_dim", self.dims(context).head_dim)
            .cover(elements.div_ceil(4), 64)
            .into()
    }
}

/// Strides of a bias of `shape` along images, heads, queries and keys; 0 where it is repeated.
fn bias_strides(shape: &[usize]) -> [usize; 4] {
    let mut strides = [0; 4];
    for (d, stride) in strides_of(shape).into_iter().enumerate().filter(|(d, _)| shape[*d] != 1) {
        strides[4 - shape.len() + d] = stride;
    }
    strides
}

/// The tiles of wgsl/attention/flash.wgsl, by the names of its constants.
struct FlashTile {
    lanes_x: usize,
    lanes_y: usize,
    depth: usize,
    v_rows: usize,
    quads: usize,
    stage: usize,
}

impl FlashTile {
    /// The possible workgroups, `lanes_x` and `lanes_y`: 128 invocations, or 160 where ten lanes share a query.
    const LANES: [(usize, usize); 4] = [(8, 16), (10, 16), (16, 8), (32, 4)];

    /// The most vectors of the output that one lane keeps in registers.
    const MOST_QUADS: usize = 5;

    /// The workgroups that can hold a head of `head_dim` channels.
    fn knobs(head_dim: usize) -> Vec<Knobs> {
        let fits = |lanes_x: usize| (head_dim / 4).div_ceil(lanes_x) <= Self::MOST_QUADS;
        let lanes = Self::LANES.iter().filter(|(x, _)| fits(*x));
        lanes.map(|(x, _)| Knobs::of([("LANES_X", *x)])).collect()
    }

    /// Tiles for heads of `vectors` vectors of four channels, within 16 KiB of workgroup memory.
    fn new(vectors: usize, lanes_x: usize) -> Self {
        let (_, lanes_y) = Self::LANES.into_iter().find(|(x, _)| *x == lanes_x).expect("one of the listed knobs");
        let quads = vectors.div_ceil(lanes_x);
        let block_k = 4 * lanes_x;
        let room = 1024 - block_k * lanes_y - lanes_x * lanes_y; // vectors of workgroup memory left for STAGE
        let divisor = |of: usize, fits: &dyn Fn(usize) -> bool| {
            (1..=of).rev().find(|d| of.is_multiple_of(*d) && fits(*d)).unwrap_or(1)
        };
        let depth = divisor(vectors, &|depth| 4 * depth * (lanes_x + lanes_y) <= room);
        let v_rows = divisor(block_k, &|rows| rows * quads * lanes_x <= room);
        let stage = (4 * depth * (lanes_x + lanes_y)).max(v_rows * quads * lanes_x);
        Self { lanes_x, lanes_y, depth, v_rows, quads, stage }
    }

    /// Rounds of an invocation's loops over `keys` of `vectors` vectors.
    fn rounds(&self, vectors: usize, keys: usize) -> usize {
        let (invocations, block_k) = (self.lanes_x * self.lanes_y, 4 * self.lanes_x);
        let queries_and_keys =
            (self.depth * self.lanes_y).div_ceil(invocations) + (self.depth * self.lanes_x).div_ceil(invocations);
        let scores = vectors / self.depth * (1 + queries_and_keys + 4 * self.depth);
        let values = block_k / self.v_rows * (1 + (self.v_rows * vectors).div_ceil(invocations) + self.v_rows);
        keys.div_ceil(block_k) * (1 + scores + self.lanes_x + values) + self.lanes_x
    }
}

fn flash_legal(op: &Attention, context: &LowerContext<'_>) -> std::result::Result<(), String> {
    let head_dim = op.head_dim(context);
    in_fours("head dimension", head_dim)?;
    if head_dim > 512 {
        return Err(format!("head dimension: {head_dim} exceeds 512"));
    }
    let rounds = FlashTile::knobs(head_dim).iter().map(|knobs| flash_rounds(op, context, knobs)).min();
    context.can_loop(rounds.expect("every head up to 512 has a tile"))
}

fn flash_knobs(op: &Attention, context: &LowerContext<'_>) -> Vec<Knobs> {
    let mut knobs = FlashTile::knobs(op.head_dim(context));
    knobs.retain(|knobs| context.can_loop(flash_rounds(op, context, knobs)).is_ok());
    knobs
}

/// Rounds of an invocation's loops.
fn flash_rounds(op: &Attention, context: &LowerContext<'_>, knobs: &Knobs) -> usize {
    let Dims { keys, head_dim, .. } = op.dims(context);
    FlashTile::new(head_dim / 4, knobs.get("LANES_X")).rounds(head_dim / 4, keys)
}

/// Queries per lane: as many as fit in its registers.
fn shuffle_knobs(op: &Attention, context: &LowerContext<'_>) -> Vec<Knobs> {
    let queries: &[usize] = if op.head_dim(context) <= 80 { &[1, 2, 4] } else { &[1, 2] };
    Knobs::combinations(&[("QUERIES", queries)])
}

fn shuffle_legal(op: &Attention, context: &LowerContext<'_>) -> std::result::Result<(), String> {
    let head_dim = op.head_dim(context);
    in_fours("head dimension", head_dim)?;
    if head_dim > 160 {
        return Err(format!("head dimension: {head_dim} exceeds 160, all of which a lane keeps in registers"));
    }
    match context.caps.subgroup_size() {
        Some(4..=16) => Ok(()),
        Some(size) => Err(format!("needs subgroups of 4 to 16 invocations, these have {size}")),
        None => Err("needs subgroup operations, and subgroups of one size".into()),
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

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant { name: "flash", family: Family::Gpu, legal: flash_legal, knobs: flash_knobs, lower: Self::flash },
            Variant {
                name: "shuffle",
                family: Family::Cpu,
                legal: shuffle_legal,
                knobs: shuffle_knobs,
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
