// contraction, winograd_weight: u[o, 4 a + b, i] = (G g G^T)[a, b], g the 3x3 filter from channel i to channel o; see
// winograd_input.wgsl
//
//   weight    [C_out, 3, 3, C_in]   f32 or f16
//   u         [C_out, 16, C_in]     f32
// dispatch:   one invocation for four input channels of an output channel
// requires:   C_in % 4 = 0
// constants:  none
// error:      2e-6 relative L2 in f32 for the whole convolution
// faster:     see winograd_input.wgsl
// source:     Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1
//!include flat_index
//!storage weight

struct Params {
    C_in: u32,
    C_out: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<weight_vec4>;
@group(0) @binding(1) var<storage, read_write> u: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

// G applied to three values.
fn transform(g: array<vec4<f32>, 3>) -> array<vec4<f32>, 4> {
    let even = 0.5 * (g[0] + g[2]);
    let odd = 0.5 * g[1];
    return array<vec4<f32>, 4>(g[0], even + odd, even - odd, g[2]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vectors = p.C_in / 4u;
    let index = flat_index(workgroup, workgroups, local, 64u); // [o, quad of channels]
    if (index >= p.C_out * vectors) { return; }
    let quad = index % vectors;
    let o = index / vectors;

    var columns: array<array<vec4<f32>, 4>, 3>; // column b of g, transformed
    //!unroll
    for (var b = 0u; b < 3u; b++) {
        var g: array<vec4<f32>, 3>;
        //!unroll
        for (var a = 0u; a < 3u; a++) { g[a] = decode_weight(weight[(o * 9u + 3u * a + b) * vectors + quad]); }
        columns[b] = transform(g);
    }
    //!unroll
    for (var a = 0u; a < 4u; a++) {
        let row = transform(array<vec4<f32>, 3>(columns[0][a], columns[1][a], columns[2][a]));
        //!unroll
        for (var b = 0u; b < 4u; b++) { u[(o * 16u + 4u * a + b) * vectors + quad] = row[b]; }
    }
}
