// conv2d, naive: y[n, oh, ow, o] = sum_{kh, kw, i} x[n, oh * stride_h + kh - pad_top, ow * stride_w + kw - pad_left, i]
// * weight[o, kh, kw, i]
//                                  + bias[o] + time_embedding[n, o] + residual[n, oh, ow, o],  x being 0 outside the
//                                  picture
//
//   x               [N, H, W, C_in]        f32 or f16
//   weight          [C_out, KH, KW, C_in]  f32 or f16
//   bias            [C_out]                f32, if HAS_BIAS
//   time_embedding  [N, C_out]             f32 or f16, if HAS_TIME_EMBEDDING
//   residual        [N, OH, OW, C_out]     f32 or f16, if HAS_RESIDUAL
//   y               [N, OH, OW, C_out]     f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in several pixels
// requires:   nothing: any sizes, strides and paddings
// constants:  HAS_BIAS, HAS_TIME_EMBEDDING, HAS_RESIDUAL
// error:      1e-5 relative L2 in f32 for KH * KW * C_in <= 12000
// source:     torch.nn.Conv2d (a cross-correlation: the filter is not flipped)
//!include flat_index
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
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> weight: array<weight_vec4>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> time_embedding: array<time_embedding_vec4>;
@group(0) @binding(4) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vector = flat_index(workgroup, workgroups, local, 64u);
    let elements = p.N * p.OH * p.OW * p.C_out;
    if (4u * vector >= elements) { return; }

    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * vector + lane; // [n, oh, ow, o]
        if (element >= elements) { break; }
        let o = element % p.C_out;
        let pixel = element / p.C_out;
        let ow = pixel % p.OW;
        let oh = (pixel / p.OW) % p.OH;
        let n = pixel / (p.OW * p.OH);
        result[lane] = dot_with_filter(n, oh, ow, o);
        if (HAS_BIAS) { result[lane] += bias[o]; }
        if (HAS_TIME_EMBEDDING) {
            let ti = n * p.C_out + o;
            result[lane] += decode_time_embedding(time_embedding[ti / 4u])[ti % 4u];
        }
    }
    if (HAS_RESIDUAL) { result += decode_residual(residual[vector]); }
    y[vector] = encode_y(result);
}

fn dot_with_filter(n: u32, oh: u32, ow: u32, o: u32) -> f32 {
    var sum = 0.0;
    for (var kh = 0u; kh < p.KH; kh++) {
        // Above the picture the difference wraps round to a huge number, so that one comparison covers both edges.
        let h = oh * p.stride_h + kh - p.pad_top;
        if (h >= p.H) { continue; }
        for (var kw = 0u; kw < p.KW; kw++) {
            let w = ow * p.stride_w + kw - p.pad_left;
            if (w >= p.W) { continue; }
            for (var i = 0u; i < p.C_in; i++) {
                let xi = ((n * p.H + h) * p.W + w) * p.C_in + i;
                let wi = ((o * p.KH + kh) * p.KW + kw) * p.C_in + i;
                sum += decode_x(x[xi / 4u])[xi % 4u] * decode_weight(weight[wi / 4u])[wi % 4u];
            }
        }
    }
    return sum;
}
