// contraction, 6_matrix: y = scale * (f(x * weight + bias + summand) + residual) as 5_pipelined.wgsl, multiplied by the
// device's matrix units
//
// The invocations of a subgroup compute whole small matrices together (cooperative matrices, include/matrix_16.wgsl,
// matrix_8.wgsl, matrix_tiles.wgsl). A workgroup has SUBGROUPS_M by SUBGROUPS_N subgroups, each of which sums ROWS by
// COLUMNS such matrices. Products are exact, sums are f32. No invocation knows which elements it has, so that sums go
// through workgroup memory once more before the epilogue. Tiles come as in 5_pipelined.wgsl, by include/next_tile.wgsl.
// x, weight and the parameters: include/gather.wgsl; bias, summand, residual and y: include/epilogue.wgsl. Where K is
// split, workgroup z sums one part of it and y holds partial sums [splits, M, N_padded] for conclude.wgsl. If JOINED, x
// and x_second hold the first and the last channels.
//
// dispatch:   x = N / TILE_N, y = M / TILE_M, z = splits
// requires:   x and weight in f16; C % 4 = 0; groups = 1; no gate; at most 31 taps; N_padded is N rounded up to a
//             multiple of 4, and the epilogue is empty where they differ or splits > 1; arithmetic in f16; subgroups of
//             SUBGROUP invocations that follow each other, and their product of MATRIX by MATRIX matrices of f16 with
//             sums in f32; 2 (TILE_M + TILE_N) PITCH + 4 SUBGROUPS MATRIX RESULT_ROW bytes of workgroup memory, more
//             than WebGPU promises in most settings
// constants:  MATRIX = 8 or 16; SUBGROUP; SUBGROUPS_M, SUBGROUPS_N; TILE_M, TILE_N: multiples of as many MATRIX;
//             TILE_K: of MATRIX; DRAIN: divides COLUMNS; X_ROWS, W_ROWS, X_UNITS, W_UNITS, RAGGED, WINDOWS, DEPTH,
//             JOINED: see next_tile; those of the epilogue: HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION. SUBGROUPS,
//             INVOCATIONS, ROWS, COLUMNS, PITCH and RESULT_ROW follow
// error:      1e-5 relative L2 in f32 for K = KD * KH * KW * C <= 23040
// faster:     than 5_pipelined by 3 to 7 on an H100, where 3x3 convolutions of Stable Diffusion reach 90 to 180 TFLOP/s
//             of 640 (2026-11-26, benches/results/h100.md)
// source:     the WGSL extension wgpu_cooperative_matrix (SPV_KHR_cooperative_matrix, Metal's simdgroup_matrix);
//             Markidis et al. 2018, "NVIDIA Tensor Core Programmability, Performance & Precision"
enable f16;
enable wgpu_cooperative_matrix;
//!include gather
//!include epilogue
//!include next_tile

const MATRIX: u32 = 16u;
const SUBGROUP: u32 = 32u;
const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 32u;
const SUBGROUPS_M: u32 = 2u;
const SUBGROUPS_N: u32 = 2u;
const DRAIN: u32 = 2u;
const SUBGROUPS: u32 = SUBGROUPS_M * SUBGROUPS_N;
const INVOCATIONS: u32 = SUBGROUP * SUBGROUPS;
const ROWS: u32 = TILE_M / SUBGROUPS_M / MATRIX;
const COLUMNS: u32 = TILE_N / SUBGROUPS_N / MATRIX;
// Rows in workgroup memory, which 16 bytes set apart, or all would begin in the same few banks.
const PITCH: u32 = TILE_K + 8u;
const RESULT_ROW: u32 = DRAIN * MATRIX + 4u;

@group(0) @binding(6) var<uniform> p: Params;

var<workgroup> tile_x: array<f16, TILE_M * PITCH>; // [row, k]
var<workgroup> tile_w: array<f16, TILE_N * PITCH>; // [column, k]
var<workgroup> results: array<f32, SUBGROUPS * MATRIX * RESULT_ROW>; // [subgroup, row, column]

//!include matrix_{MATRIX}
//!include matrix_tiles

fn put_x(at: u32, v: vec4<f16>) {
    tile_x[at] = v.x;
    tile_x[at + 1u] = v.y;
    tile_x[at + 2u] = v.z;
    tile_x[at + 3u] = v.w;
}

fn put_w(at: u32, v: vec4<f16>) {
    tile_w[at] = v.x;
    tile_w[at + 1u] = v.y;
    tile_w[at + 2u] = v.z;
    tile_w[at + 3u] = v.w;
}

// Concludes and stores four sums from row m and column n on.
fn store(sum: vec4<f32>, m: u32, n: u32, M: u32, part: u32) {
    if (m >= M || n >= p.N) { return; }
    let image = m / p.rows_per_image;
    let index = ((part * M + m) * p.N_padded + n) / 4u;
    y[index] = encode_y(conclude(sum + common_addend(image, n), image, n, index));
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let M = p.images * p.OD * p.OH * p.OW;
    let m0 = (workgroup.y + p.first_workgroup_y) * TILE_M;
    let x_at = x_block(local);
    let w_at = w_block(local);
    let k_first = workgroup.z * p.K_per_split;
    let end = part_end(k_first);
    // This subgroup's first row and column of the tile, and its part of `results`.
    let own = local / SUBGROUP;
    let first_row = own / SUBGROUPS_N * ROWS * MATRIX;
    let first_column = own % SUBGROUPS_N * COLUMNS * MATRIX;
    let own_results = own * MATRIX * RESULT_ROW;

    var sums: array<array<matrix_c, COLUMNS>, ROWS>;
    begin_tiles(workgroup, m0, M, local);
    for (var k0 = k_first; k0 < end; k0 += TILE_K) {
        if (stores_x(local)) {
            //!unroll
            for (var i = 0u; i < X_ROWS * X_UNITS; i++) {
                put_x((x_at.x + i / X_ROWS * X_APART + i % X_ROWS) * PITCH + x_at.y, stored_x(i));
            }
        }
        if (stores_w(local)) {
            //!unroll
            for (var i = 0u; i < W_ROWS * W_UNITS; i++) {
                put_w((w_at.x + i / W_ROWS * W_APART + i % W_ROWS) * PITCH + w_at.y, stored_w(i));
            }
        }
        workgroupBarrier();
        // After the last tile it is loaded once more.
        if (k0 + TILE_K < end) { advance(); }
        fetch_tile();
        //!unroll
        for (var k = 0u; k < TILE_K / MATRIX; k++) {
            var b: array<matrix_b, COLUMNS>;
            //!unroll
            for (var j = 0u; j < COLUMNS; j++) { b[j] = load_b((first_column + j * MATRIX) * PITCH + k * MATRIX); }
            //!unroll
            for (var i = 0u; i < ROWS; i++) {
                let a = load_a((first_row + i * MATRIX) * PITCH + k * MATRIX);
                //!unroll
                for (var j = 0u; j < COLUMNS; j++) { sums[i][j] = multiply_add(a, b[j], sums[i][j]); }
            }
        }
        workgroupBarrier();
    }

    // DRAIN matrices of each subgroup at a time.
    //!unroll
    for (var i = 0u; i < ROWS; i++) {
        //!unroll
        for (var j = 0u; j < COLUMNS / DRAIN; j++) {
            //!unroll
            for (var d = 0u; d < DRAIN; d++) { store_sums(sums[i][DRAIN * j + d], own_results + d * MATRIX); }
            workgroupBarrier();
            for (var v = local % SUBGROUP; v < MATRIX * DRAIN * MATRIX / 4u; v += SUBGROUP) {
                let row = v / (DRAIN * MATRIX / 4u);
                let column = 4u * (v % (DRAIN * MATRIX / 4u));
                let at = own_results + row * RESULT_ROW + column;
                let sum = vec4<f32>(results[at], results[at + 1u], results[at + 2u], results[at + 3u]);
                let n = workgroup.x * TILE_N + first_column + DRAIN * j * MATRIX + column;
                store(sum, m0 + first_row + i * MATRIX + row, n, M, workgroup.z);
            }
            workgroupBarrier();
        }
    }
}
