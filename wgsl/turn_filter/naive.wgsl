// turn_filter, naive: y[c, i, n] = x[n, taps - 1 - i, c]: the filter of a convolution as its gradient takes it
//
//   x         [N, taps, C]  f32 or f16; the taps of all spatial axes counted through
//   y         [C, taps, N]  f32 or f16
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  none
// error:      none
// source:     Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", chapter 4
//!include flat_index
//!storage x
//!storage y

struct Params {
    elements: u32,
    N: u32,
    taps: u32,
    C: u32,
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
        let element = min(4u * i + lane, p.elements - 1u); // [c, tap, n]
        let n = element % p.N;
        let tap = p.taps - 1u - element / p.N % p.taps;
        let at = (n * p.taps + tap) * p.C + element / (p.N * p.taps);
        result[lane] = decode_x(x[at / 4u])[at % 4u];
    }
    y[i] = encode_y(result);
}
