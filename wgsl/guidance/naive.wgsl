// guidance, naive: y[n] = sum over b of weights[b, n] * model_output[b, n], the branches of a guided prediction
//
//   model_output  [B, N, ..]  f32
//   weights       [B, N]      f32
//   y             [N, ..]     f32
// dispatch:   one invocation for four consecutive elements of y, which may lie in two images
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     Ho and Salimans 2022, eq. 6; Brooks et al. 2023, eq. 3
//!include flat_index

struct Params {
    elements: u32, // of y
    image: u32,    // elements of one image
    N: u32,        // images
    B: u32,        // branches
}

@group(0) @binding(0) var<storage, read> model_output: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
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
        let element = 4u * i + lane; // [n, ..]
        if (element >= p.elements) { break; }
        let n = element / p.image;
        var sum = 0.0;
        for (var b = 0u; b < p.B; b++) {
            let source = b * p.elements + element;
            sum += weights[b * p.N + n] * model_output[source / 4u][source % 4u];
        }
        result[lane] = sum;
    }
    y[i] = result;
}
