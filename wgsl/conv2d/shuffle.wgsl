// conv2d, shuffle: y = conv(x, weight) + bias + time_embedding + residual as in naive.wgsl, for CPU drivers: no
// workgroup memory, no barriers
//
// A workgroup is one subgroup. Each lane owns PIXELS output pixels, side by side in a row, and all lanes own the same 4
// * QUADS output channels. Weights are loaded once for the whole subgroup, each lane taking one output channel, and
// passed round by subgroupShuffle.
//
//   x               [N, H, W, C_in]        f32 or f16
//   weight          [C_out, KH, KW, C_in]  f32 or f16
//   bias            [C_out]                f32, if HAS_BIAS
//   time_embedding  [N, C_out]             f32 or f16, if HAS_TIME_EMBEDDING
//   residual        [N, OH, OW, C_out]     f32 or f16, if HAS_RESIDUAL
//   y               [N, OH, OW, C_padded]  f32 or f16
// dispatch:   x = output channels / (4 * QUADS), y = runs of PIXELS output pixels / LANES; a run never leaves its row
// requires:   subgroups of LANES invocations, always; C_in % 4 = 0; C_padded is C_out rounded up to a multiple of 4,
//             and where they differ HAS_* are false
// constants:  LANES 4..64; PIXELS 1..8; QUADS 1..8; WEIGHT_LOADS = 4 * QUADS / LANES, rounded up; SLIDE only if
//             stride_w = 1; HAS_BIAS, HAS_TIME_EMBEDDING, HAS_RESIDUAL
// error:      1e-5 relative L2 in f32 for KH * KW * C_in <= 12000
// faster:     lavapipe executes a load lane by lane, about 66 ns for eight vec4s where eight multiply-adds take 0.5 ns.
//             8 pixels by 16 channels need 16 loads for 1536 multiply-adds of a subgroup along a 3x3 filter's row. In
//             one run on lavapipe (Mesa 22.3, two cores), 16 pictures of 16x16, 3x3, 96 to 96 channels, f32: 29 ms;
//             naive 2221 ms, tiled 286 ms
// source:     Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3: implicit matrix
//             multiplication
//!storage x
//!storage weight
//!storage time_embedding
//!storage residual
//!storage y

const LANES: u32 = 8u;    // invocations of a subgroup
const PIXELS: u32 = 8u;   // output pixels of an invocation
const QUADS: u32 = 4u;    // output channels of a workgroup / 4
const WEIGHT_LOADS: u32 = 2u; // 4 * QUADS / LANES, rounded up
const SLIDE: bool = true; // the pixels under the next filter column are those under this one, moved by one: load only the new one
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
    C_padded: u32, // C_out rounded up to a multiple of 4: the channels of a pixel of y in memory
    first_workgroup_y: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> weight: array<weight_vec4>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> time_embedding: array<time_embedding_vec4>;
@group(0) @binding(4) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

// Four input channels of a pixel of the picture row that begins at pixel `row`; zero outside the picture.
fn pixel(row: u32, row_inside: bool, w: u32, quad: u32) -> vec4<f32> {
    // Left of the picture w has wrapped round to a huge number.
    let inside = row_inside && w < p.W;
    let value = decode_x(x[select(0u, (row + w) * (p.C_in / 4u) + quad, inside)]);
    return select(vec4<f32>(0.0), value, inside);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let runs_per_row = (p.OW + PIXELS - 1u) / PIXELS;
    let run = (workgroup.y + p.first_workgroup_y) * LANES + lane; // [n, oh, run in the row]
    let ow = run % runs_per_row * PIXELS;
    let oh = run / runs_per_row % p.OH;
    let n = run / (runs_per_row * p.OH);
    let o = workgroup.x * 4u * QUADS;
    let left = ow * p.stride_w - p.pad_left;

    // This lane's share of the weights: output channels o + lane, o + lane + LANES, …
    var channel: array<u32, WEIGHT_LOADS>;
    //!unroll
    for (var j = 0u; j < WEIGHT_LOADS; j++) { channel[j] = min(o + j * LANES + lane, p.C_out - 1u); }

    var sums: array<array<vec4<f32>, QUADS>, PIXELS>;
    for (var kh = 0u; kh < p.KH; kh++) {
        let h = oh * p.stride_h + kh - p.pad_top;
        let row = (n * p.H + h) * p.W;
        let row_inside = h < p.H && n < p.N;
        for (var quad = 0u; quad < p.C_in / 4u; quad++) {
            var pixels: array<vec4<f32>, PIXELS>; // under filter column kw, for each output pixel
            if (SLIDE) {
                //!unroll
                for (var i = 1u; i < PIXELS; i++) { pixels[i] = pixel(row, row_inside, left + i - 1u, quad); }
            }
            for (var kw = 0u; kw < p.KW; kw++) {
                if (SLIDE) {
                    //!unroll
                    for (var i = 1u; i < PIXELS; i++) { pixels[i - 1u] = pixels[i]; }
                    pixels[PIXELS - 1u] = pixel(row, row_inside, left + PIXELS - 1u + kw, quad);
                } else {
                    //!unroll
                    for (var i = 0u; i < PIXELS; i++) { pixels[i] = pixel(row, row_inside, left + i * p.stride_w + kw, quad); }
                }
                var w: array<vec4<f32>, WEIGHT_LOADS>;
                //!unroll
                for (var j = 0u; j < WEIGHT_LOADS; j++) {
                    w[j] = decode_weight(weight[((channel[j] * p.KH + kh) * p.KW + kw) * (p.C_in / 4u) + quad]);
                }
                //!unroll
                for (var c = 0u; c < QUADS; c++) {
                    let j = 4u * c / LANES;
                    let first = 4u * c % LANES;
                    let w0 = subgroupShuffle(w[j], first);
                    let w1 = subgroupShuffle(w[j], first + 1u);
                    let w2 = subgroupShuffle(w[j], first + 2u);
                    let w3 = subgroupShuffle(w[j], first + 3u);
                    //!unroll
                    for (var i = 0u; i < PIXELS; i++) {
                        let a = pixels[i];
                        sums[i][c] += vec4<f32>(dot(a, w0), dot(a, w1), dot(a, w2), dot(a, w3));
                    }
                }
            }
        }
    }

    var own_bias: array<f32, WEIGHT_LOADS>;
    if (HAS_BIAS) {
        //!unroll
        for (var j = 0u; j < WEIGHT_LOADS; j++) { own_bias[j] = bias[channel[j]]; }
    }
    //!unroll
    for (var c = 0u; c < QUADS; c++) {
        let b = own_bias[4u * c / LANES];
        let first = 4u * c % LANES;
        var addend = vec4<f32>(subgroupShuffle(b, first), subgroupShuffle(b, first + 1u), subgroupShuffle(b, first + 2u), subgroupShuffle(b, first + 3u));
        if (HAS_TIME_EMBEDDING) {
            if (n < p.N && o + 4u * c < p.C_out) { addend += decode_time_embedding(time_embedding[(n * p.C_out + o) / 4u + c]); }
        }
        //!unroll
        for (var i = 0u; i < PIXELS; i++) { sums[i][c] += addend; }
    }
    if (n >= p.N) { return; }
    // A loop whose count is not constant stays a loop: the code to store one pixel is compiled once. It always stores
    // pixel 0 and moves the others up.
    var index = (((n * p.OH + oh) * p.OW + ow) * p.C_padded + o) / 4u;
    for (var left_over = min(PIXELS, p.OW - ow); left_over > 0u; left_over--) {
        //!unroll
        for (var c = 0u; c < QUADS; c++) {
            if (o + 4u * c < p.C_out) {
                var result = sums[0][c];
                if (HAS_RESIDUAL) { result += decode_residual(residual[index + c]); }
                y[index + c] = encode_y(result);
            }
            //!unroll
            for (var i = 1u; i < PIXELS; i++) { sums[i - 1u][c] = sums[i][c]; }
        }
        index += p.C_padded / 4u;
    }
}
