// concat, naive: y[r, :] = a[r, :] followed by b[r, :]
//
//   a         [rows, A]      f32 or f16
//   b         [rows, B]      f32 or f16
//   y         [rows, A + B]  f32 or f16
// A row is everything from the axis on: one pixel when channels are joined, the whole tensor when batches are.
// dispatch:   one invocation for four consecutive elements of y, which may come from both inputs and from two rows
// requires:   nothing: any A, B
// constants:  none
// error:      none beyond the rounding to y's element type
// source:     torch.cat
//!include flat_index
//!storage a
//!storage b
//!storage y

struct Params {
    elements: u32, // of y
    A: u32,
    B: u32,
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
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [row, column]
        if (element >= p.elements) { break; }
        let row = element / (p.A + p.B);
        let column = element % (p.A + p.B);
        if (column < p.A) {
            let ai = row * p.A + column;
            result[lane] = decode_a(a[ai / 4u])[ai % 4u];
        } else {
            let bi = row * p.B + column - p.A;
            result[lane] = decode_b(b[bi / 4u])[bi % 4u];
        }
    }
    if (4u * i < p.elements) { y[i] = encode_y(result); }
}
