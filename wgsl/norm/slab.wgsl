// norm, slab: n = (x - mean) / sqrt(variance + eps) over each group, y = f((n * gamma + beta) * (1 + scale) + shift),
// in one launch
//
// A workgroup has all positions of a few groups of one image, whose channels are whole vectors together: a slab. It
// reads x once for the sums and once more, from a cache as a rule, for the result.
//
//   x, y        [images, positions, channels]  f32 or f16
//   x_second    [images, positions, channels - 4 first_vectors]: if JOINED, x has the other channels, which come first
//   gamma       [channels]                     f32; if HAS_GAMMA (include/norm_row.wgsl)
//   beta        [channels]                     f32; if HAS_BETA
//   modulation  [images, columns]              f32 or f16; scale and shift are parts of its columns; if HAS_SCALE
// dispatch:   x = channels / (4 * VECTORS), y = images
// requires:   channels % 4 = 0; 256 invocations, 2 KiB * GROUPS of workgroup memory
// constants:  JOINED; VECTORS 1..64, of four channels, and GROUPS 1..8 in a slab, which it holds whole; GROUP_CHANNELS
//             and ROWS follow from them; ACTIVATION (include/activation.wgsl)
// error:      1e-5 relative L2 in f32, 1e-4 over groups of more than 10 000 values or with a mean above 100 deviations
// faster:     than chunked: one launch instead of three that wait for each other. Reasoned, not measured: U-Nets have
//             61 norms a step, each of a few microseconds on a GPU, about what a launch takes. For pictures of a
//             hundred thousand pixels there are too few slabs to fill a GPU
// source:     Wu and He 2018, "Group Normalization", equation 1; shifted sums: Chan, Golub and LeVeque 1983,
//             "Algorithms for Computing the Sample Variance", section 3
//!include activation
//!include norm_row
//!storage x
//!storage x_second
//!storage modulation
//!storage y

const JOINED: bool = false;
const VECTORS: u32 = 5u;
const GROUPS: u32 = 2u;
const GROUP_CHANNELS: u32 = 4u * VECTORS / GROUPS;
const ROWS: u32 = 256u / VECTORS; // positions that a workgroup reads at once

struct Params {
    positions: u32,
    vectors: u32, // of a position: channels / 4
    first_vectors: u32, // of them those in x, if JOINED
    span: u32,    // rows of the result that share a row of modulation: images here
    eps: f32,
    modulation_columns: u32, // in vectors of four, like the next two
    scale_column: u32,
    shift_column: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> beta: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> modulation: array<modulation_vec4>;
@group(0) @binding(4) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(5) var<uniform> p: Params;
@group(0) @binding(6) var<storage, read> x_second: array<x_second_vec4>;

// Of each group the 256 invocations' sums of d and of d^2.
var<workgroup> partial: array<array<vec2<f32>, 256>, GROUPS>;

// Four channels of a position, counted over all images.
fn load_channels(position: u32, vector: u32) -> vec4<f32> {
    if (!JOINED) { return load_x(position * p.vectors + vector); }
    if (vector < p.first_vectors) { return load_x(position * p.first_vectors + vector); }
    return load_x_second(position * (p.vectors - p.first_vectors) + vector - p.first_vectors);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let image = workgroup.y;
    let vector = local % VECTORS; // in the slab
    let first = workgroup.x * VECTORS; // of the slab
    let origin = image * p.positions;  // the first position
    // The invocations left over by ROWS whole positions read nothing.
    let start = select(p.positions, local / VECTORS, local / VECTORS < ROWS);

    // Sums of the differences d from the first value of the group: one pass, and no cancellation to speak of.
    var group: vec4<u32>; // of each channel of the vector, in the slab
    var pivot: vec4<f32>;
    //!unroll
    for (var i = 0u; i < 4u; i++) {
        group[i] = (4u * vector + i) / GROUP_CHANNELS;
        let channel = 4u * first + group[i] * GROUP_CHANNELS;
        pivot[i] = load_channels(origin, channel / 4u)[channel % 4u];
    }
    var sum = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    for (var position = start; position < p.positions; position += ROWS) {
        let d = load_channels(origin + position, first + vector) - pivot;
        sum += d;
        squares += d * d;
    }
    //!unroll
    for (var g = 0u; g < GROUPS; g++) {
        let mine = select(vec4<f32>(0.0), vec4<f32>(1.0), group == vec4<u32>(g));
        partial[g][local] = vec2<f32>(dot(sum, mine), dot(squares, mine));
    }
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            //!unroll
            for (var g = 0u; g < GROUPS; g++) { partial[g][local] += partial[g][local + half]; }
        }
    }
    workgroupBarrier();

    let count = f32(p.positions * GROUP_CHANNELS);
    var mean: vec4<f32>;
    var inverse_deviation: vec4<f32>;
    //!unroll
    for (var i = 0u; i < 4u; i++) {
        let sums = partial[group[i]][0];
        let shift = sums.x / count; // mean - pivot
        mean[i] = pivot[i] + shift;
        inverse_deviation[i] = 1.0 / sqrt(max(sums.y - sums.x * shift, 0.0) / count + p.eps);
    }
    let by = affine(image, first + vector);
    for (var position = start; position < p.positions; position += ROWS) {
        let n = (load_channels(origin + position, first + vector) - mean) * inverse_deviation;
        y[(origin + position) * p.vectors + first + vector] = encode_y(finished(n, by));
    }
}
