//! Scaled dot-product attention.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Knobs, Launch, LowerContext, Lowered, Operand, Operation, Variant,
    expect_float, in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// How queries, keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Three tensors: `q [N, T, C]`, `k [N, S, C]`, `v [N, S, C]`.
    #[default]
    Separate,
    /// One tensor `q [N, T, 3C]` whose rows hold query, key and value one after another.
    Qkv,
    /// `q [N, T, C]` and `k [N, S, 2C]` whose rows hold key and value one after another.
    Kv,
}

/// `y[n, t, h·D + d] = Σ_s p[t, s] · v[n, s, h·D + d]`, `p[t, ·] = softmax_s(scale · q[n, t, h·D..] · k[n, s, h·D..])`.
/// Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
///
/// Inputs as [`Packing`] says; every tensor may have several middle dimensions, e.g. `[N, H, W, C]`, which count as one
/// of length T or S. Output: the shape of `q` with C channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Number of heads; divides C. Head h owns the channels h·D .. (h+1)·D with D = C / heads.
    pub heads: usize,
    /// Query t sees the keys s ≤ t only; then T = S.
    pub causal: bool,
    /// Factor on the dot products; 1/√D if absent.
    pub scale: Option<f64>,
    /// How the inputs are stored.
    pub packing: Packing,
}

impl Default for Attention {
    fn default() -> Self {
        Self { heads: 1, causal: false, scale: None, packing: Packing::Separate }
    }
}

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
    /// The input that holds the keys, and that of the values.
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

    fn scale(&self, head_dim: usize) -> f64 {
        self.scale.unwrap_or(1.0 / (head_dim as f64).sqrt())
    }

    /// The bindings, constants and parameters that all variants share. Strides and offsets count elements.
    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        let dims = self.dims(context);
        let c = dims.channels;
        let (q_stride, k_stride, v_stride, k_offset, v_offset) = match self.packing {
            Packing::Separate => (c, c, c, 0, 0),
            Packing::Qkv => (3 * c, 3 * c, 3 * c, c, 2 * c),
            Packing::Kv => (c, 2 * c, 2 * c, 0, c),
        };
        let (k, v) = self.sources();
        Launch::new(kernel)
            .bind("k", Operand::Input(k))
            .bind("v", Operand::Input(v))
            .flag("CAUSAL", self.causal)
            .param("queries", dims.queries)
            .param("keys", dims.keys)
            .param("heads", self.heads)
            .param("q_stride", q_stride)
            .param("k_stride", k_stride)
            .param("v_stride", v_stride)
            .param("k_offset", k_offset)
            .param("v_offset", v_offset)
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
    /// The workgroups there are, by [`FlashTile::lanes_x`]: 128 invocations, or 160 where ten lanes share a query.
    const LANES: [(usize, usize); 4] = [(8, 16), (10, 16), (16, 8), (32, 4)];

    /// Vectors of the output that one lane keeps in registers, at most.
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
}

fn flash_legal(op: &Attention, context: &LowerContext<'_>) -> std::result::Result<(), String> {
    let head_dim = op.head_dim(context);
    in_fours("head dimension", head_dim)?;
    if head_dim > 512 { Err(format!("head dimension: {head_dim} exceeds 512")) } else { Ok(()) }
}

/// Queries of one lane: as many as the registers hold with their part of a head.
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

impl Operation for Attention {
    const NAME: &'static str = "attention";
    const INPUTS: &'static [&'static str] = &["q", "k", "v"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let q = inputs.required(0)?;
        expect_float("q", q.dtype)?;
        let parts = if self.packing == Packing::Qkv { 3 } else { 1 };
        let width = q.channels();
        if q.shape.len() < 3 || q.elements() == 0 || !width.is_multiple_of(parts) {
            return Err(Error::Shape(format!(
                "q: expected [N, T, C], or [N, T, 3C] where it holds keys and values too, found {:?}",
                q.shape
            )));
        }
        let channels = width / parts;
        if self.heads == 0 || !channels.is_multiple_of(self.heads) {
            return Err(Error::Shape(format!("{channels} channels cannot be divided into {} heads", self.heads)));
        }
        let (images, queries) = (q.shape[0], q.rows() / q.shape[0]);
        let mut keys = queries;
        let expected: &[usize] = match self.packing {
            Packing::Separate => &[1, 1],
            Packing::Qkv => &[],
            Packing::Kv => &[2],
        };
        for (position, name) in Self::INPUTS.iter().enumerate().skip(1) {
            let Some(parts) = expected.get(position - 1) else {
                if inputs.optional(position).is_some() {
                    return Err(Error::Shape(format!(
                        "{name}: is part of another input with {:?}, give none",
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
                || input.channels() != parts * channels
            {
                return Err(Error::Shape(format!(
                    "{name}: expected [{images}, S, {}], found {:?}",
                    parts * channels,
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
        let channels = |x: &HostTensor| x.shape[x.shape.len() - 1];
        let columns = |x: &HostTensor, part: usize, parts: usize| {
            reference::slice_columns(x, part * channels(x) / parts, channels(x) / parts)
        };
        let (q, k, v) = match self.packing {
            Packing::Separate => (inputs.get(0).clone(), inputs.get(1).clone(), inputs.get(2).clone()),
            Packing::Qkv => (columns(inputs.get(0), 0, 3), columns(inputs.get(0), 1, 3), columns(inputs.get(0), 2, 3)),
            Packing::Kv => (inputs.get(0).clone(), columns(inputs.get(1), 0, 2), columns(inputs.get(1), 1, 2)),
        };
        let scale = self.scale(channels(&q) / self.heads);
        reference::attention(&q, &k, &v, self.heads, self.causal, scale)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "flash",
                family: Family::Gpu,
                legal: flash_legal,
                knobs: |op, context| FlashTile::knobs(op.head_dim(context)),
                lower: Self::flash,
            },
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
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| op.naive(context),
            },
        ]
    }

    fn attributes(&self) -> String {
        let mut text = format!("heads={}", self.heads);
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
        let mut cases = cases();
        cases.push(large_negative());
        cases
    }
}

/// A case with `q` filled by `q_fill`, everything else standard normal. `t` and `s` are the middle dimensions.
fn case(label: &'static str, op: Attention, n: usize, t: &[usize], s: &[usize], channels: usize, q_fill: Fill) -> Case {
    let tensor = |middle: &[usize], channels: usize, fill: Fill| {
        let shape = [&[n], middle, &[channels]].concat();
        Some(CaseInput { desc: TensorDesc::f32(shape), fill, always_f32: false })
    };
    let inputs = match op.packing {
        Packing::Separate => {
            vec![tensor(t, channels, q_fill), tensor(s, channels, Fill::Normal), tensor(s, channels, Fill::Normal)]
        }
        Packing::Qkv => vec![tensor(t, 3 * channels, q_fill), None, None],
        Packing::Kv => vec![tensor(t, channels, q_fill), tensor(s, 2 * channels, Fill::Normal), None],
    };
    Case::new(label, op, inputs)
}

fn cases() -> Vec<Case> {
    let op = |heads, packing| Attention { heads, packing, ..Attention::default() };
    let causal = |heads, packing| Attention { causal: true, ..op(heads, packing) };
    let (separate, qkv, kv) = (Packing::Separate, Packing::Qkv, Packing::Kv);
    let large = Fill::Uniform(-20.0, 20.0);
    vec![
        case("D 8, tokens", op(3, separate), 2, &[37], &[37], 24, Fill::Normal),
        case("D 5, cross", op(2, separate), 2, &[35], &[7], 10, Fill::Normal),
        case("D 3, one key", op(3, kv), 2, &[6], &[1], 9, Fill::Normal),
        case("D 7, packed, causal", causal(2, qkv), 2, &[21], &[21], 14, Fill::Normal),
        case("D 16, packed picture, tiles exactly", op(2, qkv), 2, &[8, 16], &[], 32, Fill::Normal),
        case("D 40, one past the tiles, text of 77", op(2, kv), 2, &[5, 13], &[77], 80, Fill::Normal),
        case("D 40, one key", op(2, separate), 2, &[9, 3], &[1], 80, Fill::Normal),
        case("D 64, causal text", causal(2, qkv), 2, &[77], &[77], 128, Fill::Normal),
        case("D 80, packed picture", op(1, qkv), 2, &[9, 7], &[], 80, Fill::Normal),
        case("D 160, text of 77", op(2, kv), 2, &[11], &[77], 320, Fill::Normal),
        case(
            "D 28, few keys, scale",
            Attention { scale: Some(0.7), ..op(3, separate) },
            2,
            &[33],
            &[5],
            84,
            Fill::Normal,
        ),
        case("D 256, causal", causal(1, separate), 2, &[67], &[67], 256, Fill::Normal),
        case("D 512, picture", op(1, qkv), 1, &[5, 7], &[], 512, Fill::Normal),
        // Scores of some hundred, so that each softmax is nearly one-hot. They are sums of terms of that size, rounded
        // to 2⁻²⁴ of it each, and an error of 1e-5 in a score is one of 1e-5 in its weight.
        case("nearly one-hot", op(2, separate), 2, &[33], &[70], 80, large).tolerance(1e-4),
        case("nearly one-hot, causal", causal(2, qkv), 2, &[70], &[], 80, large).tolerance(1e-4),
        case("4096 keys", op(2, separate), 1, &[70], &[4096], 80, Fill::Normal).too_long_for_naive().large(),
        case("10 000 keys", op(1, kv), 1, &[5], &[10_000], 40, Fill::Normal).too_long_for_naive().large(),
        case("SD 1.5, 64 x 64 pixels, 8 heads of 40", op(8, qkv), 1, &[64, 64], &[], 320, Fill::Normal).perf(),
        case("SD 1.5, 64 x 64 pixels, text of 77", op(8, kv), 2, &[64, 64], &[77], 320, Fill::Normal).perf(),
        case("SDXL, 32 x 32 pixels, 20 heads of 64", op(20, qkv), 1, &[32, 32], &[], 1280, Fill::Normal).perf(),
    ]
}

/// Every score lies between -1200 and -400, so that each power is zero in f32 unless the largest is subtracted.
fn large_negative() -> Case {
    let fill = |low, high, shape: [usize; 3]| {
        Some(CaseInput { desc: TensorDesc::f32(shape), fill: Fill::Uniform(low, high), always_f32: false })
    };
    let inputs = vec![fill(-30.0, -20.0, [2, 19, 72]), fill(5.0, 8.0, [2, 45, 72]), CaseInput::normal([2, 45, 72])];
    // Sums of 36 terms of up to 240 · 1/6, as for the nearly one-hot cases.
    Case::new("large negative scores", Attention { heads: 2, ..Attention::default() }, inputs).tolerance(1e-4)
}

impl Graph {
    /// Attention of the queries `q` over keys and values, which are given as [`Packing`] says.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not agree, or an input is missing or too many.
    pub fn attention(
        &mut self,
        name: impl Into<String>,
        q: ValueId,
        k: Option<ValueId>,
        v: Option<ValueId>,
        op: Attention,
    ) -> Result<ValueId> {
        self.push(name, op, &[Some(q), k, v])
    }
}
