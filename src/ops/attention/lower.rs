//! How the kernels are launched: their tiles and settings, and what they require.

use super::{Attention, BIAS, Dims, MASK, Packing};
use crate::ops::{Knobs, Launch, LowerContext, Lowered, Operand, in_fours, small_subgroups};
use crate::tensor::{DType, strides as strides_of};

impl Attention {
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

    pub(super) fn flash(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let dims = self.dims(context);
        let tile = FlashTile::new(dims.head_dim / 4, knobs);
        self.launch("attention/flash", context)
            .constant("HEAD_VECTORS", dims.head_dim / 4)
            .constant("LANES_X", tile.lanes_x)
            .constant("LANES_Y", tile.lanes_y)
            .constant("KEY_QUADS", tile.key_quads)
            .constant("DEPTH", tile.depth)
            .constant("V_ROWS", tile.v_rows)
            .constant("UNROLL", tile.unroll())
            .constant("QUADS", tile.quads)
            .constant("MEMORY", tile.memory)
            .workgroups(self.heads, dims.images * dims.queries.div_ceil(4 * tile.lanes_y), 1)
            .into()
    }

    pub(super) fn shuffle(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let dims = self.dims(context);
        let lanes = small_subgroups(context.caps).expect("`legal` was asked first");
        let queries = knobs.get("QUERIES");
        self.launch("attention/shuffle", context)
            .constant("HEAD_VECTORS", dims.head_dim / 4)
            .constant("LANES", lanes)
            .constant("QUERIES", queries)
            .workgroups(self.heads, dims.images * dims.queries.div_ceil(lanes * queries), 1)
            .into()
    }

    pub(super) fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let elements = context.output.elements();
        self.launch("attention/naive", context)
            .param("elements", elements)
            .param("head_dim", self.dims(context).head_dim)
            .cover(elements.div_ceil(4), 64)
            .into()
    }

    pub(super) fn matrix(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let dims = self.dims(context);
        let tile = MatrixTile::new(context, dims.head_dim, knobs).expect("`legal` was asked first");
        self.launch("attention/matrix", context)
            .constant("HEAD_VECTORS", dims.head_dim / 4)
            .constant("MATRIX", tile.size)
            .constant("SUBGROUP", tile.lanes)
            .constant("QUERIES", tile.queries)
            .constant("KEYS", tile.keys)
            .constant("DEPTH", tile.head / tile.size)
            .constant("UNITS", (tile.keys * tile.head / 4).div_ceil(tile.invocations()))
            .workgroups(self.heads, dims.images * dims.queries.div_ceil(tile.queries), 1)
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
    key_quads: usize,
    depth: usize,
    v_rows: usize,
    quads: usize,
    memory: usize,
}

impl FlashTile {
    /// The possible workgroups, `lanes_x` and `lanes_y`: 128 invocations, or 160 where ten lanes share a query.
    const LANES: [(usize, usize); 4] = [(8, 16), (10, 16), (16, 8), (32, 4)];

    /// The most vectors of the output that one lane keeps in registers.
    const MOST_QUADS: usize = 5;

    /// The settings that can hold a head of `head_dim` channels.
    fn knobs(head_dim: usize) -> Vec<Knobs> {
        let quads = |knobs: &Knobs| (head_dim / 4).div_ceil(knobs.get("LANES_X"));
        let all = Knobs::combinations(&[("LANES_X", &Self::LANES.map(|(x, _)| x)), ("KEY_QUADS", &[1, 2])]);
        // The scores of eight keys take as many registers as two vectors of the output.
        all.into_iter().filter(|knobs| quads(knobs) + knobs.get("KEY_QUADS") <= Self::MOST_QUADS + 1).collect()
    }

    /// Tiles for heads of `vectors` vectors of four channels, within 16 KiB of workgroup memory.
    fn new(vectors: usize, knobs: &Knobs) -> Self {
        let [lanes_x, key_quads] = ["LANES_X", "KEY_QUADS"].map(|name| knobs.get(name));
        let (_, lanes_y) = Self::LANES.into_iter().find(|(x, _)| *x == lanes_x).expect("one of the listed knobs");
        let quads = vectors.div_ceil(lanes_x);
        let room = 1024 - lanes_x * lanes_y; // vectors of workgroup memory left for MEMORY
        let divisor = |of: usize, fits: &dyn Fn(usize) -> bool| {
            (1..=of).rev().find(|d| of.is_multiple_of(*d) && fits(*d)).unwrap_or(1)
        };
        let scored = |depth: usize| 4 * depth * (key_quads * lanes_x + lanes_y);
        let weighted = |rows: usize| 4 * lanes_x * lanes_y + rows * quads * lanes_x;
        let depth = divisor(vectors, &|depth| scored(depth) <= room);
        let written_out = |rows: usize| rows.is_multiple_of(4) && weighted(rows) <= room;
        let v_rows = match divisor(4 * lanes_x, &written_out) {
            1 => divisor(4 * lanes_x, &|rows| weighted(rows) <= room),
            rows => rows,
        };
        Self { lanes_x, lanes_y, key_quads, depth, v_rows, quads, memory: scored(depth).max(weighted(v_rows)) }
    }

    /// Rows of the values that are written out.
    fn unroll(&self) -> usize {
        [4, 2].into_iter().find(|rows| self.v_rows.is_multiple_of(*rows)).unwrap_or(1)
    }

    /// Rounds of an invocation's loops over `keys` of `vectors` vectors.
    fn rounds(&self, vectors: usize, keys: usize) -> usize {
        let (invocations, key_row) = (self.lanes_x * self.lanes_y, self.key_quads * self.lanes_x);
        let queries_and_keys =
            (self.depth * self.lanes_y).div_ceil(invocations) + (self.depth * key_row).div_ceil(invocations);
        let scores = vectors / self.depth * (1 + queries_and_keys + 4 * self.depth);
        let values = 4 * key_row / self.v_rows * (1 + (self.v_rows * vectors).div_ceil(invocations) + self.v_rows);
        keys.div_ceil(4 * key_row) * (1 + scores + self.lanes_x + values) + self.lanes_x
    }
}

pub(super) fn flash_legal(op: &Attention, context: &LowerContext<'_>) -> std::result::Result<(), String> {
    let head_dim = op.head_dim(context);
    in_fours("head dimension", head_dim)?;
    if head_dim > 512 {
        return Err(format!("head dimension: {head_dim} exceeds 512"));
    }
    let rounds = FlashTile::knobs(head_dim).iter().map(|knobs| flash_rounds(op, context, knobs)).min();
    context.can_loop(rounds.expect("every head up to 512 has a tile"))
}

pub(super) fn flash_knobs(op: &Attention, context: &LowerContext<'_>) -> Vec<Knobs> {
    let mut knobs = FlashTile::knobs(op.head_dim(context));
    knobs.retain(|knobs| context.can_loop(flash_rounds(op, context, knobs)).is_ok());
    knobs
}

/// Rounds of an invocation's loops.
fn flash_rounds(op: &Attention, context: &LowerContext<'_>, knobs: &Knobs) -> usize {
    let Dims { keys, head_dim, .. } = op.dims(context);
    FlashTile::new(head_dim / 4, knobs).rounds(head_dim / 4, keys)
}

/// Queries per lane: as many as fit in its registers.
pub(super) fn shuffle_knobs(op: &Attention, context: &LowerContext<'_>) -> Vec<Knobs> {
    let queries: &[usize] = if op.head_dim(context) <= 80 { &[1, 2, 4] } else { &[1, 2] };
    Knobs::combinations(&[("QUERIES", queries)])
}

pub(super) fn shuffle_legal(op: &Attention, context: &LowerContext<'_>) -> std::result::Result<(), String> {
    let head_dim = op.head_dim(context);
    in_fours("head dimension", head_dim)?;
    if head_dim > 160 {
        return Err(format!("head dimension: {head_dim} exceeds 160, all of which a lane keeps in registers"));
    }
    small_subgroups(context.caps).map(|_| ())
}

/// The blocks of wgsl/attention/matrix.wgsl, by the names of its constants.
struct MatrixTile {
    size: usize,
    lanes: usize,
    head: usize,
    queries: usize,
    keys: usize,
}

impl MatrixTile {
    /// # Errors
    /// What the device lacks.
    fn new(context: &LowerContext<'_>, head_dim: usize, knobs: &Knobs) -> std::result::Result<Self, String> {
        let (size, lanes) = context.caps.matrix_units()?;
        if !lanes.is_power_of_two() || lanes < size {
            return Err(format!(
                "needs subgroups of a power of two of at least {size} invocations, these have {lanes}"
            ));
        }
        let head = head_dim.next_multiple_of(size);
        Ok(Self { size, lanes, head, queries: knobs.get("QUERIES"), keys: knobs.get("KEYS") })
    }

    fn invocations(&self) -> usize {
        self.queries / self.size * self.lanes
    }

    /// Bytes of workgroup memory.
    fn bytes(&self) -> usize {
        let stage = 2 * self.queries.max(self.keys) * (self.head + 8);
        stage + self.queries * (4 * (self.keys + 4) + 2 * 2 * (self.keys + 8)) + 4
    }

    /// Rounds of an invocation's loops over `keys`.
    fn rounds(&self, keys: usize) -> usize {
        let staged = |rows: usize| (rows * self.head / 4).div_ceil(self.invocations());
        let per_row = self.lanes / self.size;
        let rescaled = self.head / self.size * self.size.div_ceil(per_row);
        let block = 2 * staged(self.keys) + 2 * self.keys / self.size + per_row.ilog2() as usize + rescaled;
        staged(self.queries) + keys.div_ceil(self.keys) * (1 + block) + rescaled + per_row.ilog2() as usize
    }
}

/// Blocks that this device has room for.
pub(super) fn matrix_knobs(op: &Attention, context: &LowerContext<'_>) -> Vec<Knobs> {
    let Dims { keys, head_dim, .. } = op.dims(context);
    let mut knobs = Knobs::combinations(&[("QUERIES", &[64, 32, 128]), ("KEYS", &[64, 32])]);
    knobs.retain(|knobs| {
        MatrixTile::new(context, head_dim, knobs).is_ok_and(|tile| {
            tile.bytes() <= context.caps.workgroup_memory_bytes as usize
                && tile.invocations() <= context.caps.max_workgroup_invocations as usize
                && context.can_loop(tile.rounds(keys)).is_ok()
        })
    });
    knobs
}

pub(super) fn matrix_legal(op: &Attention, context: &LowerContext<'_>) -> std::result::Result<(), String> {
    let head_dim = op.head_dim(context);
    in_fours("head dimension", head_dim)?;
    if head_dim > 160 {
        return Err(format!("head dimension: {head_dim} exceeds 160, all of which a subgroup keeps in registers"));
    }
    let (k, v) = op.sources();
    for (name, input) in [("q", 0), ("k", k), ("v", v)] {
        let dtype = context.input(input).dtype;
        if dtype != DType::F16 {
            return Err(format!("{name}: needs f16, found {}", dtype.name()));
        }
    }
    MatrixTile::new(context, head_dim, &Knobs::of([("QUERIES", 32), ("KEYS", 32)]))?;
    if matrix_knobs(op, context).is_empty() {
        return Err("needs more workgroup memory, invocations or rounds of loops than this device has".into());
    }
    Ok(())
}
