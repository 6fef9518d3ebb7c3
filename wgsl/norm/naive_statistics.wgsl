// norm, naive, first launch: mean and 1 / sqrt(variance + eps) of every image and group
//
//   x           [images, positions, channels]  f32 or f16; in row norms, each row is an image of one position
//   statistics  [images, groups, 2]            f32: mean, 1 / sqrt(variance + eps)
// dispatch:   one invocation for one image and group
// requires:   nothing: any number of channels that the groups divide
// constants:  CENTERED = false: the mean is taken as 0, for RMS norms
// error:      see naive.wgsl
// source:     Wu and He 2018, "Group Normalization", equations 1 and 2; Zhang and Sennrich 2019, "Root Mean Square
//             Layer Normalization", equation 4
//!include flat_index
//!storage x

const CENTERED: bool = true;

struct Params {
    images: u32,
    positions: u32,
    channels: u32,
    groups: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> statistics: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

// The i-th value of a group whose first value is element `first`.
fn value(first: u32, group_channels: u32, i: u32) -> f32 {
    let element = first + i / group_channels * p.channels + i % group_channels;
    return decode_x(x[element / 4u])[element % 4u];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u); // [image, group]
    if (i >= p.images * p.groups) { return; }
    let group_channels = p.channels / p.groups;
    let count = p.positions * group_channels;
    let first = i / p.groups * p.positions * p.channels + i % p.groups * group_channels;

    // Sums of sums of 256 values: the rounding error grows with the square root of 256 + count / 256 additions instead
    // of count.
    var sum = 0.0;
    for (var start = 0u; start < count; start += 256u) {
        var partial = 0.0;
        for (var j = start; j < min(start + 256u, count); j++) { partial += value(first, group_channels, j); }
        sum += partial;
    }
    let mean = select(0.0, sum / f32(count), CENTERED);

    // A second pass over the differences from the mean: E[x^2] - mean^2 would cancel where the mean is far from zero.
    var squares = 0.0;
    for (var start = 0u; start < count; start += 256u) {
        var partial = 0.0;
        for (var j = start; j < min(start + 256u, count); j++) {
            let difference = value(first, group_channels, j) - mean;
            partial += difference * difference;
        }
        squares += partial;
    }
    statistics[i] = vec2<f32>(mean, 1.0 / sqrt(squares / f32(count) + p.eps));
}
