// guidance, naive: y[n] = u[n] + scale[n] * (c[n] - u[n]), classifier-free guidance
//
//   model_output  [2N, ..]  f32; the unconditional half u, then the conditional half c
//   scale         [N]       f32
//   y             [N, ..]   f32
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     Ho and Salimans 2022, eq. 6
//!include flat_index

struct Params {
    elements: u32, // of y
    image: u32,    // elements of one image
}

@group(0) @binding(0) var<storage, read> model_output: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
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
        let element = 4u * i + lane;
        if (element >= p.elements) { break; }
        let other = p.elements + element; // the same element of the conditional half
        let u = model_output[element / 4u][element % 4u];
        let c = model_output[other / 4u][other % 4u];
        result[lane] = u + scale[element / p.image] * (c - u);
    }
    y[i] = result;
}
