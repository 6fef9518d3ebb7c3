// scale_noise, naive: y = noise * the standard deviation that the model predicted for each element
//
//   noise         [N, .., C]   f32
//   model_output  [N, .., 2C]  f32; the last C channels are v
//   coefficients  [..]         f32; min_log and max_log are elements 4 and 5
//   y             [N, .., C]   f32
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  RANGE = true: exp(0.5 * (f * max_log + (1 - f) * min_log)) with f = (v + 1) / 2; false: sqrt(v)
// error:      1e-5 relative L2
// source:     Nichol and Dhariwal 2021, eq. 15
//!include flat_index

const RANGE: bool = true;

struct Params {
    elements: u32, // of y
    channels: u32, // of y
}

@group(0) @binding(0) var<storage, read> noise: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> model_output: array<vec4<f32>>;
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
    var v = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [pixel, c]
        let source = element / p.channels * 2u * p.channels + p.channels + element % p.channels;
        v[lane] = model_output[source / 4u][source % 4u];
    }
    if (RANGE) {
        let fraction = 0.5 * (v + 1.0);
        y[i] = noise[i] * exp(0.5 * (fraction * coefficients[5] + (1.0 - fraction) * coefficients[4]));
    } else {
        y[i] = noise[i] * sqrt(v);
    }
}
