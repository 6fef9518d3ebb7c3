// contraction, winograd_weight: u[o, SIDE a + b, i] = (G g G^T)[a, b], g the 3x3 filter from channel i to channel o;
// see winograd_input.wgsl
//
//   weight    [C_out, 3, 3, C_in]       f32 or f16
//   u         [C_out, SIDE^2, C_in]     f32; may be a texture
// dispatch:   one invocation for four input channels of an output channel
// requires:   C_in % 4 = 0
// constants:  TILE: 2 or 4; SIDE = TILE + 2
// error:      3e-6 relative L2 in f32 for the whole convolution
// faster:     see winograd_input.wgsl
// source:     as winograd_input.wgsl
//!include flat_index
//!storage weight
//!storage u

const TILE: u32 = 2u;
const SIDE: u32 = 4u; // TILE + 2

struct Params {
    C_in: u32,
    C_out: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<weight_vec4>;
@group(0) @binding(1) var<storage, read_write> u: array<u_vec4>;
@group(0) @binding(2) var<uniform> p: Params;

// SIDE vectors; the others are not used.
alias Side = array<vec4<f32>, 6>;

// G applied to three values.
fn transform(g: array<vec4<f32>, 3>) -> Side {
    if (TILE == 2u) {
        let even = 0.5 * (g[0] + g[2]);
        let odd = 0.5 * g[1];
        return Side(g[0], even + odd, even - odd, g[2], g[0], g[0]);
    }
    let even = (-2.0 / 3.0) * g[0] - (1.0 / 3.0) * g[2];
    let odd = -0.4714045207910317 * g[1]; // sqrt(2) / 3
    let even_inverse = (1.0 / 6.0) * g[0] + (1.0 / 3.0) * g[2];
    let odd_inverse = 0.23570226039551584 * g[1]; // sqrt(2) / 6
    return Side(g[0], even + odd, even - odd, even_inverse + odd_inverse, even_inverse - odd_inverse, g[2]);
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

    var columns: array<Side, 3>; // column b of g, transformed
    //!unroll
    for (var b = 0u; b < 3u; b++) {
        var g: array<vec4<f32>, 3>;
        //!unroll
        for (var a = 0u; a < 3u; a++) { g[a] = load_weight((o * 9u + 3u * a + b) * vectors + quad); }
        columns[b] = transform(g);
    }
    //!unroll
    for (var a = 0u; a < SIDE; a++) {
        let row = transform(array<vec4<f32>, 3>(columns[0][a], columns[1][a], columns[2][a]));
        //!unroll
        for (var b = 0u; b < SIDE; b++) { store_u((o * SIDE * SIDE + SIDE * a + b) * vectors + quad, row[b]); }
    }
}
