//! The matrix product behind `linear` and 1×1 convolutions: which tile, and how its launches fit together. Kernels:
//! `wgsl/linear`.

use super::activation::{ActivationKind, NONE};
use super::knobs::Knobs;
use super::lower::{Launch, Lowered, Operand};
use crate::caps::Caps;
use crate::graph::TensorDesc;

/// `y[m, n] = f(Σ_k x[m, k] · weight[n, k] + bias[n]) + residual[m, n]`; the operands are the bindings of these names.
pub(super) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub bias: bool,
    pub residual: bool,
    pub activation: Option<ActivationKind>,
}

impl Product {
    fn launch(&self, kernel: &'static str) -> Launch {
        Launch::new(kernel).param("M", self.m).param("N", self.n).flops(self.flops())
    }

    fn flops(&self) -> u64 {
        2 * (self.m * self.n) as u64 * self.k as u64
    }

    /// Sets what happens after the sum.
    fn conclude(&self, launch: Launch, here: bool) -> Launch {
        launch
            .flag("HAS_BIAS", here && self.bias)
            .flag("HAS_RESIDUAL", here && self.residual)
            .constant("ACTIVATION", self.activation.filter(|_| here).map_or(NONE, ActivationKind::code))
    }

    pub(super) fn naive(&self) -> Lowered {
        let launch = self.launch("linear/naive").param("K", self.k);
        self.conclude(launch, true).cover((self.m * self.n).div_ceil(4), 64).into()
    }

    /// For CPU drivers with subgroups of `lanes` invocations.
    pub(super) fn shuffle(&self, lanes: usize, knobs: &Knobs) -> Lowered {
        self.finish(self.shuffle_parts(lanes, 1, knobs), 1)
    }

    /// The main launch of [`Product::shuffle`] alone: it writes `parts` partial sums `y [parts, M, N]`, each over its
    /// part of K.
    fn shuffle_parts(&self, lanes: usize, parts: usize, knobs: &Knobs) -> Launch {
        let (rows, quads) = (knobs.get("ROWS"), knobs.get("QUADS"));
        self.launch("linear/shuffle")
            .constant("LANES", lanes)
            .constant("ROWS", rows)
            .constant("QUADS", quads)
            .constant("WEIGHT_LOADS", (4 * quads).div_ceil(lanes))
            .param("K", self.k)
            .param("K_per_split", self.k / parts)
            .workgroups(self.n.div_ceil(4 * quads), self.m.div_ceil(lanes * rows), parts)
    }

    /// For GPUs.
    pub(super) fn tiled(&self, knobs: &Knobs) -> Lowered {
        let tile = Tile::new(self.m, self.n, self.k, knobs);
        self.finish(self.tiled_parts(&tile), tile.splits)
    }

    /// The main launch of [`Product::tiled`] alone, as [`Product::shuffle_parts`].
    fn tiled_parts(&self, tile: &Tile) -> Launch {
        tile.launch(self.launch("linear/tiled")).param("K", self.k)
    }

    /// `parts` products at once: row m of x is `parts` rows of length K / parts one after another, and so is row n of
    /// the weights; `y [parts, M, N]`. N is a multiple of four. `lanes`: for CPU drivers, else for GPUs.
    pub(super) fn batch(&self, parts: usize, lanes: Option<usize>, knobs: &Knobs) -> Launch {
        let launch = match lanes {
            Some(lanes) => self.shuffle_parts(lanes, parts, knobs),
            None => self.tiled_parts(&Tile::batch(self.m, self.n, self.k, parts, knobs)),
        };
        self.conclude(launch.param("N_padded", self.n), false)
    }

    /// Stores `launch`'s result: directly, or if it consists of partial sums or of padded rows, by a second launch.
    fn finish(&self, launch: Launch, splits: usize) -> Lowered {
        let padded = self.n.next_multiple_of(4);
        let direct = splits == 1 && padded == self.n;
        let launch = self.conclude(launch.param("N_padded", padded), direct);
        if direct {
            return launch.into();
        }
        let reduce = self.conclude(
            self.launch("linear/reduce")
                .param("splits", splits)
                .param("N_padded", padded)
                .bind("partial", Operand::Scratch(0))
                .flops((splits * self.m * padded) as u64)
                .cover((self.m * self.n).div_ceil(4), 64),
            true,
        );
        let scratch = vec![TensorDesc::f32([splits, self.m, padded])];
        Lowered { launches: vec![launch.bind("y", Operand::Scratch(0)), reduce], scratch }
    }
}

/// How a GPU's workgroups share a matrix product, plain or implicit: wgsl/include/product_tile.wgsl.
pub(super) struct Tile {
    m: usize,
    n: usize,
    /// Rows and columns.
    size: usize,
    /// Parts that K is split into, each summed by workgroups of its own.
    pub splits: usize,
    k_per_split: usize,
}

impl Tile {
    /// Tiles of `TILE` rows and columns; the sum over K in `SPLITS` parts.
    pub(super) fn new(m: usize, n: usize, k: usize, knobs: &Knobs) -> Self {
        let (size, splits) = (knobs.get("TILE"), knobs.get("SPLITS"));
        Self { m, n, size, splits, k_per_split: k_per_split(k, size, splits) }
    }

    /// For `parts` products, each over its part of K.
    fn batch(m: usize, n: usize, k: usize, parts: usize, knobs: &Knobs) -> Self {
        Self { m, n, size: knobs.get("TILE"), splits: parts, k_per_split: k / parts }
    }

    pub(super) fn launch(&self, launch: Launch) -> Launch {
        launch
            .constant("TILE_M", self.size)
            .constant("TILE_N", self.size)
            .constant("TILE_K", 2048 / self.size)
            .param("K_per_split", self.k_per_split)
            .workgroups(self.n.div_ceil(self.size), self.m.div_ceil(self.size), self.splits)
    }
}

/// Length of each part of a sum over `k` in `splits` parts: whole tiles of K.
fn k_per_split(k: usize, size: usize, splits: usize) -> usize {
    let tile_k = 2048 / size;
    k.div_ceil(splits).next_multiple_of(tile_k).max(tile_k)
}

/// The tiles, and the numbers of parts that a sum over `k` can be in, none of them empty.
pub(super) fn tile_knobs(k: usize) -> Vec<Knobs> {
    let all = Knobs::combinations(&[("TILE", &[64, 128]), ("SPLITS", &std::array::from_fn::<_, 16, _>(|i| i + 1))]);
    let whole = |knobs: &Knobs| {
        let (size, splits) = (knobs.get("TILE"), knobs.get("SPLITS"));
        k.div_ceil(k_per_split(k, size, splits)).max(1) == splits
    };
    all.into_iter().filter(whole).collect()
}

/// The tiles of [`Product::batch`] for GPUs.
pub(super) fn batch_knobs() -> Vec<Knobs> {
    Knobs::combinations(&[("TILE", &[64, 128])])
}

/// The rows and quads of columns that an invocation of `linear/shuffle` may have.
pub(super) fn shuffle_knobs() -> Vec<Knobs> {
    Knobs::combinations(&[("ROWS", &[1, 2, 4]), ("QUADS", &[1, 2, 4, 8])])
}

/// Whether `linear/shuffle` and its kin can run: subgroups of one known size that divides into vec4s.
pub(super) fn shuffle_lanes(caps: &Caps) -> Result<usize, String> {
    match caps.subgroup_size() {
        Some(lanes) if lanes.is_multiple_of(4) && lanes <= 64 => Ok(lanes as usize),
        Some(lanes) => {
            Err(format!("needs subgroups of a multiple of 4, at most 64 invocations; here they have {lanes}"))
        }
        None => Err("needs subgroups of one size for all kernels".into()),
    }
}
