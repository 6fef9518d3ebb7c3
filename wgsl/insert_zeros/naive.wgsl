// insert_zeros, naive: y[n, stride * h, stride * w, c] = x[n, h, w, c], and zeros between
//
//   x         [N, H, W, C]    f32 or f16
//   y         [N, OH, OW, C]  f32 or f16; OH = (H - 1) * stride_h + 1, OW likewise
// dispatch:   one invocation for four consecutive elements of y, which may lie in several pixels
// requires:   nothing
// constants:  none
// error:      none
// source:     Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", section 4.5
//!include flat_index
//!storage x
//!storage y

struct Params {
    elements: u32, // of y
    H: u32,
    W: u32,
    OH: u32,
    OW: u32,
    C: u32,
    stride_h: u32,
    stride_w: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = min(4u * i + lane, p.elements - 1u); // [n, oh, ow, c]
        let pixel = element / p.C;
        let oh = pixel / p.OW % p.OH;
        let ow = pixel % p.OW;
        if (oh % p.stride_h == 0u && ow % p.stride_w == 0u) {
            let row = pixel / (p.OW * p.OH) * p.H + oh / p.stride_h;
            let at = (row * p.W + ow / p.stride_w) * p.C + element % p.C;
            result[lane] = decode_x(x[at / 4u])[at % 4u];
        }
    }
    y[i] = encode_y(result);
}
