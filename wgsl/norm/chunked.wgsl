// norm, chunked, third launch of three: y = f(x * factor + summand), four channels at a time
//
//   x, y        [images, positions, channels]  f32 or f16
//   affine      [images, 2, channels]          f32: factors, then summands, from chunked_combine
// dispatch:   one invocation for four channels of POSITIONS consecutive positions
// requires:   channels % 4 == 0
// constants:  ACTIVATION (include/activation.wgsl); POSITIONS >= 1
// error:      1e-5 relative L2 in f32, 1e-4 over groups of more than 10 000 values or with a mean above 100 deviations
// faster:     than naive: the sums run over all channels and chunks at once, in whole vectors, instead of one
//             invocation per group; x is read twice instead of three times
// source:     Wu and He 2018, "Group Normalization", equation 1
//!include flat_index
//!include activation
//!storage x
//!storage y

const POSITIONS: u32 = 8u;

struct Params {
    images: u32,
    positions: u32,
    vectors: u32, // channels / 4
    runs: u32,    // positions / POSITIONS, rounded up
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> affine: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u); // [image, run of positions, vector]
    if (i >= p.images * p.runs * p.vectors) { return; }
    let vector = i % p.vectors;
    let image = i / (p.vectors * p.runs);
    let start = i / p.vectors % p.runs * POSITIONS;
    let end = min(start + POSITIONS, p.positions);
    let factor = affine[2u * image * p.vectors + vector];
    let summand = affine[(2u * image + 1u) * p.vectors + vector];
    for (var position = start; position < end; position++) {
        let j = (image * p.positions + position) * p.vectors + vector;
        y[j] = encode_y(activate(decode_x(x[j]) * factor + summand));
    }
}
