// guidance_rescale, naive: y[n, e] = guided[n, e] * factor[n]
//
//   guided  [N, E]  f32
//   factor  [N]     f32, from naive_factor
//   y       [N, E]  f32
// dispatch:   one invocation for four consecutive elements, which may lie in two images
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", eq. 15 and 16
//!include flat_index

struct Params {
    elements: u32,
    E: u32, // elements of one image
}

@group(0) @binding(0) var<storage, read> guided: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> factor: array<f32>;
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
    var by = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [n, e]
        if (element >= p.elements) { break; }
        by[lane] = factor[element / p.E];
    }
    y[i] = guided[i] * by;
}
