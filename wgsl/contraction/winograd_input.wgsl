// contraction, winograd_input: v[t, 4 a + b, i] = (B^T d B)[a, b], d the 4x4 pixels of x under output tile t, channel
// i; the first step of Winograd's F(2x2, 3x3)
//
// A 3x3 convolution computes 2x2 outputs from 4x4 pixels with 36 multiplications. In the transformed space it takes 16,
// one for each position p = 4 a + b: m[p] = v[p] * u[p], summed over the input channels. These are 16 matrix products
// (shuffle.wgsl or 4_registers.wgsl, K split into 16 parts), run after this kernel and winograd_weight.wgsl and before
// winograd_output.wgsl.
//
//   x         [N, H, W, C_in]             f32 or f16
//   v         [N, tiles_h, tiles_w, 16, C_in]  f32
// dispatch:   one invocation for four channels of a tile
// requires:   a 3x3 filter, stride 1; C_in % 4 = 0
// constants:  none
// error:      2e-6 relative L2 in f32 for the whole convolution
// faster:     2.25 times fewer multiplications than the direct form, for 4 times the traffic of x and y: pays off from
//             about 64 channels. In one run on lavapipe (Mesa 22.3, two cores), f32, shuffle against this: 64x64, 320
//             to 320 channels: 404, 206 ms; 16 pictures of 16x16, 96 to 96: 29, 23 ms
// source:     Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1
//!include flat_index
//!storage x

struct Params {
    N: u32,
    H: u32,
    W: u32,
    C_in: u32,
    pad_top: u32,
    pad_left: u32,
    tiles_h: u32, // OH / 2, rounded up
    tiles_w: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

// B^T applied to four values.
fn transform(d: array<vec4<f32>, 4>) -> array<vec4<f32>, 4> {
    return array<vec4<f32>, 4>(d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vectors = p.C_in / 4u;
    let index = flat_index(workgroup, workgroups, local, 64u); // [n, tile_h, tile_w, quad of channels]
    if (index >= p.N * p.tiles_h * p.tiles_w * vectors) { return; }
    let quad = index % vectors;
    let tile = index / vectors;
    let left = 2u * (tile % p.tiles_w) - p.pad_left;
    let top = 2u * (tile / p.tiles_w % p.tiles_h) - p.pad_top;
    let n = tile / (p.tiles_w * p.tiles_h);

    var columns: array<array<vec4<f32>, 4>, 4>; // column b of d, transformed
    //!unroll
    for (var b = 0u; b < 4u; b++) {
        var d: array<vec4<f32>, 4>;
        //!unroll
        for (var a = 0u; a < 4u; a++) {
            // Above and left of the picture the position has wrapped around to a huge number.
            let inside = top + a < p.H && left + b < p.W;
            let value = decode_x(x[select(0u, ((n * p.H + top + a) * p.W + left + b) * vectors + quad, inside)]);
            d[a] = select(vec4<f32>(0.0), value, inside);
        }
        columns[b] = transform(d);
    }
    //!unroll
    for (var a = 0u; a < 4u; a++) {
        let row = transform(array<vec4<f32>, 4>(columns[0][a], columns[1][a], columns[2][a], columns[3][a]));
        //!unroll
        for (var b = 0u; b < 4u; b++) { v[(tile * 16u + 4u * a + b) * vectors + quad] = row[b]; }
    }
}
