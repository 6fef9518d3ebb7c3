// norm_gradient, vec4: dx = r * (g - mean of g - n * mean of g * n), with n = (x - mean) * r and
// g = dy * gamma * (1 + scale); the means are those of the group
//
//   x, dy, y    [images, positions, channels]  f32 or f16; in row norms, each row is an image of one position; y is dx
//   moments     [images, groups, 4]            f32: mean, r, mean of g, mean of g * n (norm_moments)
//   gamma       [channels]                     f32; if HAS_GAMMA
//   modulation  [rows / span, columns]         f32 or f16; the scale is a part of its columns; if HAS_SCALE
// dispatch:   one invocation for a vector of y
// requires:   groups whose channels are whole vectors
// constants:  HAS_GAMMA, HAS_SCALE; CENTERED: false for root mean squares
// error:      1e-5 relative L2 in f32
// faster:     than naive: the moments are read and the group is found once for four elements (reasoned, not measured)
// source:     Ioffe and Szegedy 2015, "Batch Normalization", section 3, for groups of one image
//!include flat_index
//!storage x
//!storage dy
//!storage modulation
//!storage y

const HAS_GAMMA: bool = true;
const HAS_SCALE: bool = false;
const CENTERED: bool = true;

struct Params {
    elements: u32,
    positions: u32,
    channels: u32,
    groups: u32,
    span: u32, // rows of x that share a row of modulation
    modulation_columns: u32,
    scale_column: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> dy: array<dy_vec4>;
@group(0) @binding(2) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> gamma: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> modulation: array<modulation_vec4>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }
    let channels = p.channels / 4u;
    let row = i / channels;
    let channel = i % channels;
    let m = moments[row / p.positions * p.groups + channel / (channels / p.groups)];
    var g = decode_dy(dy[i]);
    if (HAS_GAMMA) { g *= gamma[channel]; }
    if (HAS_SCALE) {
        let at = (row / p.span * p.modulation_columns + p.scale_column) / 4u + channel;
        g *= 1.0 + decode_modulation(modulation[at]);
    }
    let n = (decode_x(x[i]) - m.x) * m.y;
    if (CENTERED) { g -= m.z; }
    y[i] = encode_y(m.y * (g - n * m.w));
}
