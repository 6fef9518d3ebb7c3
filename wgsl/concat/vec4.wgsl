// concat, vec4: y[r, :] = a[r, :] followed by b[r, :], four elements at a time
//
//   a         [rows, A]      f32 or f16
//   b         [rows, B]      f32 or f16
//   y         [rows, A + B]  f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which lie in one row and come from one input
// requires:   A and B multiples of 4
// constants:  none
// error:      none beyond the rounding to y's element type
// faster:     than naive: one load and one index division for four elements where naive has four of each
// source:     torch.cat
//!include flat_index
//!storage a
//!storage b
//!storage y

struct Params {
    vectors: u32,   // of y
    a_vectors: u32, // A / 4
    b_vectors: u32, // B / 4
}

@group(0) @binding(0) var<storage, read> a: array<a_vec4>;
@group(0) @binding(1) var<storage, read> b: array<b_vec4>;
@group(0) @binding(2) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (i >= p.vectors) { return; }
    let row = i / (p.a_vectors + p.b_vectors);
    let column = i % (p.a_vectors + p.b_vectors);
    if (column < p.a_vectors) {
        y[i] = encode_y(decode_a(a[row * p.a_vectors + column]));
    } else {
        y[i] = encode_y(decode_b(b[row * p.b_vectors + column - p.a_vectors]));
    }
}
