// pred_original_sample, naive: y = clamp(a * sample + b * model_output, -clip, clip), the estimate of x_0
//
//   state         [1 + S, N, .., C]   f32; row 0 is the sample
//   model_output  [N, .., C or 2C]    f32; only the first C channels are read
//   coefficients  [..]                f32; a, b and clip are elements 1, 2 and 3
//   y             [N, .., C]          f32
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     Ho et al. 2020, eq. 15; Salimans and Ho 2022, appendix D, for v-prediction
//!include flat_index

struct Params {
    elements: u32,        // of y
    channels: u32,        // of y
    output_channels: u32, // of model_output
}

@group(0) @binding(0) var<storage, read> state: array<vec4<f32>>;
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
    var prediction = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [pixel, c]
        let source = element / p.channels * p.output_channels + element % p.channels;
        prediction[lane] = model_output[source / 4u][source % 4u];
    }
    let clip = coefficients[3];
    y[i] = clamp(coefficients[1] * state[i] + coefficients[2] * prediction, vec4<f32>(-clip), vec4<f32>(clip));
}
