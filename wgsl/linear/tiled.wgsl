// linear, tiled: y = f(x weight^T + bias) + residual as in naive.wgsl, a tile of y for each workgroup
//
// Where K is split, workgroup z adds up one part of it, y holds partial sums, and reduce.wgsl concludes.
//
//   x         [M, K]   f32 or f16
//   weight    [N, K]   f32 or f16
//   bias      [N]      f32, if HAS_BIAS
//   residual  [M, N]   f32 or f16, if HAS_RESIDUAL
//   y         [splits, M, N_padded]  f32 or f16
// dispatch:   x = N / TILE_N, y = M / TILE_M, z = splits
// requires:   K % 4 = 0; N_padded is N rounded up to a multiple of 4, and HAS_* are false and ACTIVATION is 99 where
//             they differ or splits > 1; 16 KiB of workgroup memory, 256 invocations
// constants:  TILE_M = TILE_N = 128 with TILE_K = 16, or 64 with 32; HAS_BIAS, HAS_RESIDUAL; ACTIVATION
//             (include/activation.wgsl)
// error:      1e-5 relative L2 in f32 for K <= 10000
// faster:     each value of x is loaded N / TILE_N times instead of N times, each weight M / TILE_M times instead of M
//             times. Compiled for AMD RDNA2 and RDNA3 (RADV 22.3, offline; not timed on a GPU yet): 96 vector registers
//             with tiles of 128, 48 with 64, none spilled
// source:     Volkov and Demmel 2008, "Benchmarking GPUs to Tune Dense Linear Algebra": outer products from registers
//!include activation
//!include product_tile
//!storage x
//!storage weight
//!storage residual
//!storage y

const HAS_BIAS: bool = true;
const HAS_RESIDUAL: bool = false;

struct Params {
    M: u32,
    N: u32,
    K: u32,
    N_padded: u32, // columns of y in memory
    K_per_split: u32, // a multiple of TILE_K
    first_workgroup_y: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> weight: array<weight_vec4>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(4) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(5) var<uniform> p: Params;

// Four values of a row of x, or of the weights, from the k-th on; zeros outside the matrix and beyond this split's part
// of it.
fn load_x(m: u32, k: u32, k_end: u32) -> vec4<f32> {
    if (m >= p.M || k >= k_end) { return vec4<f32>(0.0); }
    return decode_x(x[(m * p.K + k) / 4u]);
}

fn load_weight(n: u32, k: u32, k_end: u32) -> vec4<f32> {
    if (n >= p.N || k >= k_end) { return vec4<f32>(0.0); }
    return decode_weight(weight[(n * p.K + k) / 4u]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let m0 = (workgroup.y + p.first_workgroup_y) * TILE_M;
    let n0 = workgroup.x * TILE_N;
    let k_first = workgroup.z * p.K_per_split;
    let k_end = min(k_first + p.K_per_split, p.K);
    let row = local / 16u;
    let column = local % 16u;

    // The block of four rows by four values of k that this invocation brings to workgroup memory in each step.
    let row_quad = local % 128u / (TILE_K / 4u);
    let k_block = 4u * (local % (TILE_K / 4u));
    for (var k0 = k_first; k0 < k_end; k0 += TILE_K) {
        let k = k0 + k_block;
        if (local < 128u) {
            let m = m0 + 4u * row_quad;
            put_x(row_quad, k_block, load_x(m, k, k_end), load_x(m + 1u, k, k_end), load_x(m + 2u, k, k_end), load_x(m + 3u, k, k_end));
        } else {
            let n = n0 + 4u * row_quad;
            let w0 = load_weight(n, k, k_end);
            let w1 = load_weight(n + 1u, k, k_end);
            let w2 = load_weight(n + 2u, k, k_end);
            let w3 = load_weight(n + 3u, k, k_end);
            put_w(row_quad, k_block, w0, w1, w2, w3);
        }
        workgroupBarrier();
        add_outer_products(row, column);
        workgroupBarrier();
    }

    //!unroll
    for (var j = 0u; j < COLUMN_QUADS; j++) {
        let n = n0 + 64u * j + 4u * column;
        if (n < p.N) {
            var addend = vec4<f32>(0.0);
            if (HAS_BIAS) { addend = vec4<f32>(bias[n], bias[n + 1u], bias[n + 2u], bias[n + 3u]); }
            //!unroll
            for (var i = 0u; i < ROW_QUADS; i++) {
                //!unroll
                for (var r = 0u; r < 4u; r++) {
                    let m = m0 + 64u * i + 4u * row + r;
                    if (m < p.M) {
                        let index = ((workgroup.z * p.M + m) * p.N_padded + n) / 4u;
                        var result = activate(sums[4u * i + r][j] + addend);
                        if (HAS_RESIDUAL) { result += decode_residual(residual[index]); }
                        y[index] = encode_y(result);
                    }
                }
            }
        }
    }
}
