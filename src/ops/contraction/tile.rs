//! How the workgroups of a GPU share a product: the constants of `wgsl/include/product_tile.wgsl`, and the settings
//! that kernels built on it may take.

use super::instance::Instance;
use crate::caps::Caps;
use crate::ops::{Knobs, Launch, Operand};

/// The part of a product that one workgroup computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Products of each sum that are added at a time, from workgroup memory.
    pub k: usize,
    /// Rows of one invocation, in fours.
    pub row_quads: usize,
    /// Columns of one invocation, in fours.
    pub column_quads: usize,
    /// Values of k whose products are written out. Where it is all of them, GPUs load the next tile while this one is
    /// multiplied; CPU drivers only take longer to compile it.
    pub unroll: usize,
}

impl Tile {
    /// The tiles of `4_registers`: 16 by 16 invocations, 16 KiB of workgroup memory.
    pub fn square(size: usize) -> Self {
        Self { m: size, n: size, k: 2048 / size, row_quads: size / 64, column_quads: size / 64, unroll: 4 }
    }

    /// A tile of `m` by `n`, as 8 by 8 for each invocation. Narrow ones give it less, so that at least 64 take part.
    pub fn new([m, n, k]: [usize; 3]) -> Self {
        Self { m, n, k, row_quads: (m / 32).min(2), column_quads: (n / 32).min(2), unroll: k }
    }

    /// The tile of a setting from [`pipelined_knobs`].
    pub fn of(knobs: &Knobs) -> Self {
        Self::new(["TILE_M", "TILE_N", "TILE_K"].map(|name| knobs.get(name)))
    }

    /// Invocations of a workgroup.
    pub fn invocations(&self) -> usize {
        self.m * self.n / (16 * self.row_quads * self.column_quads)
    }

    /// Bytes of workgroup memory.
    fn bytes(&self) -> usize {
        4 * self.k * (self.m + self.n)
    }

    /// Whether an invocation that has a value of a gated pair also has the gate: one quad of columns for each.
    pub fn has_gates(&self) -> bool {
        self.column_quads == 2
    }

    /// The first rows of tiles of an `m` by `n` product, which are not split where the others are: as many tiles as
    /// fill whole rounds of `streams` workgroups, none if that is 0.
    pub fn whole_rows(&self, [m, n]: [usize; 2], streams: usize) -> usize {
        let columns = n.div_ceil(self.n);
        let tiles = m.div_ceil(self.m) * columns;
        tiles.checked_div(streams).map_or(0, |rounds| rounds * streams / columns)
    }

    /// Length of each part of a sum over `k` that is split into `splits` parts.
    pub fn k_per_split(&self, k: usize, splits: usize) -> usize {
        k_per_split(k, self.k, splits)
    }

    /// The constants and workgroups of a kernel that includes `product_tile`.
    pub(super) fn configure(&self, launch: Launch, instance: &Instance<'_>, splits: usize) -> Launch {
        launch
            .flag("WINDOWS", instance.windows)
            .flag("DEPTH", [instance.size[0], instance.out[0], instance.taps[0]] != [1; 3])
            .constant("TILE_M", self.m)
            .constant("TILE_N", self.n)
            .constant("TILE_K", self.k)
            .constant("ROW_QUADS", self.row_quads)
            .constant("COLUMN_QUADS", self.column_quads)
            .constant("UNROLL", self.unroll)
            .workgroups(instance.n.div_ceil(self.n), instance.m().div_ceil(self.m), splits)
    }

    /// What `next_tile` needs besides.
    pub(super) fn pipeline(&self, launch: Launch, instance: &Instance<'_>) -> Launch {
        next_tile(launch, instance, [self.m, self.n, self.k], self.invocations())
    }
}

/// Length of each part of a sum over `k` that is split into `splits` parts: whole tiles of `tile_k`.
fn k_per_split(k: usize, tile_k: usize, splits: usize) -> usize {
    k.div_ceil(splits).next_multiple_of(tile_k).max(tile_k)
}

/// Whether `splits` parts of a sum over `k` are none of them empty.
fn can_split(k: usize, tile_k: usize, splits: usize) -> bool {
    k.div_ceil(k_per_split(k, tile_k, splits)).max(1) == splits
}

/// Rows of the blocks in which `invocations` load a tile of `side` rows by `k`: as many as leave each of them whole
/// blocks, or else so few blocks that there is one for each at most.
fn block_rows(side: usize, k: usize, invocations: usize) -> Option<usize> {
    let whole = |rows: usize| (side * k / 4 / rows).is_multiple_of(invocations);
    let few = |rows: usize| side * k / 4 / rows <= invocations;
    [4, 2, 1].into_iter().find(|rows| whole(*rows) || *rows < 4 && few(*rows))
}

/// The constants of `wgsl/include/next_tile.wgsl` that both kernels share.
fn next_tile(launch: Launch, instance: &Instance<'_>, [m, n, k]: [usize; 3], invocations: usize) -> Launch {
    let rows = |side: usize| block_rows(side, k, invocations).expect("only tiles that have such blocks are listed");
    let units = |side: usize| (side * k / 4 / rows(side)).div_ceil(invocations);
    let first = instance.context.joined.unwrap_or(0);
    launch
        .constant("X_ROWS", rows(m))
        .constant("W_ROWS", rows(n))
        .constant("X_UNITS", units(m))
        .constant("W_UNITS", units(n))
        .flag("RAGGED", !instance.c.next_multiple_of(4).is_multiple_of(k) || !first.is_multiple_of(k))
        .flag("JOINED", instance.context.joined.is_some())
        .bind("x_second", Operand::Second)
}

/// The part of a product that one workgroup computes with matrix units.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixTile {
    /// Rows and columns of the matrices that the device multiplies.
    pub size: usize,
    /// Invocations of a subgroup.
    pub lanes: usize,
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Products of each sum that are added at a time, from workgroup memory.
    pub k: usize,
    /// Subgroups that share it: 4, or 8.
    pub subgroups: usize,
}

impl MatrixTile {
    /// The tile of a setting from [`matrix_knobs`].
    pub fn of(size: usize, lanes: usize, knobs: &Knobs) -> Self {
        let [m, n, k] = ["TILE_M", "TILE_N", "TILE_K"].map(|name| knobs.get(name));
        Self { size, lanes, m, n, k, subgroups: knobs.get("SUBGROUPS") }
    }

    /// It as a setting.
    fn knobs(&self, splits: usize) -> Knobs {
        Knobs::of([
            ("TILE_M", self.m),
            ("TILE_N", self.n),
            ("TILE_K", self.k),
            ("SUBGROUPS", self.subgroups),
            ("SPLITS", splits),
        ])
    }

    /// See [`Tile::k_per_split`].
    pub fn k_per_split(&self, k: usize, splits: usize) -> usize {
        k_per_split(k, self.k, splits)
    }

    /// Rows and columns of subgroups: two by two, or twice as many along the side that it divides, the longer one.
    fn sides(&self) -> [usize; 2] {
        match self.subgroups {
            8 if self.m > self.n || !self.n.is_multiple_of(4 * self.size) => [4, 2],
            8 => [2, 4],
            _ => [2, 2],
        }
    }

    /// Matrices of a subgroup's row that go through workgroup memory at a time.
    fn drain(&self) -> usize {
        let columns = self.n / self.sides()[1] / self.size;
        if columns.is_multiple_of(2) { 2 } else { 1 }
    }

    /// Bytes of workgroup memory: tiles of f16, whose rows lie 16 bytes apart, and matrices of f32, likewise.
    fn bytes(&self) -> usize {
        let results = self.subgroups * self.size * (self.drain() * self.size + 4);
        2 * (self.m + self.n) * (self.k + 8) + 4 * results
    }

    /// Whether its subgroups have whole matrices, of which an invocation can keep the sums in registers, and its
    /// invocations whole blocks.
    fn is_even(&self) -> bool {
        let ([rows, columns], invocations) = (self.sides(), self.subgroups * self.lanes);
        let whole = self.m.is_multiple_of(rows * self.size) && self.n.is_multiple_of(columns * self.size);
        let blocks = [self.m, self.n].iter().all(|side| block_rows(*side, self.k, invocations).is_some());
        whole && blocks && self.m * self.n / invocations <= 128
    }

    /// The constants and workgroups of `6_matrix`.
    pub fn configure(&self, launch: Launch, instance: &Instance<'_>, splits: usize) -> Launch {
        let [rows, columns] = self.sides();
        let launch = launch
            .flag("WINDOWS", instance.windows)
            .flag("DEPTH", [instance.size[0], instance.out[0], instance.taps[0]] != [1; 3])
            .constant("MATRIX", self.size)
            .constant("SUBGROUP", self.lanes)
            .constant("TILE_M", self.m)
            .constant("TILE_N", self.n)
            .constant("TILE_K", self.k)
            .constant("SUBGROUPS_M", rows)
            .constant("SUBGROUPS_N", columns)
            .constant("DRAIN", self.drain())
            .workgroups(instance.n.div_ceil(self.n), instance.m().div_ceil(self.m), splits);
        next_tile(launch, instance, [self.m, self.n, self.k], self.subgroups * self.lanes)
    }
}

/// The matrices and subgroups that `6_matrix` can use on this device.
///
/// # Errors
/// What it lacks.
pub(super) fn matrix_units(caps: &Caps) -> Result<(usize, usize), String> {
    let (size, lanes) = caps.matrix_units()?;
    // Four subgroups, and no more invocations than a tile has blocks to load.
    if 4 * lanes > caps.max_workgroup_invocations as usize {
        return Err(format!("needs four subgroups in a workgroup, of {lanes} invocations each"));
    }
    Ok((size, lanes))
}

/// Rows and columns of the tiles of `6_matrix`, and the subgroups that share one.
const MATRIX_TILES: [[usize; 3]; 9] = [
    [64, 64, 4],
    [128, 64, 4],
    [64, 128, 4],
    [64, 160, 4],
    [128, 128, 4],
    [128, 128, 8],
    [128, 160, 8],
    [256, 128, 8],
    [128, 256, 8],
];

/// The settings of `6_matrix` for a sum over `k` on this device.
pub(super) fn matrix_knobs(k: usize, caps: &Caps) -> Vec<Knobs> {
    let Ok((size, lanes)) = matrix_units(caps) else { return Vec::new() };
    let tiles = MATRIX_TILES
        .iter()
        .flat_map(|&[m, n, subgroups]| [32, 16, 64].map(|k| MatrixTile { size, lanes, m, n, k, subgroups }));
    let fits = |tile: &MatrixTile| {
        let invocations = tile.subgroups * lanes;
        tile.is_even()
            && invocations <= caps.max_workgroup_invocations as usize
            && tile.bytes() <= caps.workgroup_memory_bytes as usize
    };
    let knobs = |tile: MatrixTile| {
        let splits = SPLITS.into_iter().filter(move |splits| can_split(k, tile.k, *splits));
        splits.map(move |splits| tile.knobs(splits))
    };
    tiles.filter(fits).flat_map(knobs).collect()
}

/// The settings of `4_registers`: tiles, and the numbers of parts that a sum over `k` can be split into.
pub(super) fn square_knobs(k: usize) -> Vec<Knobs> {
    let all = Knobs::combinations(&[("TILE", &[64, 128]), ("SPLITS", &std::array::from_fn::<_, 16, _>(|i| i + 1))]);
    let can = |knobs: &Knobs| can_split(k, Tile::square(knobs.get("TILE")).k, knobs.get("SPLITS"));
    all.into_iter().filter(can).collect()
}

/// Rows and columns of the tiles of `5_pipelined`.
const SIDES: [[usize; 2]; 9] =
    [[32, 32], [64, 32], [32, 64], [64, 64], [128, 64], [64, 128], [128, 128], [256, 64], [64, 256]];
/// Numbers of parts.
const SPLITS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];
/// Workgroups of a round, where only the sums of the last tiles are split.
const STREAMS: [usize; 9] = [8, 16, 24, 32, 48, 64, 96, 128, 192];

/// The settings of `5_pipelined` and `5_streams` for this product on this device. `can_conclude`: whether an invocation
/// can conclude its sums, as it must where only some are split.
pub(super) fn pipelined_knobs([m, n, k]: [usize; 3], caps: &Caps, can_conclude: impl Fn(&Tile) -> bool) -> Vec<Knobs> {
    let tiles = SIDES.iter().flat_map(|[m, n]| [8, 16, 32].map(|k| Tile::new([*m, *n, k])));
    let fits = |tile: &Tile| {
        // Tiles of 8 are for those that are too large with 16.
        tile.k > 8 && tile.bytes() <= caps.workgroup_memory_bytes as usize || tile.k == 8 && tile.m + tile.n > 256
    };
    let knobs = |tile: Tile| {
        // Those that split some sums and not all of them, each in another way.
        let whole = |streams: &usize| tile.whole_rows([m, n], *streams);
        let mut partly: Vec<usize> = if can_conclude(&tile) { STREAMS.into() } else { Vec::new() };
        partly.retain(|streams| (1..m.div_ceil(tile.m)).contains(&whole(streams)));
        partly.sort_by_key(whole);
        partly.dedup_by_key(|streams| whole(streams));
        let splits = SPLITS.into_iter().filter(|splits| can_split(k, tile.k, *splits));
        let settings = splits.flat_map(|splits| {
            let partly = partly.iter().filter(move |_| splits > 1);
            [&0].into_iter().chain(partly).map(move |streams| (splits, *streams))
        });
        let of = |(splits, streams)| {
            let Tile { m, n, k, .. } = tile;
            Knobs::of([("TILE_M", m), ("TILE_N", n), ("TILE_K", k), ("SPLITS", splits), ("STREAMS", streams)])
        };
        settings.map(of).collect::<Vec<_>>()
    };
    tiles.filter(fits).flat_map(knobs).collect()
}
