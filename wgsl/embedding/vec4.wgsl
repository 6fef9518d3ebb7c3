// embedding, vec4: y[i, :] = table[indices[i], :], four elements at a time
//
//   indices   [rows]     u32; an index of V or more reads the last row (the host checks indices before it writes them)
//   table     [V, D]     f32 or f16
//   y         [rows, D]  f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which lie in one row
// requires:   D a multiple of 4
// constants:  none
// error:      none
// faster:     than naive: one load of the table and one of an index for four elements where naive has four of each
// source:     torch.nn.Embedding
//!include flat_index
//!storage table
//!storage y

struct Params {
    vectors: u32,     // of y
    row_vectors: u32, // D / 4
    V: u32,
}

@group(0) @binding(0) var<storage, read> indices: array<u32>;
@group(0) @binding(1) var<storage, read> table: array<table_vec4>;
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
    let index = min(indices[i / p.row_vectors], p.V - 1u);
    y[i] = encode_y(decode_table(table[index * p.row_vectors + i % p.row_vectors]));
}
