// norm_sums, naive: of each channel of each image, over some of its positions: the sums of dy * n and of dy, with the
// normalised value n = (x - mean) * r
//
//   x, dy       [images, positions, channels]  f32 or f16
//   moments     [.., 4]                        f32, one row a group: mean, r (norm_moments)
//   y           [images, parts, 2, channels]   f32: part i of positions i * length .. (i + 1) * length
// dispatch:   one invocation for four consecutive elements of y, which may belong to several sums
// requires:   nothing
// constants:  ROWS: every position is a group of its own
// error:      1e-5 relative L2 in f32 for up to 1000 positions a part
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
    if (4u * i >= p.elements) { return; }
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [image, part, which, channel]
        if (element >= p.elements) { break; }
        let channel = element % p.channels;
        let normalised = element / p.channels % 2u == 0u;
        let image = element / (2u * p.channels * p.parts);
        let first = element / (2u * p.channels) % p.parts * p.length;
        let end = min(first + p.length, p.positions);
        var m = moments[image * p.groups + channel / (p.channels / p.groups)];
        var sum = 0.0;
        for (var position = first; position < end; position++) {
            let row = image * p.positions + position;
            if (ROWS) { m = moments[row]; }
            let at = row * p.channels + channel;
            let upstream = decode_dy(dy[at / 4u])[at % 4u];
            let n = (decode_x(x[at / 4u])[at % 4u] - m.x) * m.y;
            sum += select(upstream, upstream * n, normalised);
        }
        result[lane] = sum;
    }
    y[i] = result;
}
