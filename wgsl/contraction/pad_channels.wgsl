// contraction, pad_channels: padded[row, c] = unpadded[row, c] for c < C, 0 for C <= c < C_padded; turns any channel
// count into a multiple of four, and a buffer into a texture
//
//   unpadded  [rows, C]         f32 or f16: pixels, or filter taps
//   padded    [rows, C_padded]  f32; or a texture, f32 or f16
// dispatch:   one invocation for four consecutive elements of padded
// requires:   C_padded = C rounded up to a multiple of 4
// constants:  none
// error:      none: values are copied
// faster:     than reading channels one by one in the convolution, which uses each of them KH * KW * C_out times; a
//             CPU driver reads a texture in about half the time of a buffer, see shuffle.wgsl
// source:     the fast kernels read four channels at once
//!include flat_index
//!storage unpadded
//!storage padded

struct Params {
    rows: u32,
    C: u32,
    C_padded: u32,
}

@group(0) @binding(0) var<storage, read> unpadded: array<unpadded_vec4>;
@group(0) @binding(1) var<storage, read_write> padded: array<padded_vec4>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.rows * p.C_padded) { return; }
    if (p.C == p.C_padded) {
        store_padded(i, load_unpadded(i));
        return;
    }
    let row = 4u * i / p.C_padded;
    let first = 4u * i % p.C_padded;
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < min(4u, p.C - first); lane++) {
        let source = row * p.C + first + lane;
        result[lane] = unpadded_element(source);
    }
    store_padded(i, result);
}
