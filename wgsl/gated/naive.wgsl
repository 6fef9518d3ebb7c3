// gated, naive: y[r, c] = x[r, c] * f(x[r, C + c])
//
//   x         [rows, 2 C]  f32 or f16: values, then gates
//   y         [rows, C]    f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in two rows
// requires:   nothing: any C
// constants:  ACTIVATION: f (include/activation.wgsl)
// error:      1e-5 relative L2 in f32
// source:     Shazeer 2020, "GLU Variants Improve Transformer"
//!include flat_index
//!include activation
//!storage x
//!storage y

struct Params {
    elements: u32, // of y
    C: u32,
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
    if (4u * i >= p.elements) { return; }

    var value = vec4<f32>(0.0);
    var gate = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [row, c]
        if (element >= p.elements) { break; }
        let vi = element / p.C * 2u * p.C + element % p.C;
        let gi = vi + p.C;
        value[lane] = decode_x(x[vi / 4u])[vi % 4u];
        gate[lane] = decode_x(x[gi / 4u])[gi % 4u];
    }
    y[i] = encode_y(value * activate(gate));
}
