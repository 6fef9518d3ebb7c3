// norm, chunked, first launch of three: mean and sum of squared differences of every channel over every chunk of
// positions
//
//   x           [images, positions, channels]      f32 or f16
//   moments     [images, chunks, 2, channels]      f32: means, then sum (x - mean)^2
// dispatch:   one invocation for four channels of one chunk; neighbours in a workgroup read neighbouring channels of
//             the same position
// requires:   channels % 4 == 0
// constants:  none
// error:      see chunked.wgsl
// faster:     than naive_statistics: all channels and chunks at once, in whole vectors, and x is read once instead of
//             twice
// source:     shifted sums: Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance", section 3
//!include flat_index
//!storage x

struct Params {
    images: u32,
    positions: u32,
    vectors: u32, // channels / 4
    chunks: u32,
    chunk: u32,   // positions in a chunk, fewer in the last
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> moments: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u); // [image, chunk, vector]
    if (i >= p.images * p.chunks * p.vectors) { return; }
    let vector = i % p.vectors;
    let chunk = i / p.vectors; // [image, chunk]
    let start = chunk % p.chunks * p.chunk;
    let count = min(p.chunk, p.positions - start);
    let first = (chunk / p.chunks * p.positions + start) * p.vectors + vector;

    // Sums of the differences d from the first value: one pass, and no cancellation to speak of. sum d^2 exceeds the
    // sum of squared differences from the mean by count * (first value - mean)^2, which is at most count times the
    // latter, since that contains one such term.
    let pivot = decode_x(x[first]);
    var sum = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    for (var j = 1u; j < count; j++) {
        let d = decode_x(x[first + j * p.vectors]) - pivot;
        sum += d;
        squares += d * d;
    }
    let mean = sum / f32(count);
    moments[2u * chunk * p.vectors + vector] = pivot + mean;
    moments[(2u * chunk + 1u) * p.vectors + vector] = max(squares - sum * mean, vec4<f32>(0.0));
}
