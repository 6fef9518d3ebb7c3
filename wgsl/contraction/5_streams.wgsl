// contraction, 5_streams: y = scale * (f(x * weight + bias + summand) + residual) as 5_pipelined.wgsl, with the work of
// the last tiles shared by more workgroups
//
// A GPU runs many workgroups at once, and the last ones seldom fill it. Here the first tiles are whole, as in
// 5_pipelined.wgsl; the sums of the last ones, in whole_rows and after them, are split along K, so that short pieces of
// work come last and fill what the whole tiles leave idle. Their partial sums are the only ones that go to memory, for
// conclude.wgsl. x, weight, parameters: include/gather.wgsl; bias, summand, residual and y: include/epilogue.wgsl.
//
//   partial  [parts, M - whole_rows, N]  f32
// dispatch:   x = N / TILE_N, y = whole_rows / TILE_M for whole tiles, then for each further row of tiles the parts
// requires:   as 5_pipelined, and whole_rows % TILE_M = 0; N % 4 = 0, or % 8 and COLUMN_QUADS = 2 with a gate
// constants:  as 5_pipelined: TILE_M, TILE_N, TILE_K; ROW_QUADS, COLUMN_QUADS; UNROLL; X_ROWS, W_ROWS, X_UNITS,
//             W_UNITS, RAGGED, WINDOWS, DEPTH, JOINED; HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION, GATE
// error:      1e-5 relative L2 in f32 for K = KD * KH * KW * C <= 23040
// faster:     than 5_pipelined where its last round of workgroups would be far from full. By the account of
//             tools/offline.py, which is not measured, in which rounds wait for each other
// source:     Osama et al. 2023, "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-Matrix Multiplication
//             on the GPU": the hybrid of whole tiles and shared ones; here with equal parts of each shared tile
//!include gather
//!include epilogue
//!include product_tile
//!include next_tile
//!include sum_tile
//!include store_tile

@group(0) @binding(6) var<uniform> p: Params;
@group(0) @binding(7) var<storage, read_write> partial: array<vec4<f32>>;

// Stores the sums of one part of the tile whose first row is m0, by invocation (row, column).
fn store_part(workgroup: vec3<u32>, part: u32, m0: u32, M: u32, row: u32, column: u32) {
    let first = part * (M - p.whole_rows); // row of `partial`
    //!unroll
    for (var j = 0u; j < COLUMN_QUADS; j++) {
        let n = column_of(workgroup.x, 4u * (LANES_N * j + column), TILE_N);
        // With a gate the first quad holds values, which end at half of the columns.
        if (n < select(p.N, p.N / 2u, GATE && j == 0u)) {
            //!unroll
            for (var q = 0u; q < ROW_QUADS; q++) {
                //!unroll
                for (var r = 0u; r < 4u; r++) {
                    let m = m0 + 4u * (LANES_M * q + row) + r;
                    if (m < M) { partial[((first + m - p.whole_rows) * p.N + n) / 4u] = sums[4u * q + r][j]; }
                }
            }
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let M = p.images * p.OD * p.OH * p.OW;
    let K = p.KD * p.KH * p.KW * p.C;
    let parts = (K + p.K_per_split - 1u) / p.K_per_split;
    // Workgroups before this one along y, and how many of them have parts.
    let y = workgroup.y + p.first_workgroup_y;
    let whole = p.whole_rows / TILE_M;
    let before = max(y, whole) - whole;
    let part = before % parts;
    let m0 = (min(y, whole) + before / parts) * TILE_M;
    let is_whole = y < whole;
    let k_first = part * p.K_per_split;
    sum_tile(workgroup, m0, M, k_first, select(part_end(k_first), K, is_whole), local);
    if (is_whole) {
        store_tile(workgroup, m0, M, local / LANES_N, local % LANES_N);
    } else {
        store_part(workgroup, part, m0, M, local / LANES_N, local % LANES_N);
    }
}
