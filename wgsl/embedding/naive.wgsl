// embedding, naive: y[i, :] = table[indices[i], :]
//
//   indices   [rows]     u32; an index of V or more reads the last row (the host checks indices before it writes them)
//   table     [V, D]     f32 or f16
//   y         [rows, D]  f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in two rows
// requires:   nothing: any D
// constants:  none
// error:      none
// source:     torch.nn.Embedding
//!include flat_index
//!storage table
//!storage y

struct Params {
    elements: u32, // of y
    D: u32,
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
    if (4u * i >= p.elements) { return; }

    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [row, column]
        if (element >= p.elements) { break; }
        let ti = min(indices[element / p.D], p.V - 1u) * p.D + element % p.D;
        result[lane] = decode_table(table[ti / 4u])[ti % 4u];
    }
    y[i] = encode_y(result);
}
