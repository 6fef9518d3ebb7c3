// slice, naive: y[r, c] = x[r, start + c] for c < length
//
//   x         [rows, C]       f32 or f16
//   y         [rows, length]  f32 or f16
// A row is everything from the axis on: one pixel when channels are cut out, the whole tensor when images are.
// dispatch:   one invocation for four consecutive elements of y, which may lie in two rows
// requires:   nothing: any C, start, length
// constants:  none
// error:      none beyond the rounding to y's element type
// source:     torch.narrow
//!include flat_index
//!storage x
//!storage y

struct Params {
    elements: u32, // of y
    C: u32,
    start: u32,
    length: u32,
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
        let element = 4u * i + lane; // [row, column]
        if (element >= p.elements) { break; }
        let xi = element / p.length * p.C + p.start + element % p.length;
        result[lane] = decode_x(x[xi / 4u])[xi % 4u];
    }
    if (4u * i < p.elements) { y[i] = encode_y(result); }
}
