// norm_sums, vec4: of each channel of each image, over some of its positions: the sums of dy * n and of dy, with the
// normalised value n = (x - mean) * r
//
//   x, dy       [images, positions, channels]  f32 or f16
//   moments     [.., 4]                        f32, one row a group: mean, r (norm_moments)
//   y           [images, parts, 2, channels]   f32: part i of positions i * length .. (i + 1) * length
// dispatch:   one invocation for both sums of four channels
// requires:   groups whose channels are whole vectors
// constants:  ROWS: every position is a group of its own
// error:      1e-5 relative L2 in f32 for up to 1000 positions a part
// faster:     than naive: whole vectors, and dy is read once for both sums (reasoned, not measured)
// source:     Ioffe and Szegedy 2015, "Batch Normalization", section 3: the gradients of gamma and beta
//!include flat_index
//!storage x
//!storage dy

const ROWS: bool = false;

struct Params {
    elements: u32, // of y
    positions: u32,
    channels: u32,
    groups: u32,
    parts: u32,
    length: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> dy: array<dy_vec4>;
@group(0) @binding(2) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (8u * i >= p.elements) { return; }
    let channels = p.channels / 4u;
    let channel = i % channels;
    let part = i / channels; // [image, part]
    let image = part / p.parts;
    let first = part % p.parts * p.length;
    let end = min(first + p.length, p.positions);
    var m = moments[image * p.groups + channel / (channels / p.groups)];
    var normalised = vec4<f32>(0.0);
    var upstream = vec4<f32>(0.0);
    for (var position = first; position < end; position++) {
        let row = image * p.positions + position;
        if (ROWS) { m = moments[row]; }
        let g = decode_dy(dy[row * channels + channel]);
        normalised += g * ((decode_x(x[row * channels + channel]) - m.x) * m.y);
        upstream += g;
    }
    y[2u * part * channels + channel] = normalised;
    y[(2u * part + 1u) * channels + channel] = upstream;
}
