// layer_norm, naive: y = (x - mean) / sqrt(variance + eps) * gamma + beta, over each row
//
//   x, y        [rows, channels]  f32 or f16
//   gamma, beta [channels]        f32
// dispatch:   one invocation for four consecutive elements of y, which may lie in several rows; each computes its rows'
//             statistics anew
// requires:   nothing
// constants:  none
// error:      1e-5 relative L2 in f32, 1e-4 with a mean above 100 deviations
// source:     Ba, Kiros and Hinton 2016, "Layer Normalization", equation 3
//!include flat_index
//!storage x
//!storage y

struct Params {
    elements: u32,
    channels: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(4) var<uniform> p: Params;

fn value(element: u32) -> f32 {
    return decode_x(x[element / 4u])[element % 4u];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u && 4u * i + lane < p.elements; lane++) {
        let element = 4u * i + lane; // [row, channel]
        let channel = element % p.channels;
        let first = element - channel;
        var sum = 0.0;
        for (var c = 0u; c < p.channels; c++) { sum += value(first + c); }
        let mean = sum / f32(p.channels);
        var squares = 0.0;
        for (var c = 0u; c < p.channels; c++) {
            let difference = value(first + c) - mean;
            squares += difference * difference;
        }
        let variance = squares / f32(p.channels);
        result[lane] = (value(element) - mean) / sqrt(variance + p.eps) * gamma[channel] + beta[channel];
    }
    if (4u * i < p.elements) { y[i] = encode_y(result); }
}
