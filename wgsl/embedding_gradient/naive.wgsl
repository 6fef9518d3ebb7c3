// embedding_gradient, naive: y[v, :] = sum of dy[i, :] over the rows i with indices[i] = v
//
//   indices  [rows]     u32; beyond the table: its last row, as in embedding/
//   dy       [rows, D]  f32 or f16
//   y        [V, D]     f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in several rows
// requires:   nothing; every row of the table looks at every index, so that no two invocations add to one number, and
//             the order of a sum is always the same
// constants:  none
// error:      1e-5 relative L2 in f32 for up to 1000 rows with one index
// source:     torch.nn.Embedding, differentiated
//!include flat_index
//!storage dy
//!storage y

struct Params {
    elements: u32, // of y
    rows: u32,
    D: u32,
    V: u32,
}

@group(0) @binding(0) var<storage, read> indices: array<u32>;
@group(0) @binding(1) var<storage, read> dy: array<dy_vec4>;
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
    for (var row = 0u; row < p.rows; row++) {
        let index = min(indices[row], p.V - 1u);
        for (var lane = 0u; lane < 4u; lane++) {
            let element = 4u * i + lane; // [v, column]
            if (element / p.D == index) {
                let at = row * p.D + element % p.D;
                result[lane] += decode_dy(dy[at / 4u])[at % 4u];
            }
        }
    }
    y[i] = encode_y(result);
}
