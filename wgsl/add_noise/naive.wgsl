// add_noise, naive: y[n] = a[n] * original[n] + b[n] * noise[n], the forward process q(x_t | x_0)
//
//   original, noise  [N, ..]  f32
//   coefficients     [N, 2]   f32; a = sqrt(alphas_cumprod_t), b = sqrt(1 - alphas_cumprod_t)
//   y                [N, ..]  f32
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     Ho et al. 2020, eq. 4
//!include flat_index

struct Params {
    elements: u32, // of y
    image: u32,    // elements of one image
}

@group(0) @binding(0) var<storage, read> original: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> noise: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> p: Params;

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
        let n = element / p.image;
        result[lane] = coefficients[2u * n] * original[i][lane] + coefficients[2u * n + 1u] * noise[i][lane];
    }
    y[i] = result;
}
