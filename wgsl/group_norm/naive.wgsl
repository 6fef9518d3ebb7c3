// group_norm, naive, second launch: y = f((x - mean) / sqrt(variance + eps) * gamma + beta)
//
//   x, y        [images, positions, channels]  f32 or f16
//   gamma, beta [channels]                     f32
//   statistics  [images, groups, 2]            f32: mean, 1 / sqrt(variance + eps)
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  ACTIVATION (include/activation.wgsl)
// error:      1e-5 relative L2 in f32, 1e-4 over groups of more than 10 000 values or with a mean above 100 deviations
// source:     Wu and He 2018, "Group Normalization", equation 1
//!include flat_index
//!include activation
//!storage x
//!storage y

struct Params {
    elements: u32,
    positions: u32,
    channels: u32,
    groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }
    var result = decode_x(x[i]);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = min(4u * i + lane, p.elements - 1u); // [image, position, channel]
        let channel = element % p.channels;
        let image = element / (p.positions * p.channels);
        let s = statistics[image * p.groups + channel / (p.channels / p.groups)];
        result[lane] = (result[lane] - s.x) * s.y * gamma[channel] + beta[channel];
    }
    y[i] = encode_y(activate(result));
}
