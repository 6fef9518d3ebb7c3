// norm_moments, naive: of each group of x: mean, r = 1 / sqrt(variance + eps), mean of g, mean of g * n, with the
// normalised value n = (x - mean) * r and its gradient g = dy * gamma * (1 + scale)
//
//   x, dy       [images, positions, channels]  f32 or f16; in row norms, each row is an image of one position
//   gamma       [channels]                     f32; if HAS_GAMMA
//   modulation  [rows / span, columns]         f32 or f16; the scale is a part of its columns; if HAS_SCALE
//   y           [images, groups, 4]            f32
// dispatch:   one invocation for a group
// requires:   nothing
// constants:  HAS_GAMMA, HAS_SCALE (include/norm_upstream.wgsl); CENTERED: false for root mean squares, whose mean is 0
// error:      1e-5 relative L2 in f32 for groups of up to 10 000 values
// source:     Wu and He 2018, "Group Normalization", equation 1, differentiated
//!include flat_index
//!include norm_upstream
//!storage x
//!storage dy
//!storage modulation

const CENTERED: bool = true;

struct Params {
    images: u32,
    positions: u32,
    channels: u32,
    groups: u32,
    span: u32, // rows of x that share a row of modulation
    modulation_columns: u32,
    scale_column: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> dy: array<dy_vec4>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> modulation: array<modulation_vec4>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (i >= p.images * p.groups) { return; }

    let width = p.channels / p.groups;
    let first = i / p.groups * p.positions * p.channels + i % p.groups * width;
    let count = f32(p.positions * width);
    // Sums of a position at a time: short ones, so that long groups lose few digits.
    var mean = 0.0;
    if (CENTERED) {
        for (var position = 0u; position < p.positions; position++) {
            var sum = 0.0;
            for (var c = 0u; c < width; c++) { sum += x_at(first + position * p.channels + c); }
            mean += sum;
        }
        mean /= count;
    }
    var sums = vec3<f32>(0.0); // of (x - mean)^2, g, g * (x - mean)
    for (var position = 0u; position < p.positions; position++) {
        var sum = vec3<f32>(0.0);
        for (var c = 0u; c < width; c++) {
            let element = first + position * p.channels + c;
            let d = x_at(element) - mean;
            let g = upstream_at(element);
            sum += vec3<f32>(d * d, g, g * d);
        }
        sums += sum;
    }
    sums /= count;
    let r = 1.0 / sqrt(sums.x + p.eps);
    y[i] = vec4<f32>(mean, r, sums.y, sums.z * r);
}
