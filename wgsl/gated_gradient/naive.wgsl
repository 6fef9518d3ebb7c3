// gated_gradient, naive: for y = a * f(b), a and b the halves of each row of x: da = dy * f(b), db = dy * a * f'(b)
//
//   x, y      [rows, 2 C]  f32 or f16; y is dx: da beside db
//   dy        [rows, C]    f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in two halves
// requires:   nothing
// constants:  ACTIVATION = 0..7, that of the gate (include/activation.wgsl)
// error:      1e-5 relative L2 in f32
// source:     Shazeer 2020, "GLU Variants Improve Transformer", equation 5, differentiated
//!include flat_index
//!include activation
//!include activation_gradient
//!storage x
//!storage dy
//!storage y

struct Params {
    elements: u32, // of y
    C: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
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

    var values = vec4<f32>(0.0);
    var gates = vec4<f32>(0.0);
    var of_values = vec4<bool>(false);
    var upstream = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = min(4u * i + lane, p.elements - 1u);
        let row = element / (2u * p.C);
        let column = element % p.C;
        let a = row * 2u * p.C + column;
        let b = a + p.C;
        let d = row * p.C + column;
        values[lane] = decode_x(x[a / 4u])[a % 4u];
        gates[lane] = decode_x(x[b / 4u])[b % 4u];
        upstream[lane] = decode_dy(dy[d / 4u])[d % 4u];
        of_values[lane] = element % (2u * p.C) < p.C;
    }
    let result = select(values * activation_gradient(gates), activate(gates), of_values);
    y[i] = encode_y(upstream * result);
}
