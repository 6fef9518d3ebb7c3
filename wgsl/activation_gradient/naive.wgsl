// activation_gradient, naive: dx = dy * f'(x), elementwise
//
//   x, dy, y  flat elements, any shape; f32 or f16; y is dx
// dispatch:   one invocation for four consecutive elements
// requires:   nothing
// constants:  ACTIVATION = 0..7 (include/activation.wgsl)
// error:      1e-5 relative L2 in f32
// source:     the derivatives of the functions of activation/
//!include flat_index
//!include activation
//!include activation_gradient
//!storage x
//!storage dy
//!storage y

struct Params {
    vectors: u32, // elements / 4, rounded up
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
    if (i >= p.vectors) { return; }
    y[i] = encode_y(decode_dy(dy[i]) * activation_gradient(decode_x(x[i])));
}
