// transpose, vec4_blocks: y[o, b, a] = x[o, a, b], a block of 4 x 4 elements at a time
//
//   x         [outer, A, B]  f32 or f16
//   y         [outer, B, A]  f32 or f16
// dispatch:   one invocation for four rows of four elements, transposed in its registers
// requires:   A and B multiples of 4
// constants:  none
// error:      none beyond the rounding to y's element type
// faster:     than naive: four loads and four stores of whole vectors for sixteen elements where naive loads a whole
//             vector for each element
// source:     torch.permute
//!include flat_index
//!storage x
//!storage y

struct Params {
    blocks: u32, // elements / 16
    A: u32,
    B: u32,
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
    if (i >= p.blocks) { return; }
    let across = p.B / 4u;
    let down = p.A / 4u;
    let column = i % across;
    let row = i / across % down;
    let o = i / across / down;
    let source_at = (o * p.A + 4u * row) * across + column;
    let block = transpose(mat4x4<f32>(
        decode_x(x[source_at]),
        decode_x(x[source_at + across]),
        decode_x(x[source_at + 2u * across]),
        decode_x(x[source_at + 3u * across]),
    ));
    let target_at = (o * p.B + 4u * column) * down + row;
    y[target_at] = encode_y(block[0]);
    y[target_at + down] = encode_y(block[1]);
    y[target_at + 2u * down] = encode_y(block[2]);
    y[target_at + 3u * down] = encode_y(block[3]);
}
