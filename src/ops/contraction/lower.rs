//! How the direct kernels are launched, and the launches around them: padding before, `conclude` after.

use super::WEIGHT;
use super::instance::{Instance, Parts};
use super::tile::{self, MatrixTile, Tile};
use crate::kernel::TEXTURE_WIDTH;
use crate::ops::upsample_nearest::UpsampleNearest;
use crate::ops::{Knobs, Launch, LowerContext, Lowered, Op, Operand};

/// The texels of the largest texture that WebGPU guarantees, in rows of [`TEXTURE_WIDTH`].
pub(super) const MAX_TEXELS: usize = 8192 * TEXTURE_WIDTH as usize;

/// What was lowered for the pictures of an instance. Where their pixels are those of x repeated, a launch before the
/// others makes them.
pub(super) fn over_pictures(instance: &Instance<'_>, mut lowered: Lowered) -> Lowered {
    if instance.upsample == 1 {
        return lowered;
    }
    let context = instance.context;
    let [_, out_h, out_w] = instance.size;
    let desc = context.input(0).with_shape([instance.images, out_h, out_w, instance.c]);
    let repeat = Op::from(UpsampleNearest { out_h, out_w });
    let of_x =
        LowerContext { inputs: &context.inputs[..1], output: &desc, caps: context.caps, joined: None, in_place: false };
    let variant = (0..).find(|variant| repeat.legal(*variant, &of_x).is_ok()).expect("the naive variant always is");
    let mut launches = repeat.lower(variant, &of_x, &Knobs::default()).launches;
    let pictures = lowered.add(desc.into());
    for launch in &mut launches {
        launch.bindings.push(("y", pictures));
        launch.flops = 1; // the operation's work is not shared with a copy
    }
    for mut launch in lowered.launches {
        for (_, operand) in &mut launch.bindings {
            if *operand == Operand::Input(0) {
                *operand = pictures;
            }
        }
        let bound = launch.bindings.iter().any(|(name, _)| *name == "x");
        launches.push(if bound { launch } else { launch.bind("x", pictures) });
    }
    Lowered { launches, ..lowered }
}

/// One sum per invocation, everything else in a second launch.
pub(super) fn naive(instance: &Instance<'_>) -> Lowered {
    let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
    let (m, n) = (instance.m(), instance.n);
    let sums = lowered.add_scratch([m, n]);
    let parts = Parts::one(instance.padded_k());
    let main = instance
        .launch("contraction/1_naive", instance.c, n, parts)
        .param_f32("scale", 1.0)
        .param("summand_columns", 0)
        .param("summand_first", 0)
        .bind("sums", sums)
        .workgroups(n.div_ceil(8), m.div_ceil(8), 1);
    lowered.launches.push(main);
    lowered.launches.push(conclude(instance, sums, parts, n));
    lowered
}

/// Four columns per invocation.
pub(super) fn vec4(instance: &Instance<'_>) -> Lowered {
    let (m, n) = (instance.m(), instance.n);
    let launch = instance.launch("contraction/2_vec4", instance.c, n, Parts::one(instance.padded_k()));
    let launch = launch.workgroups(n.div_ceil(32), m.div_ceil(8), 1);
    instance.epilogue.set(launch, instance.context, true).into()
}

/// Tiles in workgroup memory.
pub(super) fn shared(instance: &Instance<'_>) -> Lowered {
    let (m, n) = (instance.m(), instance.n);
    let launch = instance.launch("contraction/3_shared", instance.c, n, Parts::one(instance.padded_k()));
    let launch = launch.workgroups(n.div_ceil(64), m.div_ceil(16), 1);
    instance.epilogue.set(launch, instance.context, true).into()
}

/// Tiles in registers: for GPUs.
pub(super) fn registers(instance: &Instance<'_>, knobs: &Knobs) -> Lowered {
    let (size, splits) = (knobs.get("TILE"), knobs.get("SPLITS"));
    let tile = Tile::square(size);
    let configure = |launch: Launch| tile.configure(launch, instance, splits);
    // With tiles of 128 an invocation has two quads of columns: values and their gates.
    let parts = Parts { splits, k: tile.k_per_split(instance.padded_k(), splits), whole_rows: 0 };
    in_fours(instance, "contraction/4_registers", parts, size == 128, false, configure)
}

/// Tiles in registers, the next one on its way: for GPUs.
pub(super) fn pipelined(instance: &Instance<'_>, knobs: &Knobs) -> Lowered {
    let splits = knobs.get("SPLITS");
    let tile = pipelined_tile(instance, knobs);
    let whole = tile.whole_rows([instance.m(), instance.n], knobs.get("STREAMS"));
    let parts = Parts { splits, k: tile.k_per_split(instance.padded_k(), splits), whole_rows: whole * tile.m };
    if whole == 0 {
        let configure = |launch: Launch| tile.pipeline(tile.configure(launch, instance, splits), instance);
        return in_fours(instance, "contraction/5_pipelined", parts, tile.has_gates(), false, configure);
    }
    let configure = |launch: Launch| {
        let launch = tile.pipeline(tile.configure(launch, instance, 1), instance);
        let [x, y, _] = launch.workgroups.map(|count| count as usize);
        let flops = launch.flops / y as u64;
        launch.workgroups(x, whole + (y - whole) * splits, 1).row_flops(flops)
    };
    in_fours(instance, "contraction/5_streams", parts, tile.has_gates(), false, configure)
}

/// The tile of a setting.
pub(super) fn pipelined_tile(instance: &Instance<'_>, knobs: &Knobs) -> Tile {
    let mut tile = Tile::of(knobs);
    if instance.context.caps.is_cpu {
        tile.unroll = 4;
    }
    tile
}

/// Products by the device's matrix units, of `size` by `size` matrices, in subgroups of `lanes` invocations: for GPUs.
/// An invocation does not know its columns, so that gates are joined afterwards.
pub(super) fn matrix(instance: &Instance<'_>, size: usize, lanes: usize, knobs: &Knobs) -> Lowered {
    let splits = knobs.get("SPLITS");
    let tile = MatrixTile::of(size, lanes, knobs);
    let parts = Parts { splits, k: tile.k_per_split(instance.padded_k(), splits), whole_rows: 0 };
    let configure = |launch: Launch| tile.configure(launch, instance, splits);
    in_fours(instance, "contraction/6_matrix", parts, false, false, configure)
}

/// Operands shared within a subgroup of `lanes` invocations: for CPU drivers.
pub(super) fn shuffle(instance: &Instance<'_>, lanes: usize, knobs: &Knobs) -> Lowered {
    let configure = |launch: Launch| configure_shuffle(launch, instance, lanes, 1, knobs);
    let (has_gates, textures) = (knobs.get("QUADS") > 1, knobs.get("TEXTURES") == 1);
    let parts = Parts::one(instance.c.next_multiple_of(4));
    in_fours(instance, "contraction/shuffle", parts, has_gates, textures, configure)
}

/// `parts` products at once, each of `m` rows by `n` columns (a multiple of four): a row of x is `parts` rows of length
/// `k` one after another, and so is a row of the weights; `y [parts, m, n]`. For CPU drivers if `lanes` is given, else
/// for GPUs.
pub(super) fn batch(
    instance: &Instance<'_>,
    [m, n, k]: [usize; 3],
    parts: usize,
    lanes: Option<usize>,
    knobs: &Knobs,
) -> Launch {
    let product = Instance {
        windows: false,
        images: 1,
        size: [1, 1, m],
        c: parts * k,
        out: [1, 1, m],
        n,
        taps: [1; 3],
        axes: Default::default(),
        groups: 1,
        rows_per_image: m,
        ..*instance
    };
    let launch = |kernel| product.launch(kernel, parts * k, n, Parts::one(k));
    let launch = match lanes {
        Some(lanes) => configure_shuffle(launch("contraction/shuffle"), &product, lanes, parts, knobs),
        None => Tile::square(knobs.get("TILE")).configure(launch("contraction/4_registers"), &product, parts),
    };
    product.epilogue.set(launch, product.context, false)
}

fn configure_shuffle(launch: Launch, instance: &Instance<'_>, lanes: usize, parts: usize, knobs: &Knobs) -> Launch {
    let (rows, quads) = (knobs.get("ROWS"), knobs.get("QUADS"));
    let across = &instance.axes[2];
    let lines = instance.images * instance.out[0] * instance.out[1];
    launch
        .flag("WINDOWS", instance.windows)
        .flag("SLIDE", instance.windows && across.stride == 1 && across.dilation == 1)
        .constant("LANES", lanes)
        .constant("ROWS", rows)
        .constant("QUADS", quads)
        .constant("WEIGHT_LOADS", (4 * quads).div_ceil(lanes))
        .workgroups(instance.n.div_ceil(4 * quads), (lines * instance.out[2].div_ceil(rows)).div_ceil(lanes), parts)
}

/// A launch of `kernel`, which reads four channels at once, and the launches around it: before it, x and weights are
/// padded where C is not a multiple of four, or copied to textures if asked; after it, partial sums, padded columns and
/// gates are combined into y. The launch that pads the weights reads nothing else. `has_gates`: an invocation that has
/// a value also has its gate.
fn in_fours(
    instance: &Instance<'_>,
    kernel: &'static str,
    parts: Parts,
    has_gates: bool,
    textures: bool,
    configure: impl Fn(Launch) -> Launch,
) -> Lowered {
    let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
    let (c, n) = (instance.c, instance.n);
    let (c_padded, n_padded) = (c.next_multiple_of(4), n.next_multiple_of(4));
    let direct = parts.splits == 1 && can_conclude(instance, has_gates);

    let main = configure(instance.launch(kernel, c_padded, n_padded, parts));
    let mut main = instance.epilogue.set(main, instance.context, direct || parts.whole_rows > 0);
    if c_padded != c || textures {
        for (name, input, rows) in [("x", 0, instance.pixels()), ("weight", WEIGHT, instance.filter_taps())] {
            let scratch = if textures {
                lowered.add_texture(instance.context.input(input).with_shape([rows, c_padded]))
            } else {
                lowered.add_scratch([rows, c_padded])
            };
            let elements = rows * c_padded;
            lowered.launches.push(
                Launch::new("contraction/pad_channels")
                    .bind("unpadded", Operand::Input(input))
                    .bind("padded", scratch)
                    .param("rows", rows)
                    .param("C", c)
                    .param("C_padded", c_padded)
                    .flops(elements as u64)
                    .cover(elements / 4, 64),
            );
            main = main.bind(name, scratch);
        }
    }
    concluded(lowered, instance, main, parts, direct)
}

/// Ends with the launch `main`, and where it does not write y itself, another one.
pub(super) fn concluded(
    mut lowered: Lowered,
    instance: &Instance<'_>,
    main: Launch,
    parts: Parts,
    direct: bool,
) -> Lowered {
    if direct {
        lowered.launches.push(main);
        return lowered;
    }
    let (rows, n_padded) = (instance.m() - parts.whole_rows, instance.n.next_multiple_of(4));
    let partial = lowered.add_scratch([parts.splits, rows, n_padded]);
    let untouched = instance.bytes_of_rows(rows);
    let main =
        if parts.whole_rows > 0 { main.bind("partial", partial).untouched(untouched) } else { main.bind("y", partial) };
    lowered.launches.push(main);
    lowered.launches.push(conclude(instance, partial, parts, n_padded));
    lowered
}

/// Whether an invocation that has a sum can also conclude it, where those that have a value have its gate as well if
/// `has_gates`.
fn can_conclude(instance: &Instance<'_>, has_gates: bool) -> bool {
    instance.n.is_multiple_of(4) && (!instance.epilogue.gate || (has_gates && instance.n.is_multiple_of(8)))
}

/// The epilogue of the rows that are split, from `partial [splits, rows, n_padded]`.
fn conclude(instance: &Instance<'_>, partial: Operand, parts: Parts, n_padded: usize) -> Launch {
    let (splits, first, n) = (parts.splits, parts.whole_rows, instance.n);
    let rows = instance.m() - first;
    let launch = Launch::new("contraction/conclude")
        .bind("partial", partial)
        .param("splits", splits)
        .param("first_row", first)
        .param("rows", rows)
        .param("N", n)
        .param("N_padded", n_padded)
        .param("rows_per_image", instance.rows_per_image)
        .flops((splits * rows * n) as u64)
        .untouched(instance.bytes_of_rows(first))
        .cover((rows * instance.context.output.channels()).div_ceil(4), 64);
    instance.epilogue.set(launch, instance.context, true)
}

/// The settings of `5_pipelined` and `5_streams` for this instance.
pub(super) fn pipelined_knobs(instance: &Instance<'_>) -> Vec<Knobs> {
    let product = [instance.m(), instance.n, instance.padded_k()];
    tile::pipelined_knobs(product, instance.context.caps, |tile| can_conclude(instance, tile.has_gates()))
}

/// The tiles of [`batch`] for GPUs.
pub(super) fn batch_knobs() -> Vec<Knobs> {
    Knobs::combinations(&[("TILE", &[64, 128])])
}

/// The rows and quads of columns that an invocation of `shuffle` may have, and whether it reads textures.
pub(super) fn shuffle_knobs(instance: &Instance<'_>) -> Vec<Knobs> {
    let largest = instance.pixels().max(instance.filter_taps()) * instance.c.div_ceil(4);
    let textures: &[usize] = if largest <= MAX_TEXELS { &[0, 1] } else { &[0] };
    Knobs::combinations(&[("ROWS", ROWS), ("QUADS", QUADS), ("TEXTURES", textures)])
}

/// The rows and quads of columns that an invocation may have in Winograd's products.
pub(super) fn batch_shuffle_knobs() -> Vec<Knobs> {
    Knobs::combinations(&[("ROWS", ROWS), ("QUADS", QUADS)])
}

const ROWS: &[usize] = &[1, 2, 4, 8];
const QUADS: &[usize] = &[1, 2, 4, 8];
