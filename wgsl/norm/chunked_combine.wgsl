// norm, chunked, second launch of three: from the moments of the chunks to a factor and a summand for every channel
//
//   moments     [images, chunks, 2, channels]  f32: means, then sum (x - mean)^2, of each channel over each chunk
//   gamma       [channels]                     f32; if HAS_GAMMA
//   beta        [channels]                     f32; if HAS_BETA
//   modulation  [images, columns]              f32 or f16; scale and shift are parts of its columns; if HAS_SCALE
//   affine      [images, 2, channels]          f32: factors gamma / sqrt(variance + eps) * (1 + scale), then summands
//                                              (beta - mean * gamma / sqrt(variance + eps)) * (1 + scale) + shift
// dispatch:   LANES invocations for one image and group
// requires:   64 invocations, 256 bytes of workgroup memory
// constants:  LANES: 64 or 1; HAS_GAMMA, HAS_BETA, HAS_SCALE, HAS_SHIFT
// error:      see chunked.wgsl
// faster:     than naive_statistics: see chunked_moments.wgsl; this launch reads little and costs little
// source:     mean and variance of a union: Chan, Golub and LeVeque 1983, equations 2.1
//!include flat_index
//!storage modulation

const LANES: u32 = 64u;
const HAS_GAMMA: bool = true;
const HAS_BETA: bool = true;
const HAS_SCALE: bool = false;
const HAS_SHIFT: bool = false;

struct Params {
    images: u32,
    groups: u32,
    channels: u32,
    positions: u32,
    chunks: u32,
    chunk: u32,
    eps: f32,
    modulation_columns: u32,
    scale_column: u32,
    shift_column: u32,
}

@group(0) @binding(0) var<storage, read> moments: array<f32>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read> modulation: array<modulation_vec4>;
@group(0) @binding(4) var<storage, read_write> affine: array<f32>;
@group(0) @binding(5) var<uniform> p: Params;

var<workgroup> partial: array<f32, 64>;

// The sum of the values of the LANES invocations of a group, returned to all of them.
fn group_sum(value: f32, local: u32) -> f32 {
    if (LANES == 1u) { return value; }
    workgroupBarrier(); // the last sum has been read
    partial[local] = value;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) { partial[local] += partial[local + half]; }
    }
    workgroupBarrier();
    return partial[0];
}

fn modulation_at(element: u32) -> f32 {
    return decode_modulation(modulation[element / 4u])[element % 4u];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = flat_index(workgroup, workgroups, local, 64u) / LANES; // [image, group]
    let lane = local % LANES;
    // Invocations past the end repeat the last group and store nothing: a return would split them before a barrier.
    let is_own = index < p.images * p.groups;
    let group = min(index, p.images * p.groups - 1u) % p.groups;
    let image = min(index, p.images * p.groups - 1u) / p.groups;
    let group_channels = p.channels / p.groups;
    let first_channel = group * group_channels;
    let entries = p.chunks * group_channels; // chunks of single channels
    let first = image * p.chunks * 2u * p.channels + first_channel;
    let total = f32(p.positions * group_channels);

    // Means relative to that of the first chunk: their differences are small and exact even where the means are not.
    let pivot = moments[first];
    var sum = 0.0;
    for (var i = lane; i < entries; i += LANES) {
        let chunk = i / group_channels;
        let count = f32(min(p.chunk, p.positions - chunk * p.chunk));
        sum += count * (moments[first + 2u * chunk * p.channels + i % group_channels] - pivot);
    }
    let shift = group_sum(sum, local) / total; // mean - pivot

    // sum (x - mean)^2 over a chunk = sum (x - its mean)^2 + count * (its mean - mean)^2
    var squares = 0.0;
    for (var i = lane; i < entries; i += LANES) {
        let chunk = i / group_channels;
        let count = f32(min(p.chunk, p.positions - chunk * p.chunk));
        let entry = first + 2u * chunk * p.channels + i % group_channels;
        let difference = moments[entry] - pivot - shift;
        squares += moments[entry + p.channels] + count * difference * difference;
    }
    let variance = group_sum(squares, local) / total;

    let mean = pivot + shift;
    let inverse_deviation = 1.0 / sqrt(variance + p.eps);
    let last_channel = select(first_channel, first_channel + group_channels, is_own);
    for (var c = first_channel + lane; c < last_channel; c += LANES) {
        var factor = inverse_deviation;
        if (HAS_GAMMA) { factor *= gamma[c]; }
        var summand = -mean * factor;
        if (HAS_BETA) { summand += beta[c]; }
        let at = image * p.modulation_columns + c;
        if (HAS_SCALE) {
            let scale = 1.0 + modulation_at(at + p.scale_column);
            factor *= scale;
            summand *= scale;
        }
        if (HAS_SHIFT) { summand += modulation_at(at + p.shift_column); }
        affine[2u * image * p.channels + c] = factor;
        affine[(2u * image + 1u) * p.channels + c] = summand;
    }
}
