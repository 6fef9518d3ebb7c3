// conv2d, reduce: y[pixel, o] = sum_s partial[s, pixel, o] + bias[o] + time_embedding[n, o] + residual[pixel, o]
// Adds the partial sums of a convolution whose taps and input channels were split, and takes C_out out of its padding.
//
//   partial         [splits, N * OH * OW, C_padded]  f32
//   bias            [C_out]                          f32, if HAS_BIAS
//   time_embedding  [N, C_out]                       f32 or f16, if HAS_TIME_EMBEDDING
//   residual        [N * OH * OW, C_out]             f32 or f16, if HAS_RESIDUAL
//   y               [N * OH * OW, C_out]             f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in several pixels
// requires:   nothing: any C_out <= C_padded
// constants:  HAS_BIAS, HAS_TIME_EMBEDDING, HAS_RESIDUAL
// error:      1e-6 relative L2 in f32
// faster:     a long sum of few outputs is shared by many workgroups; this pass reads what they computed once
// source:     split-K matrix multiplication
//!include flat_index
//!storage time_embedding
//!storage residual
//!storage y

const HAS_BIAS: bool = true;
const HAS_TIME_EMBEDDING: bool = false;
const HAS_RESIDUAL: bool = false;

struct Params {
    splits: u32,
    pixels: u32,           // N * OH * OW
    pixels_per_image: u32, // OH * OW
    C_out: u32,
    C_padded: u32,
}

@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read> time_embedding: array<time_embedding_vec4>;
@group(0) @binding(3) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(4) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vector = flat_index(workgroup, workgroups, local, 64u);
    let elements = p.pixels * p.C_out;
    if (4u * vector >= elements) { return; }

    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < min(4u, elements - 4u * vector); lane++) {
        let pixel = (4u * vector + lane) / p.C_out;
        let o = (4u * vector + lane) % p.C_out;
        var sum = 0.0;
        for (var s = 0u; s < p.splits; s++) { sum += partial[(s * p.pixels + pixel) * p.C_padded + o]; }
        if (HAS_BIAS) { sum += bias[o]; }
        if (HAS_TIME_EMBEDDING) {
            let i = pixel / p.pixels_per_image * p.C_out + o;
            sum += decode_time_embedding(time_embedding[i / 4u])[i % 4u];
        }
        result[lane] = sum;
    }
    if (HAS_RESIDUAL) { result += decode_residual(residual[vector]); }
    y[vector] = encode_y(result);
}
