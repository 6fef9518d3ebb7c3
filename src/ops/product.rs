//! The matrix product behind `linear` and 1×1 convolutions: which tile, and how its launches fit together. Kernels:
//! `wgsl/linear`.

use super::activation::{ActivationKind, NONE};
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
    pub(super) fn shuffle(&self, lanes: usize) -> Lowered {
        self.finish(self.shuffle_parts(lanes, 1), 1)
    }

    /// The main launch of [`Product::shuffle`] alone: it writes `parts` partial sums `y [parts, M, N]`, each over its
    /// part of K.
    fn shuffle_parts(&self, lanes: usize, parts: usize) -> Launch {
        // Few rows (time embeddings): one row a lane, or most rows would be computed for nothing. Few columns, or few
        // left over beyond a multiple of 32: narrower tiles for the same reason.
        let rows = if self.m <= lanes { 1 } else { 4 };
        let quads = match self.n {
            0..=4 => 1,
            5..=8 => 2,
            n if (1..=16).contains(&(n % 32)) => 4,
            _ => 8,
        };
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
    pub(super) fn tiled(&self) -> Lowered {
        let tile = Tile::new(self.m, self.n, self.k);
        self.finish(self.tiled_parts(&tile), tile.splits)
    }

    /// The main launch of [`Product::tiled`] alone, as [`Product::shuffle_parts`].
    fn tiled_parts(&self, tile: &Tile) -> Launch {
        tile.launch(self.launch("linear/tiled")).param("K", self.k)
    }

    /// `parts` products at once: row m of x is `parts` rows of length K / parts one after another, and so is row n of
    /// the weights; `y [parts, M, N]`. N is a multiple of four. `lanes`: for CPU drivers, else for GPUs.
    pub(super) fn batch(&self, parts: usize, lanes: Option<usize>) -> Launch {
        let launch = match lanes {
            Some(lanes) => self.shuffle_parts(lanes, parts),
            None => self.tiled_parts(&Tile::batch(self.m, self.n, self.k, parts)),
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
    /// Tiles of 128 × 128 use each value they load most often; but a GPU has up to about a hundred cores, and every one
    /// of them needs a workgroup or two, so small products get tiles of 64 × 64, and those that are still too few and
    /// have a long sum are split along it.
    pub(super) fn new(m: usize, n: usize, k: usize) -> Self {
        let tiles = |size: usize| m.div_ceil(size) * n.div_ceil(size);
        let size = if tiles(128) >= 128 { 128 } else { 64 };
        // At least 512 products in each part, or adding up the parts costs more than it saves.
        let splits = (256 / tiles(size).max(1)).min(k / 512).clamp(1, 16);
        let k_per_split = k.div_ceil(splits).next_multiple_of(2048 / size);
        Self { m, n, size, splits: k.div_ceil(k_per_split).max(1), k_per_split }
    }

    /// For `parts` products, each over its part of K.
    fn batch(m: usize, n: usize, k: usize, parts: usize) -> Self {
        let size = if parts * m.div_ceil(128) * n.div_ceil(128) >= 128 { 128 } else { 64 };
        Self { m, n, size, splits: parts, k_per_split: k / parts }
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

/// Whether `linear/shuffle` and its kin can run: subgroups of one known size that divides into vec4s.
pub(super) fn shuffle_lanes(caps: &Caps) -> Result<usize, String> {
    match caps.subgroup_size {
        Some(lanes) if lanes.is_multiple_of(4) && lanes <= 64 => Ok(lanes as usize),
        Some(lanes) => {
            Err(format!("needs subgroups of a multiple of 4, at most 64 invocations; here they have {lanes}"))
        }
        None => Err("needs subgroups of one size for all kernels".into()),
    }
}
