// norm_moments, workgroup: of each group of x: mean, r = 1 / sqrt(variance + eps), mean of g, mean of g * n, with the
// normalised value n = (x - mean) * r and its gradient g = dy * gamma * (1 + scale)
//
//   x, dy       [images, positions, channels]  f32 or f16; in row norms, each row is an image of one position
//   gamma       [channels]                     f32; if HAS_GAMMA
//   modulation  [rows / span, columns]         f32 or f16; the scale is a part of its columns; if HAS_SCALE
//   y           [images, groups, 4]            f32
// dispatch:   one workgroup for a group, 128 invocations, in rows of 65 535 workgroups
// requires:   nothing
// constants:  HAS_GAMMA, HAS_SCALE (include/norm_upstream.wgsl); CENTERED: false for root mean squares, whose mean is 0
// error:      1e-5 relative L2 in f32
// faster:     than naive on GPUs: 128 invocations share a group and read neighbours (reasoned, not measured)
// source:     Wu and He 2018, "Group Normalization", equation 1, differentiated
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

var<workgroup> partial: array<vec3<f32>, 128>;

// The sum of `value` over the workgroup.
fn total(local: u32, value: vec3<f32>) -> vec3<f32> {
    workgroupBarrier(); // whoever still reads an earlier total
    partial[local] = value;
    workgroupBarrier();
    for (var half = 64u; half > 0u; half /= 2u) {
        if (local < half) { partial[local] += partial[local + half]; }
        workgroupBarrier();
    }
    return partial[0];
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // Groups beyond the last compute the last again and write nothing, so that all meet at the barriers.
    let index = workgroup.y * workgroups.x + workgroup.x;
    let i = min(index, p.images * p.groups - 1u);
    let width = p.channels / p.groups;
    let first = i / p.groups * p.positions * p.channels + i % p.groups * width;
    let count = p.positions * width;

    var sum = 0.0;
    if (CENTERED) {
        for (var k = local; k < count; k += 128u) { sum += x_at(first + k / width * p.channels + k % width); }
    }
    let mean = total(local, vec3<f32>(sum, 0.0, 0.0)).x / f32(count);
    var sums = vec3<f32>(0.0); // of (x - mean)^2, g, g * (x - mean)
    for (var k = local; k < count; k += 128u) {
        let element = first + k / width * p.channels + k % width;
        let d = x_at(element) - mean;
        let g = upstream_at(element);
        sums += vec3<f32>(d * d, g, g * d);
    }
    sums = total(local, sums) / f32(count);
    let r = 1.0 / sqrt(sums.x + p.eps);
    if (local == 0u && index == i) { y[i] = vec4<f32>(mean, r, sums.y, sums.z * r); }
}
