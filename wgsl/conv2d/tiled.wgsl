// conv2d, tiled: y = conv(x, weight) + bias + time_embedding + residual as in naive.wgsl, as a matrix product whose
// first matrix is never stored
//
// Row m of that matrix holds the picture under the filter at output pixel m = [n, oh, ow]; its columns are k = [kh, kw,
// i], in the order of the weights. A workgroup computes TILE_M pixels by TILE_N output channels and reads the picture
// where it needs it. Where K is split, workgroup z adds up one part of it, y holds partial sums, and reduce.wgsl
// concludes.
//
//   x               [N, H, W, C_in]        f32 or f16
//   weight          [C_out, KH, KW, C_in]  f32 or f16
//   bias            [C_out]                f32, if HAS_BIAS
//   time_embedding  [N, C_out]             f32 or f16, if HAS_TIME_EMBEDDING
//   residual        [N, OH, OW, C_out]     f32 or f16, if HAS_RESIDUAL
//   y               [splits, N, OH, OW, C_padded]  f32 or f16
// dispatch:   x = C_out / TILE_N, y = pixels / TILE_M, z = splits
// requires:   C_in % 4 = 0; C_padded is C_out rounded up to a multiple of 4, and HAS_* are false where they differ or
//             splits > 1; 16 KiB of workgroup memory, 256 invocations
// constants:  TILE_M = TILE_N = 128 with TILE_K = 16, or 64 with 32; HAS_BIAS, HAS_TIME_EMBEDDING, HAS_RESIDUAL
// error:      1e-5 relative L2 in f32 for KH * KW * C_in <= 12000
// faster:     each value of the picture is loaded KH * KW * C_out / TILE_N times instead of KH * KW * C_out times, each
//             weight pixels / TILE_M times instead of once a pixel. Compiled for AMD RDNA2 and RDNA3 (RADV 22.3,
//             offline; not timed on a GPU yet): 112 vector registers with tiles of 128, 64 with 64, none spilled
// source:     Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3: implicit matrix
//             multiplication
//!include product_tile
//!storage x
//!storage weight
//!storage time_embedding
//!storage residual
//!storage y

const HAS_BIAS: bool = true;
const HAS_TIME_EMBEDDING: bool = false;
const HAS_RESIDUAL: bool = false;

struct Params {
    N: u32,
    H: u32,
    W: u32,
    C_in: u32,
    OH: u32,
    OW: u32,
    C_out: u32,
    KH: u32,
    KW: u32,
    stride_h: u32,
    stride_w: u32,
    pad_top: u32,
    pad_left: u32,
    C_padded: u32,    // channels of a pixel of y in memory
    K_per_split: u32, // a multiple of TILE_K
    first_workgroup_y: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> weight: array<weight_vec4>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> time_embedding: array<time_embedding_vec4>;
@group(0) @binding(4) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

// Where the filter's upper left corner lies at output pixel m: image, row, column. Above and left of the picture, row
// and column have wrapped round to huge numbers; beyond the last pixel the row is made so, and is outside under any
// filter row.
fn corner(m: u32) -> vec3<u32> {
    let n = m / (p.OH * p.OW);
    let h = m / p.OW % p.OH * p.stride_h - p.pad_top;
    let w = m % p.OW * p.stride_w - p.pad_left;
    return vec3<u32>(n, select(0x80000000u, h, n < p.N), w);
}

// Four input channels, from the i-th on, of the pixel under tap (kh, kw); zeros outside the picture and beyond the
// filter.
fn load_x(corner: vec3<u32>, kh: u32, kw: u32, i: u32) -> vec4<f32> {
    let h = corner.y + kh;
    let w = corner.z + kw;
    if (h >= p.H || w >= p.W || kh >= p.KH) { return vec4<f32>(0.0); }
    return decode_x(x[(((corner.x * p.H + h) * p.W + w) * p.C_in + i) / 4u]);
}

fn load_weight(o: u32, k: u32, k_end: u32) -> vec4<f32> {
    if (o >= p.C_out || k >= k_end) { return vec4<f32>(0.0); }
    return decode_weight(weight[(o * p.KH * p.KW * p.C_in + k) / 4u]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let m0 = (workgroup.y + p.first_workgroup_y) * TILE_M;
    let o0 = workgroup.x * TILE_N;
    let k_first = workgroup.z * p.K_per_split;
    let k_end = min(k_first + p.K_per_split, p.KH * p.KW * p.C_in);
    let row = local / 16u;
    let column = local % 16u;

    // The block of four rows by four values of k that this invocation brings to workgroup memory in each step.
    let row_quad = local % 128u / (TILE_K / 4u);
    let k_block = 4u * (local % (TILE_K / 4u));
    let m = m0 + 4u * row_quad;
    let c0 = corner(m);
    let c1 = corner(m + 1u);
    let c2 = corner(m + 2u);
    let c3 = corner(m + 3u);
    // k = [kh, kw, i], kept up to date without divisions.
    let k_start = k_first + k_block;
    var i = k_start % p.C_in;
    var kw = k_start / p.C_in % p.KW;
    var kh = k_start / (p.C_in * p.KW);
    for (var k0 = k_first; k0 < k_end; k0 += TILE_K) {
        if (local < 128u) {
            // Values of x beyond this split's part of k meet zeros among the weights.
            put_x(row_quad, k_block, load_x(c0, kh, kw, i), load_x(c1, kh, kw, i), load_x(c2, kh, kw, i), load_x(c3, kh, kw, i));
            i += TILE_K;
            while (i >= p.C_in) {
                i -= p.C_in;
                kw++;
                if (kw == p.KW) { kw = 0u; kh++; }
            }
        } else {
            let o = o0 + 4u * row_quad;
            let k = k0 + k_block;
            let w0 = load_weight(o, k, k_end);
            let w1 = load_weight(o + 1u, k, k_end);
            let w2 = load_weight(o + 2u, k, k_end);
            let w3 = load_weight(o + 3u, k, k_end);
            put_w(row_quad, k_block, w0, w1, w2, w3);
        }
        workgroupBarrier();
        add_outer_products(row, column);
        workgroupBarrier();
    }

    //!unroll
    for (var j = 0u; j < COLUMN_QUADS; j++) {
        let o = o0 + 64u * j + 4u * column;
        if (o < p.C_out) {
            var addend = vec4<f32>(0.0);
            if (HAS_BIAS) { addend = vec4<f32>(bias[o], bias[o + 1u], bias[o + 2u], bias[o + 3u]); }
            //!unroll
            for (var q = 0u; q < ROW_QUADS; q++) {
                //!unroll
                for (var r = 0u; r < 4u; r++) {
                    let pixel = m0 + 64u * q + 4u * row + r;
                    if (pixel < p.N * p.OH * p.OW) {
                        let index = ((workgroup.z * p.N * p.OH * p.OW + pixel) * p.C_padded + o) / 4u;
                        var result = sums[4u * q + r][j] + addend;
                        if (HAS_TIME_EMBEDDING) { result += decode_time_embedding(time_embedding[(pixel / (p.OH * p.OW) * p.C_out + o) / 4u]); }
                        if (HAS_RESIDUAL) { result += decode_residual(residual[index]); }
                        y[index] = encode_y(result);
                    }
                }
            }
        }
    }
}
