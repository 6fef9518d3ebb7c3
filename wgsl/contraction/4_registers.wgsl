// contraction, 4_registers: y = scale * (f(x * weight + bias + summand) + residual) as 3_shared.wgsl, as a sum of outer
// products in registers
//
// A workgroup computes TILE_M rows by TILE_N columns of y; include/product_tile.wgsl says how its invocations share
// them. x, weight and the parameters: include/gather.wgsl; bias, summand, residual and y: include/epilogue.wgsl. Where
// K is split, workgroup z sums one part of it and y holds partial sums [splits, M, N_padded] for conclude.wgsl.
//
// dispatch:   x = N / TILE_N, y = M / TILE_M, z = splits
// requires:   C % 4 = 0; groups = 1; N_padded is N rounded up to a multiple of 4, and the epilogue is empty where they
//             differ or splits > 1; with a gate N % 8 = 0 and TILE_N = 128; 16 KiB of workgroup memory, 256 invocations
// constants:  TILE_M = TILE_N = 128 with TILE_K = 16 and ROW_QUADS = COLUMN_QUADS = 2, or 64 with 32 and 1; UNROLL: a
//             divisor of TILE_K; WINDOWS: false for a window of one tap over a line; DEPTH: false if D = OD = KD = 1;
//             those of the epilogue: HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION, GATE
// error:      1e-5 relative L2 in f32 for K = KD * KH * KW * C <= 23040
// faster:     than 3_shared: an invocation reads 16 values from workgroup memory for 64 products instead of 20 for 16.
//             Each value of x is loaded N / TILE_N times, each weight M / TILE_M times. Compiled for AMD RDNA2 and
//             RDNA3 (RADV 22.3, offline; not timed on a GPU yet): up to 112 vector registers with tiles of 128, 64 with
//             64, none spilled
// source:     Volkov and Demmel 2008, "Benchmarking GPUs to Tune Dense Linear Algebra": outer products from registers;
//             Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3: patches never stored
//!include gather
//!include epilogue
//!include product_tile
//!include store_tile

const WINDOWS: bool = true;
const DEPTH: bool = true;

@group(0) @binding(6) var<uniform> p: Params;

// An output position's image and first tap. Beyond the last position the row is set to a huge number, so that it is
// outside the picture under any tap.
struct Row {
    image: u32,
    first: vec3<u32>,
}

fn row_of(m: u32) -> Row {
    if (!WINDOWS) { return Row(m, vec3<u32>(0u)); }
    let at = position(m);
    let first = corner(at);
    return Row(at.x, vec3<u32>(first.x, select(0x80000000u, first.y, at.x < p.images), first.z));
}

// Channels c to c + 3 under this tap, of a row of the patches; zeros outside the picture and beyond the window.
fn gathered(row: Row, tap: vec3<u32>, c: u32) -> vec4<f32> {
    if (!WINDOWS) {
        if (row.image >= p.W || tap.z > 0u) { return vec4<f32>(0.0); }
        return load_x((row.image * p.C + c) / 4u);
    }
    let h = row.first.y + tap.y * p.dilation_h;
    let w = row.first.z + tap.z * p.dilation_w;
    var plane = row.image;
    var inside = h < p.H && w < p.W;
    if (DEPTH) {
        let d = row.first.x + tap.x * p.dilation_d;
        plane = row.image * p.D + d;
        inside = inside && d < p.D && tap.x < p.KD;
    } else {
        inside = inside && tap.y < p.KH;
    }
    if (!inside) { return vec4<f32>(0.0); }
    return load_x((((plane * p.H + h) * p.W + w) * p.C + c) / 4u);
}

fn weights(n: u32, k: u32, k_end: u32, K: u32) -> vec4<f32> {
    if (n >= p.N || k >= k_end) { return vec4<f32>(0.0); }
    return load_weight((n * K + k) / 4u);
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let M = p.images * p.OD * p.OH * p.OW;
    let K = p.KD * p.KH * p.KW * p.C;
    let m0 = (workgroup.y + p.first_workgroup_y) * TILE_M;
    let k_first = workgroup.z * p.K_per_split;
    let k_end = min(k_first + p.K_per_split, K);
    let row = local / LANES_N;
    let column = local % LANES_N;

    // The block of four rows by four values of k that this invocation loads into workgroup memory in each step.
    let row_quad = local % 128u / (TILE_K / 4u);
    let k_block = 4u * (local % (TILE_K / 4u));
    let m = m0 + 4u * row_quad;
    let r0 = row_of(m);
    let r1 = row_of(m + 1u);
    let r2 = row_of(m + 2u);
    let r3 = row_of(m + 3u);
    // k = [tap, c], advanced without divisions.
    let k_start = k_first + k_block;
    var c = k_start % p.C;
    var tap = vec3<u32>(k_start / (p.C * p.KW * p.KH), k_start / (p.C * p.KW) % p.KH, k_start / p.C % p.KW);
    if (!DEPTH) { tap.y = k_start / (p.C * p.KW); }
    if (!WINDOWS) { tap.z = k_start / p.C; }
    for (var k0 = k_first; k0 < k_end; k0 += TILE_K) {
        if (local < 128u) {
            // Values of x beyond this split's part of k are multiplied by zero weights.
            let x0 = gathered(r0, tap, c);
            let x1 = gathered(r1, tap, c);
            let x2 = gathered(r2, tap, c);
            let x3 = gathered(r3, tap, c);
            put_x(row_quad, k_block, x0, x1, x2, x3);
            c += TILE_K;
            while (c >= p.C) {
                c -= p.C;
                tap.z++;
                if (WINDOWS && tap.z == p.KW) {
                    tap.z = 0u;
                    tap.y++;
                    if (DEPTH && tap.y == p.KH) {
                        tap.y = 0u;
                        tap.x++;
                    }
                }
            }
        } else {
            let n = column_of(workgroup.x, 4u * row_quad, TILE_N);
            let k = k0 + k_block;
            let w0 = weights(n, k, k_end, K);
            let w1 = weights(n + 1u, k, k_end, K);
            let w2 = weights(n + 2u, k, k_end, K);
            let w3 = weights(n + 3u, k, k_end, K);
            put_w(row_quad, k_block, w0, w1, w2, w3);
        }
        workgroupBarrier();
        add_outer_products(row, column);
        workgroupBarrier();
    }

    store_tile(workgroup, m0, M, row, column);
}
