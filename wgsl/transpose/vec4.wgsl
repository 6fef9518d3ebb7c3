// transpose, vec4: y[o, b, a, i] = x[o, a, b, i], four elements at a time
//
//   x         [outer, A, B, inner]  f32 or f16
//   y         [outer, B, A, inner]  f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which are neighbours in x too
// requires:   inner a multiple of 4
// constants:  none
// error:      none beyond the rounding to y's element type
// faster:     than naive: one load and three index divisions for four elements where naive has four and twelve
// source:     torch.permute
//!include flat_index
//!storage x
//!storage y

struct Params {
    vectors: u32,       // elements / 4
    A: u32,
    B: u32,
    inner_vectors: u32, // inner / 4
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
    if (i >= p.vectors) { return; }
    let run = i / p.inner_vectors; // [o, b, a]
    let a = run % p.A;
    let b = run / p.A % p.B;
    let o = run / p.A / p.B;
    y[i] = encode_y(decode_x(x[((o * p.A + a) * p.B + b) * p.inner_vectors + i % p.inner_vectors]));
}
