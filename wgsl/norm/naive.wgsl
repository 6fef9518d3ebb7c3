// norm, naive, second launch: n = (x - mean) / sqrt(variance + eps), y = f((n * gamma + beta) * (1 + scale) + shift)
//
//   x, y        [images, positions, channels]  f32 or f16; in row norms, each row is an image of one position
//   gamma       [channels]                     f32; if HAS_GAMMA
//   beta        [channels]                     f32; if HAS_BETA
//   modulation  [rows / span, columns]         f32 or f16; scale and shift are parts of its columns; if HAS_SCALE
//   statistics  [images, groups, 2]            f32: mean, 1 / sqrt(variance + eps)
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  HAS_GAMMA, HAS_BETA, HAS_SCALE, HAS_SHIFT; ACTIVATION (include/activation.wgsl)
// error:      1e-5 relative L2 in f32, 1e-4 over groups of more than 10 000 values or with a mean above 100 deviations
// source:     Wu and He 2018, "Group Normalization", equation 1; Ba, Kiros and Hinton 2016, "Layer Normalization",
//             equation 3; Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4
//!include flat_index
//!include activation
//!storage x
//!storage modulation
//!storage y

const HAS_GAMMA: bool = true;
const HAS_BETA: bool = true;
const HAS_SCALE: bool = false;
const HAS_SHIFT: bool = false;

struct Params {
    elements: u32,
    positions: u32,
    channels: u32,
    groups: u32,
    span: u32, // rows of x that share a row of modulation
    modulation_columns: u32,
    scale_column: u32,
    shift_column: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read> modulation: array<modulation_vec4>;
@group(0) @binding(4) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

fn modulation_at(element: u32) -> f32 {
    return decode_modulation(modulation[element / 4u])[element % 4u];
}

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
        var value = (result[lane] - s.x) * s.y;
        if (HAS_GAMMA) { value *= gamma[channel]; }
        if (HAS_BETA) { value += beta[channel]; }
        let at = element / p.channels / p.span * p.modulation_columns + channel;
        if (HAS_SCALE) { value *= 1.0 + modulation_at(at + p.scale_column); }
        if (HAS_SHIFT) { value += modulation_at(at + p.shift_column); }
        result[lane] = value;
    }
    y[i] = encode_y(activate(result));
}
