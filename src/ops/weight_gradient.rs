//! What the weights of a matrix product or a convolution get of the gradient of its result.

use super::contraction::{Gather, WindowAxis, Windows, shuffle_lanes, window_params};
use super::sum::in_parts;
use super::{Case, CaseInput, Family, Inputs, Knobs, Launch, LowerContext, Operation, Variant};
use super::{expect_float, expect_shape, in_fours, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// `y[f, tap, c] = Σ_m dy[m, f] · x[pixel under the tap at m, c]`, over the rows or output positions m of a
/// [`super::contraction::Contraction`] whose weights these are.
///
/// Inputs: `x [.., C]`, `dy [.., F]`; output `[F, C]` for a matrix product, `[F, taps .., C / groups]` for a
/// convolution. Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", chapter 4.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightGradient {
    /// Which values of x the product takes.
    pub gather: Gather,
    /// Taps of the window along each of its axes; none for a matrix product.
    pub taps: Vec<usize>,
}

/// The longest sum that is taken in one part: what f32 loses stays below what the kernels promise.
const LONGEST: usize = 4096;
/// The shortest part of a sum.
const SHORTEST: usize = 64;
/// Invocations that fill a GPU.
const MANY: usize = 16_384;
/// Output positions that `shuffle` takes at a time.
const RUN: usize = 4;
/// Filters and channels of the workgroups of `registers`.
const TILES: [[usize; 2]; 4] = [[64, 64], [128, 128], [32, 64], [16, 128]];

/// An instance in the form that the kernels take: a window over planes, rows and columns.
pub(crate) struct Sizes {
    windows: bool,
    images: usize,
    size: [usize; 3],
    out: [usize; 3],
    taps: [usize; 3],
    axes: [WindowAxis; 3],
    groups: usize,
    /// Input channels.
    pub channels: usize,
    /// Filters.
    pub filters: usize,
}

impl Sizes {
    /// Output positions of all images.
    fn positions(&self) -> usize {
        self.images * self.out.iter().product::<usize>()
    }

    /// Runs of output positions of all images.
    fn runs(&self) -> usize {
        self.images * self.out[0] * self.out[1] * self.out[2].div_ceil(RUN)
    }

    fn tap_count(&self) -> usize {
        self.taps.iter().product()
    }

    fn elements(&self) -> usize {
        self.filters * self.tap_count() * (self.channels / self.groups)
    }

    /// Taps side by side that an invocation of `shuffle` sums under: three, or as many as there are; of a product, so
    /// many blocks of channels.
    fn columns(&self, lanes: usize) -> usize {
        if self.windows { self.taps[2].min(3) } else { self.channels.div_ceil(4 * lanes).min(2) }
    }

    /// Workgroups of one part of `registers`.
    pub fn tiles(&self, [f, c]: [usize; 2]) -> usize {
        self.filters.div_ceil(f) * self.channels.div_ceil(c) * self.tap_count()
    }

    /// Workgroups of one part of `shuffle`, along x and y.
    pub fn groups(&self, lanes: usize, quads: usize) -> [usize; 2] {
        let columns = self.columns(lanes);
        let filters = self.filters.div_ceil(4 * quads);
        if self.windows {
            let lines = self.taps[0] * self.taps[1] * self.taps[2].div_ceil(columns);
            [self.channels.div_ceil(4 * lanes), filters * lines]
        } else {
            [self.channels.div_ceil(4 * lanes * columns), filters]
        }
    }

    fn launch(&self, kernel: &'static str, parts: usize, length: usize) -> Launch {
        let launch = Launch::new(kernel)
            .flag("DY_VECTORS", self.filters.is_multiple_of(4))
            .param("images", self.images)
            .param("C", self.channels)
            .param("F", self.filters)
            .param("groups", self.groups)
            .param("parts", parts)
            .param("length", length);
        window_params(launch, [self.size, self.out, self.taps], self.axes)
    }

    /// One group of whole vectors of channels, which the fast kernels need.
    fn in_vectors(&self) -> std::result::Result<(), String> {
        in_fours("input channels", self.channels)?;
        if self.groups == 1 { Ok(()) } else { Err(format!("groups: needs one, there are {}", self.groups)) }
    }
}

/// Numbers of parts in which a sum of `length` terms can be taken.
fn parts_of(length: usize) -> Vec<usize> {
    let least = length.div_ceil(LONGEST).max(1);
    let doubled = |parts: &usize| Some(2 * parts).filter(|parts| length / parts >= SHORTEST);
    // Rounded up, a part may be so long that fewer are enough: such numbers are left out.
    std::iter::successors(Some(least), doubled)
        .filter(|parts| length.div_ceil(length.div_ceil(*parts)) == *parts)
        .collect()
}

impl WeightGradient {
    fn groups(&self) -> usize {
        match &self.gather {
            Gather::Rows => 1,
            Gather::Windows(windows) => windows.groups,
        }
    }

    /// The shape of the weights.
    fn shape(&self, x: &TensorDesc, dy: &TensorDesc) -> Vec<usize> {
        [&[dy.channels()], &self.taps[..], &[x.channels() / self.groups()]].concat()
    }

    /// The sizes that the choice of a setting depends on.
    pub(crate) fn sizes(&self, context: &LowerContext<'_>) -> Sizes {
        let (x, dy) = (context.input(0), context.input(1));
        let line = Sizes {
            windows: false,
            images: 1,
            size: [1, 1, x.rows()],
            out: [1, 1, x.rows()],
            taps: [1; 3],
            axes: [WindowAxis::default(); 3],
            groups: 1,
            channels: x.channels(),
            filters: dy.channels(),
        };
        let Gather::Windows(windows) = &self.gather else { return line };
        // The axes that exist come last: a line is a picture of one row.
        let spatial = windows.axes.len();
        let place = |dims: &[usize]| {
            let mut all = [1; 3];
            all[3 - spatial..].copy_from_slice(dims);
            all
        };
        let mut axes = line.axes;
        axes[3 - spatial..].copy_from_slice(&windows.axes);
        Sizes {
            windows: true,
            images: x.shape[0],
            size: place(&x.shape[1..=spatial]),
            out: place(&dy.shape[1..=spatial]),
            taps: place(&self.taps),
            axes,
            groups: windows.groups,
            ..line
        }
    }
}

impl Operation for WeightGradient {
    const NAME: &'static str = "weight_gradient";
    const INPUTS: &'static [&'static str] = &["x", "dy"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, dy) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("dy", dy.dtype)?;
        if x.shape.is_empty() || dy.shape.is_empty() || !x.channels().is_multiple_of(self.groups().max(1)) {
            return Err(Error::Shape(format!("x {:?} and dy {:?} need channels, in whole groups", x.shape, dy.shape)));
        }
        let shape = self.shape(x, dy);
        let result = match &self.gather {
            Gather::Rows => [&x.shape[..x.shape.len() - 1], &[dy.channels()]].concat(),
            Gather::Windows(windows) if windows.upsample == 1 => windows.output_shape(&x.shape, &shape)?,
            Gather::Windows(_) => return Err(Error::Shape("the pixels of x cannot be repeated here".into())),
        };
        expect_shape("dy", &dy.shape, &result)?;
        Ok(dy.with_shape(shape))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        let dy = inputs.get(1);
        2 * (dy.rows() as u64).saturating_mul(output.elements() as u64)
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (x, dy) = (inputs.get(0), inputs.get(1));
        let last = |tensor: &HostTensor| tensor.shape[tensor.shape.len() - 1];
        let shape = [&[last(dy)], &self.taps[..], &[last(x) / self.groups()]].concat();
        let axes: &[WindowAxis] = match &self.gather {
            Gather::Rows => &[],
            Gather::Windows(windows) => &windows.axes,
        };
        let of = |number: fn(&WindowAxis) -> usize| axes.iter().map(number).collect::<Vec<_>>();
        let [stride, before, dilation] = [of(|a| a.stride), of(|a| a.padding[0]), of(|a| a.dilation)];
        reference::weight_gradient(x, dy, &shape, &stride, &before, &dilation, self.groups())
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "registers",
                family: Family::Gpu,
                legal: |op, context| op.sizes(context).in_vectors(),
                knobs: |op, context| {
                    let parts = parts_of(op.sizes(context).positions());
                    let tiled = |[f, c]: [usize; 2]| {
                        let setting = move |parts: &usize| Knobs::of([("TILE_F", f), ("TILE_C", c), ("PARTS", *parts)]);
                        parts.iter().map(setting).collect::<Vec<_>>()
                    };
                    TILES.into_iter().flat_map(tiled).collect()
                },
                lower: |op, context, knobs| {
                    let sizes = op.sizes(context);
                    let [f, c, parts] = ["TILE_F", "TILE_C", "PARTS"].map(|name| knobs.get(name));
                    let [f_quads, c_quads] = [f, c].map(|side| if side < 64 { 1 } else { 2 });
                    let length = sizes.positions().div_ceil(parts);
                    let launch = sizes
                        .launch("weight_gradient/registers", parts, length)
                        .flag("WINDOWS", sizes.windows)
                        .constant("TILE_F", f)
                        .constant("TILE_C", c)
                        .constant("F_QUADS", f_quads)
                        .constant("C_QUADS", c_quads)
                        .constant("INVOCATIONS", f * c / (16 * f_quads * c_quads))
                        .workgroups(sizes.channels.div_ceil(c), sizes.filters.div_ceil(f), parts * sizes.tap_count());
                    in_parts(launch, parts, sizes.elements())
                },
            },
            Variant {
                name: "shuffle",
                family: Family::Cpu,
                legal: |op, context| {
                    let sizes = op.sizes(context);
                    sizes.in_vectors()?;
                    shuffle_lanes(context.caps)?;
                    let parts = parts_of(sizes.runs());
                    context.can_loop(sizes.runs().div_ceil(parts[0]))
                },
                knobs: |op, context| {
                    let parts = parts_of(op.sizes(context).runs());
                    let lanes = shuffle_lanes(context.caps).expect("`legal` was asked first");
                    let quads: Vec<usize> = [4, 8, 2, 1].into_iter().filter(|quads| *quads <= lanes).collect();
                    Knobs::combinations(&[("QUADS", &quads), ("PARTS", &parts)])
                },
                lower: |op, context, knobs| {
                    let sizes = op.sizes(context);
                    let lanes = shuffle_lanes(context.caps).expect("`legal` was asked first");
                    let [quads, parts] = ["QUADS", "PARTS"].map(|name| knobs.get(name));
                    let columns = sizes.columns(lanes);
                    let across = sizes.axes[2];
                    let slide = sizes.windows && across.stride == 1 && across.dilation == 1;
                    let step = if slide { 1 } else { columns };
                    let [x, y] = sizes.groups(lanes, quads);
                    let launch = sizes
                        .launch("weight_gradient/shuffle", parts, sizes.runs().div_ceil(parts))
                        .flag("WINDOWS", sizes.windows)
                        .flag("SLIDE", slide)
                        .constant("LANES", lanes)
                        .constant("QUADS", quads)
                        .constant("COLUMNS", columns)
                        .constant("STEP", step)
                        .constant("PIXELS", (RUN - 1) * step + columns)
                        .workgroups(x, y, parts);
                    in_parts(launch, parts, sizes.elements())
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let sizes = op.sizes(context);
                    let positions = sizes.positions();
                    // As many as fill a GPU, if they are not too short; and none of them too long.
                    let wanted = MANY.div_ceil(sizes.elements().div_ceil(4)).min(positions / SHORTEST);
                    let limit =
                        context.caps.max_loop_rounds.map_or(LONGEST, |rounds| LONGEST.min(rounds as usize / 4 - 2));
                    let length = positions.div_ceil(wanted.max(1)).min(limit);
                    let parts = positions.div_ceil(length);
                    let invocations = (parts * sizes.elements()).div_ceil(4);
                    let launch = sizes.launch("weight_gradient/naive", parts, length).cover(invocations, 64);
                    in_parts(launch, parts, sizes.elements())
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        let taps = self.taps.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        if taps.is_empty() { self.gather.to_string() } else { format!("{} taps={taps}", self.gather) }
    }

    fn cases() -> Vec<Case> {
        let rows = |label, x: &[usize], filters: usize| {
            let dy = [&x[..x.len() - 1], &[filters]].concat();
            let op = WeightGradient { gather: Gather::Rows, taps: Vec::new() };
            Case::new(label, op, vec![CaseInput::normal(x), CaseInput::normal(dy)])
        };
        let windows = |label, x: &[usize], filters: usize, taps: &[usize], axes: &[WindowAxis], groups: usize| {
            let windows = Windows { axes: axes.to_vec(), groups, upsample: 1 };
            let weight = [&[filters], taps, &[x[x.len() - 1] / groups]].concat();
            let dy = windows.output_shape(x, &weight).expect("a case fits");
            let op = WeightGradient { gather: Gather::Windows(windows), taps: taps.to_vec() };
            Case::new(label, op, vec![CaseInput::normal(x), CaseInput::normal(dy)])
        };
        let plain = WindowAxis::default();
        let padded = |padding| WindowAxis { padding: [padding; 2], ..plain };
        let one = padded(1);
        let strided = WindowAxis { stride: 2, padding: [0, 1], ..plain };
        let dilated = WindowAxis { dilation: 2, padding: [2, 1], ..plain };
        vec![
            rows("product, odd sizes", &[3, 7], 5),
            rows("product, whole vectors", &[2, 9, 12], 8),
            rows("product, a tile and one", &[70, 68], 65),
            rows("product, whole tiles", &[64, 128], 64),
            rows("product, more than two tiles", &[41, 132], 130),
            rows("product of a low rank", &[3, 67, 36], 4),
            windows("3 x 3, one channel", &[2, 7, 6, 1], 8, &[3, 3], &[one, one], 1),
            windows("3 x 3 to three filters", &[2, 7, 5, 8], 3, &[3, 3], &[one, one], 1),
            windows("3 x 3, a tile and one", &[2, 9, 7, 36], 33, &[3, 3], &[one, one], 1),
            windows("3 x 3 in steps of two", &[3, 9, 10, 12], 20, &[3, 3], &[strided, strided], 1),
            windows("3 x 2, dilated across", &[2, 6, 9, 8], 12, &[3, 2], &[one, dilated], 1),
            windows("5 taps of a line, one image", &[1, 19, 8], 12, &[5], &[padded(2)], 1),
            windows("three axes", &[2, 3, 4, 5, 4], 8, &[2, 3, 1], &[plain, one, plain], 1),
            windows("padding beyond the filter", &[2, 4, 5, 8], 4, &[1, 2], &[plain, padded(2)], 1),
            windows("two groups", &[2, 6, 5, 8], 12, &[3, 3], &[one, one], 2),
            windows("each channel a group", &[2, 6, 5, 6], 6, &[3, 3], &[one, strided], 6),
            windows("in parts", &[5, 24, 20, 16], 32, &[3, 3], &[one, one], 1),
            windows("a long sum", &[9, 64, 64, 4], 8, &[3, 3], &[one, one], 1).large(),
            rows("a long product", &[40_001, 8], 12).large(),
            windows("16 x 32 x 32, 64 to 32 channels", &[16, 32, 32, 64], 32, &[3, 3], &[one, one], 1).perf(),
            windows("4 x 64 x 64, 320 to 320 channels", &[4, 64, 64, 320], 320, &[3, 3], &[one, one], 1).perf(),
            rows("4 x 1024 rows, 640 to 640 columns", &[4096, 640], 640).perf(),
        ]
    }
}
