// slice, vec4: y[r, c] = x[r, start + c] for c < length, four elements at a time
//
//   x         [rows, C]       f32 or f16
//   y         [rows, length]  f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which lie in one row
// requires:   C, start and length multiples of 4
// constants:  none
// error:      none beyond the rounding to y's element type
// faster:     than naive: one load and one index division for four elements where naive has four of each
// source:     torch.narrow
//!include flat_index
//!storage x
//!storage y

struct Params {
    vectors: u32,        // of y
    row_vectors: u32,    // C / 4
    start_vectors: u32,  // start / 4
    length_vectors: u32, // length / 4
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
    y[i] = encode_y(decode_x(x[i / p.length_vectors * p.row_vectors + p.start_vectors + i % p.length_vectors]));
}
