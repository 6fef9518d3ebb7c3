//! One contraction in the form that the kernels take: a window over planes, rows and columns, whatever the gather.

use super::{Contraction, Epilogue, Gather, RESIDUAL, SUMMAND, WindowAxis};
use crate::ops::lower::nested;
use crate::ops::{Launch, LowerContext};

/// The sizes of one contraction, `wgsl/include/gather.wgsl`.
pub(super) struct Instance<'a> {
    pub context: &'a LowerContext<'a>,
    pub epilogue: &'a Epilogue,
    /// Whether the window may have several taps or skip positions; otherwise the kernels take a shortcut.
    pub windows: bool,
    pub images: usize,
    /// Planes, rows and columns of a picture, its pixels repeated as they should be.
    pub size: [usize; 3],
    /// How often each pixel of x is repeated along each axis of the picture.
    pub upsample: usize,
    /// Input channels.
    pub c: usize,
    /// Planes, rows and columns of the output.
    pub out: [usize; 3],
    /// Output channels of the sum, before a gate halves them.
    pub n: usize,
    pub taps: [usize; 3],
    pub axes: [WindowAxis; 3],
    pub groups: usize,
    /// Rows of the result that belong to one image.
    pub rows_per_image: usize,
}

/// The sizes that the choice of variant depends on.
pub(crate) struct Sizes {
    /// M, N and K of the product, with input channels padded to whole vectors as the fast kernels read them.
    pub product: [usize; 3],
    /// Whether the kernels treat it as a convolution, not a plain product.
    pub windows: bool,
    /// Images, output rows and output columns.
    pub picture: [usize; 3],
    /// Positions of the input, of all images.
    pub positions: usize,
    /// Input channels.
    pub c_in: usize,
    /// Groups of channels.
    pub groups: usize,
    /// Taps of the window.
    pub taps: usize,
}

/// How sums are split.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// Parts of each sum.
    pub splits: usize,
    /// Length of each of them.
    pub k: usize,
    /// Rows of y in front of which no sum is split, while all others are.
    pub whole_rows: usize,
}

impl Parts {
    /// Sums over `k` that are not split.
    pub fn one(k: usize) -> Self {
        Self { splits: 1, k, whole_rows: 0 }
    }
}

impl Sizes {
    /// Tiles of `tile` × `tile` output pixels.
    pub fn tiles(&self, tile: usize) -> usize {
        let [images, rows, columns] = self.picture;
        images * rows.div_ceil(tile) * columns.div_ceil(tile)
    }
}

impl<'a> Instance<'a> {
    pub fn new(op: &'a Contraction, context: &'a LowerContext<'a>) -> Self {
        let (x, weight) = (&context.input(0).shape, &context.input(super::WEIGHT).shape);
        let y = context.output;
        let rows = y.rows();
        let images = if y.shape.len() > 1 { y.shape[0] } else { 1 };
        let line = Self {
            context,
            epilogue: &op.epilogue,
            windows: false,
            images: 1,
            size: [1, 1, rows],
            upsample: 1,
            c: context.input(0).channels(),
            out: [1, 1, rows],
            n: weight[0],
            taps: [1; 3],
            axes: [WindowAxis::default(); 3],
            groups: 1,
            rows_per_image: rows / images.max(1),
        };
        let Gather::Windows(windows) = &op.gather else { return line };
        let spatial = windows.axes.len();
        let one_tap = weight[1..=spatial].iter().all(|taps| *taps == 1);
        let every_pixel = windows.upsample == 1 && windows.axes.iter().all(|a| a.stride == 1 && a.padding == [0; 2]);
        if one_tap && every_pixel && windows.groups == 1 {
            return line;
        }
        // The axes that exist come last: a line is a picture of one row.
        let place = |dims: &[usize]| {
            let mut all = [1; 3];
            all[3 - spatial..].copy_from_slice(&dims[1..=spatial]);
            all
        };
        let mut size = place(x);
        size[3 - spatial..].iter_mut().for_each(|size| *size *= windows.upsample);
        let mut axes = [WindowAxis::default(); 3];
        axes[3 - spatial..].copy_from_slice(&windows.axes);
        Self {
            windows: true,
            images,
            size,
            upsample: windows.upsample,
            out: place(&y.shape),
            taps: place(weight),
            axes,
            groups: windows.groups,
            ..line
        }
    }

    /// Rows of the result: output positions of all images.
    pub fn m(&self) -> usize {
        self.images * self.out.iter().product::<usize>()
    }

    /// Pixels of the pictures, of all images.
    pub fn pixels(&self) -> usize {
        self.images * self.size.iter().product::<usize>()
    }

    /// Taps of all filters, each with weights for all input channels of a group.
    pub fn filter_taps(&self) -> usize {
        self.n * self.taps.iter().product::<usize>()
    }

    /// Length of a sum where channels are read in fours.
    pub fn padded_k(&self) -> usize {
        self.taps.iter().product::<usize>() * (self.c / self.groups).next_multiple_of(4)
    }

    /// Rounds of the loops over a window, with `channels` channels per round.
    pub fn rounds(&self, channels: usize) -> usize {
        let [planes, rows, columns] = self.taps;
        nested(&[planes, rows, columns, self.c / self.groups / channels])
    }

    /// Bytes of so many rows of y, and of whatever is added to it row by row.
    pub fn bytes_of_rows(&self, rows: usize) -> u64 {
        let added = [SUMMAND, RESIDUAL].map(|position| self.context.inputs.get(position).copied().flatten());
        let all = [Some(self.context.output)].into_iter().chain(added).flatten().filter(|desc| desc.rows() == self.m());
        all.map(|desc| desc.bytes()).sum::<u64>() / self.m() as u64 * rows as u64
    }

    pub fn sizes(&self) -> Sizes {
        Sizes {
            product: [self.m(), self.n, self.padded_k()],
            windows: self.windows,
            picture: [self.images, self.out[1], self.out[2]],
            positions: self.images * self.size.iter().product::<usize>(),
            c_in: self.c,
            groups: self.groups,
            taps: self.taps.iter().product(),
        }
    }

    pub fn flops(&self) -> u64 {
        let k = self.taps.iter().product::<usize>() * (self.c / self.groups);
        2 * (self.m() * self.n) as u64 * k as u64
    }

    /// A launch with the parameters of `include/gather.wgsl` except `scale`; `c` channels of x and `n` columns of y in
    /// memory.
    pub fn launch(&self, kernel: &'static str, c: usize, n: usize, parts: Parts) -> Launch {
        let launch = Launch::new(kernel)
            .param("images", self.images)
            .param("C", c)
            .param("C_first", self.context.joined.unwrap_or(0))
            .param("N", self.n)
            .param("groups", self.groups)
            .param("rows_per_image", self.rows_per_image)
            .param("N_padded", n)
            .param("K_per_split", parts.k)
            .param("whole_rows", parts.whole_rows)
            .flops(self.flops());
        window_params(launch, [self.size, self.out, self.taps], self.axes)
    }
}

/// The parameters of a window that moves over planes, rows and columns of a picture, by the names that kernels have for
/// them; sizes of picture, output and window.
pub(in crate::ops) fn window_params(mut launch: Launch, sizes: [[usize; 3]; 3], axes: [WindowAxis; 3]) -> Launch {
    const AXES: [[&str; 6]; 3] = [
        ["D", "OD", "KD", "stride_d", "pad_d", "dilation_d"],
        ["H", "OH", "KH", "stride_h", "pad_h", "dilation_h"],
        ["W", "OW", "KW", "stride_w", "pad_w", "dilation_w"],
    ];
    let [size, out, taps] = sizes;
    for (i, names) in AXES.into_iter().enumerate() {
        let WindowAxis { stride, padding, dilation } = axes[i];
        let values = [size[i], out[i], taps[i], stride, padding[0], dilation];
        launch = names.into_iter().zip(values).fold(launch, |launch, (name, value)| launch.param(name, value));
    }
    launch
}
