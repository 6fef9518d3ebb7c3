// dynamic_threshold, naive: y[n, e] = clamp(x0[n, e], -s, s) / s with s = threshold[n]
//
//   x0         [N, E]  f32
//   threshold  [N]     f32, from naive_quantile
//   y          [N, E]  f32
// dispatch:   one invocation for four consecutive elements, which may lie in two images
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
//             section 2.3
//!include flat_index

struct Params {
    elements: u32,
    E: u32, // elements of one image
}

@group(0) @binding(0) var<storage, read> x0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> threshold: array<f32>;
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

    var s = vec4<f32>(1.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [n, e]
        if (element >= p.elements) { break; }
        s[lane] = threshold[element / p.E];
    }
    y[i] = clamp(x0[i], -s, s) / s;
}
