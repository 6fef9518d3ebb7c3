// binary, vec4: y = a + b, a * b or a / b with one operand repeated, four elements at a time
//
//   a, b      shapes that broadcast to that of y (include/broadcast.wgsl); f32 or f16
//   y         of RANK dimensions; f32 or f16
// An operand that has the innermost dimension is indexed in vectors; one without it gives one element for all four.
// dispatch:   one invocation for four consecutive elements of y, neighbours along the innermost dimension
// requires:   the innermost dimension, merged with neighbours that broadcast alike, a multiple of 4
// constants:  KIND = 0 add, 1 multiply, 2 divide; A_REPEATS, B_REPEATS = whether that operand lacks the innermost
//             dimension
// error:      1e-6 relative L2 in f32
// faster:     than naive: two loads and one set of index divisions for four elements where naive has eight and four
// source:     torch.add, torch.mul, torch.div; numpy's broadcasting rules
//!include flat_index
//!include broadcast
//!storage a
//!storage b
//!storage y

const KIND: u32 = 0u;
const A_REPEATS: bool = false;
const B_REPEATS: bool = false;

struct Params {
    vectors: u32, // elements / 4
    size_0: u32, size_1: u32, size_2: u32, size_3: u32, size_4: u32, size_5: u32,
    a_0: u32, a_1: u32, a_2: u32, a_3: u32, a_4: u32, a_5: u32,
    b_0: u32, b_1: u32, b_2: u32, b_3: u32, b_4: u32, b_5: u32,
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
    let at = operands_at(i);
    var left: vec4<f32>;
    var right: vec4<f32>;
    if (A_REPEATS) { left = vec4<f32>(decode_a(a[at.x / 4u])[at.x % 4u]); } else { left = decode_a(a[at.x]); }
    if (B_REPEATS) { right = vec4<f32>(decode_b(b[at.y / 4u])[at.y % 4u]); } else { right = decode_b(b[at.y]); }
    if (KIND == 0u) {
        y[i] = encode_y(left + right);
    } else if (KIND == 1u) {
        y[i] = encode_y(left * right);
    } else {
        y[i] = encode_y(left / right);
    }
}
