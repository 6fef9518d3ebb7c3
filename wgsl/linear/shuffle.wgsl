// linear, shuffle: y = f(x weight^T + bias) + residual as in naive.wgsl, for CPU drivers: no workgroup memory, no
// barriers
//
// A workgroup is one subgroup and computes LANES * ROWS rows by 4 * QUADS columns of y. Each lane owns ROWS rows of x
// and loads them itself, four values along K at a time. Weights are loaded once for the whole subgroup, each lane
// taking one column of y, and passed round by subgroupShuffle.
//
//   x         [M, K]   f32 or f16
//   weight    [N, K]   f32 or f16
//   bias      [N]      f32, if HAS_BIAS
//   residual  [M, N]   f32 or f16, if HAS_RESIDUAL
//   y         [splits, M, N_padded]  f32 or f16
// dispatch:   x = columns / (4 * QUADS), y = rows / (LANES * ROWS), z = splits: workgroup z adds up its part of K
// requires:   subgroups of LANES invocations, always; K % 4 = 0; N_padded is N rounded up to a multiple of 4, HAS_* are
//             false and ACTIVATION is 99 where they differ or splits > 1
// constants:  LANES 4..64; ROWS 1..8; QUADS 1..8; WEIGHT_LOADS = 4 * QUADS / LANES, rounded up; HAS_BIAS, HAS_RESIDUAL;
//             ACTIVATION (include/activation.wgsl)
// error:      1e-5 relative L2 in f32 for K <= 10000
// faster:     lavapipe executes a load lane by lane, about 66 ns for eight vec4s where eight multiply-adds take 0.5 ns;
//             a barrier makes the whole kernel a coroutine. 4 rows by 32 columns need 8 loads for 512 multiply-adds of
//             a subgroup. In one run on lavapipe (Mesa 22.3, two cores), M = 4096, N = K = 96, f32: 4.7 ms; naive 318
//             ms, tiled 38 ms
// source:     the outer-product form of matrix multiplication; broadcasting by shuffle is how warp-level GEMMs share
//             operands
//!include activation
//!storage x
//!storage weight
//!storage residual
//!storage y

const LANES: u32 = 8u; // invocations of a subgroup
const ROWS: u32 = 4u;  // rows of an invocation
const QUADS: u32 = 8u; // columns of a workgroup / 4
const WEIGHT_LOADS: u32 = 4u; // 4 * QUADS / LANES, rounded up
const HAS_BIAS: bool = true;
const HAS_RESIDUAL: bool = false;

struct Params {
    M: u32,
    N: u32,
    K: u32,
    N_padded: u32, // N rounded up to a multiple of 4: the columns of y in memory
    K_per_split: u32, // a multiple of 4
    first_workgroup_y: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> weight: array<weight_vec4>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(4) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let m = ((workgroup.y + p.first_workgroup_y) * LANES + lane) * ROWS;
    let n = workgroup.x * 4u * QUADS;
    let vectors = p.K / 4u;

    // Rows and columns beyond the edges repeat the last one; their sums are not stored.
    var row: array<u32, ROWS>;
    //!unroll
    for (var i = 0u; i < ROWS; i++) { row[i] = min(m + i, p.M - 1u) * vectors; }
    var column: array<u32, WEIGHT_LOADS>; // this lane's share of the columns: n + lane, n + lane + LANES, …
    //!unroll
    for (var j = 0u; j < WEIGHT_LOADS; j++) { column[j] = min(n + j * LANES + lane, p.N - 1u); }

    var sums: array<array<vec4<f32>, QUADS>, ROWS>;
    let k_first = workgroup.z * p.K_per_split / 4u;
    for (var k = k_first; k < min(k_first + p.K_per_split / 4u, vectors); k++) {
        var a: array<vec4<f32>, ROWS>;
        //!unroll
        for (var i = 0u; i < ROWS; i++) { a[i] = decode_x(x[row[i] + k]); }
        var w: array<vec4<f32>, WEIGHT_LOADS>;
        //!unroll
        for (var j = 0u; j < WEIGHT_LOADS; j++) { w[j] = decode_weight(weight[column[j] * vectors + k]); }
        //!unroll
        for (var c = 0u; c < QUADS; c++) {
            let j = 4u * c / LANES;
            let first = 4u * c % LANES;
            let w0 = subgroupShuffle(w[j], first);
            let w1 = subgroupShuffle(w[j], first + 1u);
            let w2 = subgroupShuffle(w[j], first + 2u);
            let w3 = subgroupShuffle(w[j], first + 3u);
            //!unroll
            for (var i = 0u; i < ROWS; i++) {
                sums[i][c] += vec4<f32>(dot(a[i], w0), dot(a[i], w1), dot(a[i], w2), dot(a[i], w3));
            }
        }
    }

    if (HAS_BIAS) {
        var own_bias: array<f32, WEIGHT_LOADS>;
        //!unroll
        for (var j = 0u; j < WEIGHT_LOADS; j++) { own_bias[j] = bias[column[j]]; }
        //!unroll
        for (var c = 0u; c < QUADS; c++) {
            let b = own_bias[4u * c / LANES];
            let first = 4u * c % LANES;
            let addend =
                vec4<f32>(subgroupShuffle(b, first), subgroupShuffle(b, first + 1u), subgroupShuffle(b, first + 2u), subgroupShuffle(b, first + 3u));
            //!unroll
            for (var i = 0u; i < ROWS; i++) { sums[i][c] += addend; }
        }
    }
    if (m >= p.M) { return; }
    // A loop whose count is not constant stays a loop: the code to store one row is compiled once. It always stores row
    // 0 and moves the others up.
    var index = ((workgroup.z * p.M + m) * p.N_padded + n) / 4u;
    for (var left_over = min(ROWS, p.M - m); left_over > 0u; left_over--) {
        //!unroll
        for (var c = 0u; c < QUADS; c++) {
            if (n + 4u * c < p.N) {
                var result = activate(sums[0][c]);
                if (HAS_RESIDUAL) { result += decode_residual(residual[index + c]); }
                y[index + c] = encode_y(result);
            }
            //!unroll
            for (var i = 1u; i < ROWS; i++) { sums[i - 1u][c] = sums[i][c]; }
        }
        index += p.N_padded / 4u;
    }
}
