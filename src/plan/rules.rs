//! What pays: every threshold that chooses a kernel or its setting, unless the user or a tuned table does. What a
//! kernel *can* compute, its variant says itself (`legal` and `knobs`).
//!
//! Each rule names the device and the date of the measurement it rests on, or says "reasoned, not measured". lavapipe
//! means Mesa 22.3.6 on two cores of a Sapphire Rapids Xeon, 256-bit vectors.

use crate::caps::Caps;
use crate::ops::contraction::{Contraction, Sizes, Tile};
use crate::ops::{Knobs, LowerContext, Op, weight_gradient};

/// Whether to consider this variant of `op` at all: it may be legal and still lose to the next one.
///
/// # Errors
/// Why not, in words.
pub(super) fn pays(op: &Op, variant: &str, context: &LowerContext<'_>) -> Result<(), String> {
    match (op, variant) {
        (Op::Contraction(op), "winograd_shuffle") => {
            let sizes = op.sizes(context);
            winograd(sizes.product[0], sizes.product[1], sizes.c_in)
        }
        (Op::Contraction(op), "winograd4_shuffle") => {
            let sizes = op.sizes(context);
            winograd4(sizes.tiles(4), sizes.product[1], sizes.c_in)
        }
        (Op::Contraction(_) | Op::Attention(_), "matrix" | "winograd_registers" | "winograd4_registers")
            if context.caps.vendor != Caps::NVIDIA =>
        {
            Err("not measured on such a GPU".into())
        }
        (Op::Contraction(_), "winograd_registers") => Err("larger tiles save more".into()),
        (Op::Contraction(op), "winograd4_registers") => {
            let sizes = op.sizes(context);
            winograd4(sizes.tiles(4), sizes.product[1], sizes.c_in)?;
            filters(sizes.product[1], sizes.c_in)
        }
        (Op::Contraction(op), "registers") if op.sizes(context).taps <= 31 => {
            Err("a step on the way to pipelined".into())
        }
        // Reasoned for GPUs; on lavapipe `registers`, with all its barriers, still takes a third of the time of a
        // kernel that loads every factor anew (2026-11-22).
        (Op::Contraction(_), "shared") => Err("a step on the way to registers".into()),
        (Op::Norm(_), "slab") => slab(context),
        (Op::Contraction(op), "vec4") if op.sizes(context).groups == 1 => Err("a step on the way to registers".into()),
        _ => Ok(()),
    }
}

/// Whether a variant keeps parameters in a form of its own that takes more memory: Winograd's filters are 16 or 36 f32
/// for 9 numbers of f32 or f16.
pub(super) fn enlarges_parameters(op: &Op, variant: &str) -> bool {
    matches!(op, Op::Contraction(_)) && variant.starts_with("winograd")
}

/// The setting of `variant`: one of `listed`, which is what its `knobs` gave.
pub(super) fn setting<'a>(op: &Op, variant: &str, context: &LowerContext<'_>, listed: &'a [Knobs]) -> &'a Knobs {
    let wanted = wanted(op, variant, context, listed);
    // A rule that asks for an unlisted setting is a mistake, which a test finds; any listed setting is still correct.
    listed.iter().find(|knobs| **knobs == wanted).unwrap_or(&listed[0])
}

fn wanted(op: &Op, variant: &str, context: &LowerContext<'_>, listed: &[Knobs]) -> Knobs {
    match (op, variant) {
        // In a tile of 128 an invocation has both the values and their gates, so the sums need not be stored. Reasoned,
        // not measured.
        (Op::Contraction(op), "registers") if op.epilogue.gate => Knobs::of([("TILE", 128), ("SPLITS", 1)]),
        (Op::Contraction(op), "registers") => tile(op.sizes(context).product, listed),
        (Op::Contraction(op), "matrix") => matrix(op.sizes(context).product, listed),
        (Op::Contraction(op), "subpixel") => {
            // Four parts of the rows, by 2 x 2 taps.
            let Sizes { product: [m, n, _], c_in, .. } = op.sizes(context);
            pipelined([m, n, 4 * c_in], false, units(context), &|tile| fits_registers(tile, op, context), listed)
        }
        (Op::Contraction(op), "pipelined") => {
            let usable = |tile: &Tile| fits_registers(tile, op, context);
            pipelined(op.sizes(context).product, op.epilogue.gate, units(context), &usable, listed)
        }
        (Op::Contraction(op), "shuffle") => {
            let sizes = op.sizes(context);
            let textures = usize::from(shuffle_textures(&sizes));
            let [rows, quads] = if sizes.windows {
                shuffle_window(sizes.product[1], sizes.picture[2])
            } else {
                shuffle_product(sizes.product, textures == 1, context)
            };
            let wanted = Knobs::of([("ROWS", rows), ("QUADS", quads), ("TEXTURES", textures)]);
            let without = Knobs::of([("ROWS", rows), ("QUADS", quads), ("TEXTURES", 0)]);
            if listed.contains(&wanted) { wanted } else { without }
        }
        (Op::Contraction(op), "winograd_shuffle") => winograd_product(&op.sizes(context), 2, context),
        (Op::Contraction(op), "winograd4_shuffle") => winograd_product(&op.sizes(context), 4, context),
        (Op::Contraction(op), "winograd_registers") => winograd_tile(&op.sizes(context), 2),
        (Op::Contraction(op), "winograd4_registers") => winograd_tile(&op.sizes(context), 4),
        (Op::WeightGradient(op), "registers") => weight_tile(&op.sizes(context), context, listed),
        (Op::WeightGradient(op), "shuffle") => weight_lanes(&op.sizes(context), context, listed),
        // Of the listed ones, the first that the device has room for: 64 queries with 64 keys at a time, of heads of 40
        // and 80 channels the fastest on an H100 (2026-11-26).
        (Op::Attention(_), "matrix") => listed[0].clone(),
        (Op::Attention(attention), "flash") => flash(attention.head_dim(context), context),
        (Op::Attention(attention), "shuffle") => attention_queries(attention.head_dim(context)),
        (Op::Norm(_), "slab") => listed[0].clone(),
        (Op::Norm(_), "chunked") => group_norm(context),
        (Op::Norm(_), "workgroup") | (Op::Softmax(_), "workgroup") => row_lanes(context),
        _ => Knobs::default(),
    }
}

/// Winograd's form of a 3 × 3 convolution against the direct one, for CPU drivers.
///
/// The saving grows with C_in · C_out for each tile, the cost of the transforms with C_in + C_out; and transforming the
/// weights costs as much as about 60 pixels. Measured on lavapipe, 2026-11-22.
fn winograd(pixels: usize, c_out: usize, c_in: usize) -> Result<(), String> {
    if c_in * c_out < 30 * (c_in + c_out) || pixels < 128 {
        return Err(format!("does not pay for {c_in} to {c_out} channels and {pixels} pixels"));
    }
    Ok(())
}

/// Winograd's form with tiles of 4 × 4 outputs against that with 2 × 2: 36 products for 144 instead of 64, but filters
/// of 36 f32 for 9 numbers, which few tiles do not use often enough. The limit reasoned.
fn winograd4(tiles: usize, c_out: usize, c_in: usize) -> Result<(), String> {
    if c_in * c_out < 30 * (c_in + c_out) || tiles < 64 {
        return Err(format!("does not pay for {c_in} to {c_out} channels and {tiles} tiles of 4x4"));
    }
    Ok(())
}

/// On an H100 that form takes 1/1.9 to 1/3.3 of the time of the direct one where there are 128 tiles and more: 640 to
/// 640 channels at 32 x 32, and 320 or 960 to 320 at 64 x 64 (batch 2, 2026-11-26). Of how much memory a GPU has, no
/// API says anything: filters of 36 f32 may take 128 MiB for one convolution, which is a fifth more for all of Stable
/// Diffusion 1.5 in f32.
fn filters(c_out: usize, c_in: usize) -> Result<(), String> {
    let bytes = 4 * 36 * c_in * c_out;
    if bytes > 128 << 20 { Err(format!("its filters would take {} MiB", bytes >> 20)) } else { Ok(()) }
}

/// The setting of Winograd's products for CPU drivers.
fn winograd_product(sizes: &Sizes, tile: usize, context: &LowerContext<'_>) -> Knobs {
    let [rows, quads] = shuffle_product([sizes.tiles(tile), sizes.product[1], sizes.c_in], true, context);
    Knobs::of([("ROWS", rows), ("QUADS", quads)])
}

/// The same for GPUs.
fn winograd_tile(sizes: &Sizes, tile: usize) -> Knobs {
    let positions = (tile + 2) * (tile + 2);
    Knobs::of([("TILE", tile_size(positions, sizes.tiles(tile), sizes.product[1]))])
}

/// Tiles of 128 × 128 use each value they load most often; but a GPU has up to about a hundred cores, and every one of
/// them needs a workgroup or two, so small products get tiles of 64 × 64. Reasoned, not measured; registers and
/// occupancy as compiled for RDNA2 and RDNA3 (RADV 22.3, offline, 2026-11-22).
fn tile_size(products: usize, m: usize, n: usize) -> usize {
    if products * m.div_ceil(128) * n.div_ceil(128) >= 128 { 128 } else { 64 }
}

/// Products that are still too few workgroups and have a long sum are split along it, into parts of at least 512
/// products: adding up shorter ones costs more than it saves. Reasoned, not measured.
fn tile([m, n, k]: [usize; 3], listed: &[Knobs]) -> Knobs {
    let size = tile_size(1, m, n);
    let tiles = m.div_ceil(size) * n.div_ceil(size);
    let wanted = (256 / tiles.max(1)).min(k / 512).clamp(1, 16);
    // Not every number of parts fills each of them.
    let splits = listed.iter().filter(|knobs| knobs.get("TILE") == size).map(|knobs| knobs.get("SPLITS"));
    Knobs::of([("TILE", size), ("SPLITS", splits.filter(|s| *s <= wanted).max().unwrap_or(1))])
}

/// Units that run a subgroup of 64 on their own, of the GPUs that a rule without a device in mind must suit: a small
/// one of 20 of AMD's compute units, a middle one of 36, and the largest of RDNA2 and RDNA3, of 72 and 96.
const UNITS: [usize; 4] = [40, 72, 144, 192];

/// Multiprocessors of NVIDIA's GPUs that a rule without a device in mind must suit: RTX 3060, 4070, 4080 and H100.
const MULTIPROCESSORS: [usize; 4] = [28, 46, 76, 132];

/// NVIDIA's multiprocessors have four units each.
fn units(context: &LowerContext<'_>) -> [usize; 4] {
    if context.caps.vendor == Caps::NVIDIA { MULTIPROCESSORS.map(|count| 4 * count) } else { UNITS }
}

/// The setting that takes the least time by this account, which is reasoned, not measured, for [`units`] on the
/// average. A round of all units takes as long as one subgroup, and each needs two to be busy while loads are on their
/// way. Rows and columns beyond the edge cost as much as others. What part of the instructions are multiply-adds was
/// compiled for RDNA2 and RDNA3 (RADV 22.3, offline, 2026-11-26). Split sums go to memory and come back, at 80
/// operations of f32 for a byte, and the launch that adds them up takes as long as a unit for 2 M products, 32 us:
/// twice and eight times what they should, and with them it must still be 3 % faster. For subgroups that share a unit
/// make rounds that are not full cheaper than they are here, while launches and bytes are certain. A gate must be in
/// the same tile as its value. On an H100, which has more units, what this chooses for AMD's GPUs split only the last
/// sums of 640 to 640 channels at 32 x 32, and took 1.4 times as long as all of them in four parts (2026-11-26).
fn pipelined(
    [m, n, k]: [usize; 3],
    gate: bool,
    units: [usize; 4],
    usable: &dyn Fn(&Tile) -> bool,
    listed: &[Knobs],
) -> Knobs {
    let time = |knobs: &Knobs| {
        let (tile, splits) = (Tile::of(knobs), knobs.get("SPLITS"));
        let [rows, columns] = [m.div_ceil(tile.m), n.div_ceil(tile.n)];
        let whole = if splits == 1 { rows } else { tile.whole_rows([m, n], knobs.get("STREAMS")) };
        let subgroups = tile.invocations().div_ceil(64);
        // Values of k, of whole tiles and of parts; subgroups that take so long.
        let [long, short] = [1, splits].map(|splits| tile.k_per_split(k, splits));
        let [first, last] = [whole, (rows - whole) * splits].map(|rows| rows * columns * subgroups);
        let share = match (tile.row_quads * tile.column_quads, tile.k) {
            (4, 16..) => 0.86,
            (4, _) => 0.80,
            (2, _) => 0.75,
            _ => 0.65,
        };
        let busy = |units: usize| {
            let steps = rounds(units, [first, last], [long, short]).max(2 * if whole > 0 { long } else { short });
            (units * steps * (tile.m * tile.n / subgroups)) as f64 / share
        };
        let arithmetic: f64 = units.map(busy).iter().sum();
        let partial = 8 * splits * m.saturating_sub(whole * tile.m) * n * 80 / 2 * units.len();
        let launch = (2 << 20) * units.iter().sum::<usize>();
        // Of equals the largest tile, which loads least.
        let time = if splits > 1 { 1.03 * (arithmetic + (partial + launch) as f64) } else { arithmetic };
        (time, std::cmp::Reverse(tile.m * tile.n))
    };
    let usable = listed.iter().filter(|knobs| {
        // Other settings take more workgroup memory than every device has, and are for tuning.
        let tile = Tile::of(knobs);
        let plain = 4 * tile.k * (tile.m + tile.n) <= 16 << 10 && tile.k <= 16;
        plain && usable(&tile) && (!gate || tile.has_gates() && knobs.get("SPLITS") == 1)
    });
    let best = usable.min_by(|a, b| time(a).partial_cmp(&time(b)).expect("times are numbers"));
    best.unwrap_or(&listed[0]).clone()
}

/// The setting of `6_matrix` that takes the least time by this account, for [`MULTIPROCESSORS`] on the average: rounds
/// of workgroups, one to each multiprocessor; how near a tile comes to the fastest one, measured on an H100 (products
/// of 8192 x 2560 x 320, 2026-11-26); rows and columns beyond the edge as others; sums that are split go to memory and
/// come back, at 200 operations of a matrix unit for a byte, and the launch that adds them up takes as long as one
/// multiprocessor for 8 M products.
fn matrix([m, n, k]: [usize; 3], listed: &[Knobs]) -> Knobs {
    let time = |knobs: &&Knobs| {
        let [tile_m, tile_n, tile_k, subgroups, splits] =
            ["TILE_M", "TILE_N", "TILE_K", "SUBGROUPS", "SPLITS"].map(|name| knobs.get(name));
        let near = match (tile_m * tile_n, subgroups) {
            (32_768, _) => 1.0,
            (20_480, _) => 0.95,
            (16_384, 4) => 0.75,
            (16_384, _) => 0.78,
            (8192 | 10_240, _) => 0.82,
            _ => 0.6,
        };
        let tiles = m.div_ceil(tile_m) * n.div_ceil(tile_n) * splits;
        let long = k.div_ceil(splits).next_multiple_of(tile_k);
        let busy = |units: usize| (units * tiles.div_ceil(units) * tile_m * tile_n * long) as f64 / near;
        let arithmetic: f64 = MULTIPROCESSORS.map(busy).iter().sum();
        let split = (8 * splits * m * n * 200 / 2 + (8 << 20)) * MULTIPROCESSORS.len();
        if splits > 1 { arithmetic + split as f64 } else { arithmetic }
    };
    let usual = listed.iter().filter(|knobs| knobs.get("TILE_K") == 32);
    let best = usual.min_by(|a, b| time(a).total_cmp(&time(b)));
    best.unwrap_or(&listed[0]).clone()
}

/// How long `units` take for `first` pieces of work of length `long` and then `last` ones of length `short`, if each
/// unit takes the next one when it has done one.
fn rounds(units: usize, [first, last]: [usize; 2], [long, short]: [usize; 2]) -> usize {
    let idle = first.next_multiple_of(units) - first; // in the last round of long pieces
    let left = last.saturating_sub(idle * (long / short));
    first.div_ceil(units) * long + left.div_ceil(units) * short
}

/// Whether a compiler keeps the sums of a tile in registers. Intel's gives an invocation 128 numbers, and spills with
/// 64 sums; with 32 over windows; and with 8 rows to an invocation it waits for each, 12 cycles a product against 6 to
/// 8 (ANV 22.3, Tiger Lake and Arc, offline, 2026-11-26: `benches/offline/intel.tsv`). On RDNA 3 two tensors for x take
/// 132 registers, four more than there should be, where an invocation of 64 sums loads four rows of them.
fn fits_registers(tile: &Tile, op: &Contraction, context: &LowerContext<'_>) -> bool {
    let large = tile.row_quads * tile.column_quads == 4;
    if context.joined.is_some() && large && tile.invocations() < 256 {
        return false;
    }
    let columns = if op.sizes(context).windows && !op.epilogue.gate { 1 } else { 2 };
    context.caps.vendor != Caps::INTEL || (tile.row_quads == 1 && tile.column_quads <= columns)
}

/// Few rows (time embeddings): one row a lane, or most rows would be computed for nothing. Few columns, or few left
/// over beyond a multiple of 32: narrower tiles for the same reason. 4 rows by 32 columns measured on lavapipe against
/// 4 by 16, 8 by 32 and 8 by 64, 2026-11-22. With textures 8 by 32 is up to a fifth faster than 4 by 32, 4 by 64 and 8
/// by 64 are slower (64, 256 and 4096 rows, 2026-11-26); but it takes a second to compile, which only long products
/// earn back. The limits reasoned.
fn shuffle_product([m, n, k]: [usize; 3], textures: bool, context: &LowerContext<'_>) -> [usize; 2] {
    let lanes = context.caps.subgroup_size().unwrap_or(1) as usize;
    let idle = m.next_multiple_of(8 * lanes) - m;
    let rows = match m {
        m if m <= lanes => 1,
        m if textures && 8 * idle <= m && m * n * k >= 1 << 26 => 8,
        _ => 4,
    };
    let quads = match n {
        0..=4 => 1,
        5..=8 => 2,
        n if (1..=16).contains(&(n % 32)) => 4,
        _ => 8,
    };
    [rows, quads]
}

/// A copy of x costs about as much as 128 products with each of its values gain. Of weights the copy is made once; but
/// few rows use them too seldom. Reasoned from the cost of a load on lavapipe, 2026-11-26: a vector of f32 from a
/// buffer 30 ns, from a texture 14 ns. Measured there that day with windows of 2 × 2 in steps of 2, which use a value
/// once: with 64 columns the copy loses 10 %, with 128 it is even, with 320 it gains 25 %.
fn shuffle_textures(sizes: &Sizes) -> bool {
    let [m, n, _] = sizes.product;
    m >= 64 && n * sizes.taps * m >= 128 * sizes.positions
}

/// Runs of 8 pixels share most loads; a remainder of up to 4 pixels in each row asks for shorter ones. 8 by 16 channels
/// measured on lavapipe, 2026-11-22; the limits reasoned. 8 rows against 4, 2 and 1 again with windows of 2 × 2, in
/// steps of 1 and 2, 64 to 320 channels: one row takes 1.6 to 2.8 times as long (2026-11-26).
fn shuffle_window(c_out: usize, ow: usize) -> [usize; 2] {
    let rows = if (1..=4).contains(&(ow % 8)) { 4 } else { 8 };
    let quads = match c_out {
        0..=4 => 1,
        5..=8 => 2,
        _ => 4,
    };
    [rows, quads]
}

/// Few lanes without output, then few vectors of it for each lane, as they all stay in registers; eight keys instead of
/// four for each lane where that takes at most 128 registers. Ten lanes with eight keys are blocks of 80 keys, of which
/// the 77 of a text fill one. Reasoned, not measured; registers and instructions as compiled for RDNA2 and RDNA3 (RADV
/// 22.3, offline, 2026-11-26). Intel's compiler spills with 4 vectors to a lane, and was seen with four
/// keys alone (ANV 22.3, offline, 2026-11-26).
fn flash(head_dim: usize, context: &LowerContext<'_>) -> Knobs {
    let vectors = head_dim / 4;
    let idle = |lanes: usize| vectors.next_multiple_of(lanes) - vectors;
    let intel = context.caps.vendor == Caps::INTEL;
    let lanes = match vectors {
        25..=64 if intel => 32,
        0..=40 if idle(10) <= idle(8) => 10,
        0..=40 => 8,
        41..=64 => 16,
        _ => 32,
    };
    Knobs::of([("LANES_X", lanes), ("KEY_QUADS", if vectors.div_ceil(lanes) <= 2 && !intel { 2 } else { 1 })])
}

/// Tiles of 64 x 64, or as narrow as there are filters (of a LoRA, four or eight), or the largest where many are full;
/// sums in as few parts as make two workgroups for each unit of a large GPU. Reasoned, not measured.
fn weight_tile(sizes: &weight_gradient::Sizes, context: &LowerContext<'_>, listed: &[Knobs]) -> Knobs {
    let wide = |side: usize| side.next_multiple_of(128) * 7 <= side * 8;
    let tile = match sizes.filters {
        0..=16 => [16, 128],
        17..=32 => [32, 64],
        filters if wide(filters) && wide(sizes.channels) => [128, 128],
        _ => [64, 64],
    };
    let [f, c] = tile;
    let setting = |parts| Knobs::of([("TILE_F", f), ("TILE_C", c), ("PARTS", parts)]);
    enough_parts(sizes.tiles(tile), 2 * units(context)[3], setting, listed)
}

/// Sixteen filters, as four times the loads would serve; parts for two workgroups a core of eight.
fn weight_lanes(sizes: &weight_gradient::Sizes, context: &LowerContext<'_>, listed: &[Knobs]) -> Knobs {
    let quads = match sizes.filters {
        0..=4 => 1,
        5..=8 => 2,
        9..=16 => 4,
        _ => 8,
    };
    let lanes = context.caps.subgroup_size().map_or(8, |lanes| lanes as usize);
    let quads = quads.min(lanes);
    let [x, y] = sizes.groups(lanes, quads);
    enough_parts(x * y, 16, |parts| Knobs::of([("QUADS", quads), ("PARTS", parts)]), listed)
}

/// The listed setting with the fewest parts that make `wanted` workgroups, or with the most parts there are.
fn enough_parts(workgroups: usize, wanted: usize, setting: impl Fn(usize) -> Knobs, listed: &[Knobs]) -> Knobs {
    let all: Vec<usize> = listed.iter().filter_map(|knobs| knobs.find("PARTS")).collect();
    let most = all.iter().copied().max().unwrap_or(1);
    let parts = all.into_iter().filter(|parts| workgroups * parts >= wanted).min().unwrap_or(most);
    setting(parts)
}

/// As many queries of one lane as keep the compile time within a few seconds: each shares the loads of keys. 4 against
/// 2 and 1 measured on lavapipe with heads of 40 and 80 channels, 2026-11-22; 160 needs 2.
fn attention_queries(head_dim: usize) -> Knobs {
    Knobs::of([("QUERIES", if head_dim <= 80 { 4 } else { 2 })])
}

/// One launch against three: three only where a workgroup would be busy for long with its part of a large picture,
/// while most of the GPU waits. Reasoned, not measured: 32 Ki positions are those of a picture of 181 x 181 pixels.
fn slab(context: &LowerContext<'_>) -> Result<(), String> {
    let shape = &context.output.shape;
    let positions: usize = shape[1..shape.len() - 1].iter().product();
    if positions > 32 << 10 { Err(format!("too few workgroups for {positions} positions")) } else { Ok(()) }
}

/// Enough chunks to fill a GPU, but no longer than rounding allows, and not so short that combining them is the work.
/// Reasoned; 64 to 256 positions measured alike on lavapipe, 2026-11-22. Runs of 8 positions: reasoned, not measured.
/// CPU drivers have few cores to fill, and barriers cost them more than the sums: fewer chunks, combined by one
/// invocation; a step of emoji-64 spends 1.6 ms there on lavapipe, before 26 ms (both on a busy machine, 2026-11-26).
fn group_norm(context: &LowerContext<'_>) -> Knobs {
    let shape = &context.output.shape;
    let positions: usize = shape[1..shape.len() - 1].iter().product();
    let (chunks, lanes) = if context.caps.is_cpu { (8, 1) } else { (128, 64) };
    let chunk = positions.div_ceil(chunks).next_multiple_of(16).clamp(16, 256);
    Knobs::of([("CHUNK", chunk), ("POSITIONS", 8), ("COMBINE_LANES", lanes)])
}

/// Enough invocations that each has one vector of the row. Reasoned, not measured.
fn row_lanes(context: &LowerContext<'_>) -> Knobs {
    Knobs::of([("ROW_LANES", (context.output.channels() / 4).next_power_of_two().clamp(8, 64))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::{CooperativeMatrix, MatrixElement};
    use crate::graph::TensorDesc;
    use crate::ops::registry;
    use crate::tensor::DType;

    /// The product that NVIDIA's GPUs have.
    const MATRIX_16: CooperativeMatrix =
        CooperativeMatrix { m: 16, n: 16, k: 16, factors: MatrixElement::F16, sums: MatrixElement::F32 };

    #[test]
    fn every_rule_picks_a_listed_setting() {
        let device = |is_cpu, size| Caps { is_cpu, subgroup_sizes: Some([size; 2]), ..Caps::webgpu_minimum() };
        let intel = Caps { vendor: Caps::INTEL, ..Caps::webgpu_minimum() };
        let nvidia = Caps { vendor: Caps::NVIDIA, subgroup_sizes: Some([32; 2]), ..Caps::webgpu_minimum() };
        let matrices = Caps { f16: true, cooperative_matrices: vec![MATRIX_16], ..nvidia.clone() };
        let devices =
            [Caps::webgpu_minimum(), intel, nvidia, matrices, device(false, 32), device(true, 8), device(true, 4)];
        let mut legal = 0;
        for case in registry().iter().flat_map(|info| &info.cases) {
            let graph = case.structure(DType::F32).expect("parity cases fit their operation");
            let (value, node) = graph.values().last().expect("the operation is the last node");
            let inputs: Vec<Option<&TensorDesc>> = case.inputs.iter().map(|i| i.as_ref().map(|i| &i.desc)).collect();
            for caps in &devices {
                let context =
                    LowerContext { inputs: &inputs, output: graph.desc(value), caps, joined: None, in_place: false };
                for (index, variant) in case.op.variant_names().into_iter().enumerate() {
                    if case.op.legal(index, &context).is_err() {
                        continue;
                    }
                    let listed = case.op.knobs(index, &context);
                    let wanted = wanted(&case.op, variant, &context, &listed);
                    let what = format!("{} {variant} \"{}\"", node.name, case.label);
                    assert!(listed.contains(&wanted), "{what}: {wanted} is not among the {} listed", listed.len());
                    legal += 1;
                }
            }
        }
        assert!(legal > 500, "{legal} legal instances are too few to prove anything");
    }
}
