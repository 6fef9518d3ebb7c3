// transpose, naive: y[o, b, a, i] = x[o, a, b, i]
//
//   x         [outer, A, B, inner]  f32 or f16
//   y         [outer, B, A, inner]  f32 or f16
// Every permutation is a sequence of such swaps; dimensions that stay together count as one.
// dispatch:   one invocation for four consecutive elements of y, which may come from four places
// requires:   nothing: any sizes
// constants:  none
// error:      none beyond the rounding to y's element type
// source:     torch.permute
//!include flat_index
//!storage x
//!storage y

struct Params {
    elements: u32,
    A: u32,
    B: u32,
    inner: u32,
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
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [o, b, a, inner]
        if (element >= p.elements) { break; }
        let run = element / p.inner;
        let a = run % p.A;
        let b = run / p.A % p.B;
        let o = run / p.A / p.B;
        let xi = ((o * p.A + a) * p.B + b) * p.inner + element % p.inner;
        result[lane] = decode_x(x[xi / 4u])[xi % 4u];
    }
    if (4u * i < p.elements) { y[i] = encode_y(result); }
}
