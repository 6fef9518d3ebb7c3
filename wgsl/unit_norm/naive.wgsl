// unit_norm, naive: y = x / (sqrt(squares) + eps)
//
//   x, y      flat elements, f32
//   squares   [1]  f32: the sum of the squares of x
// dispatch:   one invocation for four consecutive elements
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     the definition
//!include flat_index

struct Params {
    vectors: u32, // elements / 4, rounded up
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> squares: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (i >= p.vectors) { return; }
    y[i] = x[i] / (sqrt(squares[0]) + p.eps);
}
