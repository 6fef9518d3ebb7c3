// conv2d, winograd_output: y[n, 2 tile_h + a, 2 tile_w + b, o] = (A^T m A)[a, b] + bias[o] + time_embedding[n, o] +
// residual[n, .., o], m the 4x4 sums of output tile t = [n, tile_h, tile_w]; the last step of Winograd's F(2x2, 3x3),
// see winograd_input.wgsl
//
//   partial         [16, N, tiles_h, tiles_w, C_out]  f32, m by position 4 a + b
//   bias            [C_out]                f32, if HAS_BIAS
//   time_embedding  [N, C_out]             f32 or f16, if HAS_TIME_EMBEDDING
//   residual        [N, OH, OW, C_out]     f32 or f16, if HAS_RESIDUAL
//   y               [N, OH, OW, C_out]     f32 or f16
// dispatch:   one invocation for four channels of a tile
// requires:   C_out % 4 = 0
// constants:  HAS_BIAS, HAS_TIME_EMBEDDING, HAS_RESIDUAL
// error:      2e-6 relative L2 in f32 for the whole convolution
// faster:     see winograd_input.wgsl
// source:     Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1
//!include flat_index
//!storage time_embedding
//!storage residual
//!storage y

const HAS_BIAS: bool = true;
const HAS_TIME_EMBEDDING: bool = false;
const HAS_RESIDUAL: bool = false;

struct Params {
    N: u32,
    OH: u32,
    OW: u32,
    C_out: u32,
    tiles_h: u32, // OH / 2, rounded up
    tiles_w: u32,
}

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read> time_embedding: array<time_embedding_vec4>;
@group(0) @binding(3) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(4) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(5) var<uniform> p: Params;

// A^T applied to four values.
fn transform(m: array<vec4<f32>, 4>) -> array<vec4<f32>, 2> {
    return array<vec4<f32>, 2>(m[0] + m[1] + m[2], m[1] - m[2] - m[3]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vectors = p.C_out / 4u;
    let tiles = p.N * p.tiles_h * p.tiles_w;
    let index = flat_index(workgroup, workgroups, local, 64u); // [n, tile_h, tile_w, quad of channels]
    if (index >= tiles * vectors) { return; }
    let quad = index % vectors;
    let tile = index / vectors;
    let n = tile / (p.tiles_w * p.tiles_h);

    var columns: array<array<vec4<f32>, 2>, 4>; // column b of m, transformed
    //!unroll
    for (var b = 0u; b < 4u; b++) {
        var m: array<vec4<f32>, 4>;
        //!unroll
        for (var a = 0u; a < 4u; a++) { m[a] = partial[((4u * a + b) * tiles + tile) * vectors + quad]; }
        columns[b] = transform(m);
    }
    var addend = vec4<f32>(0.0);
    if (HAS_BIAS) { addend = vec4<f32>(bias[4u * quad], bias[4u * quad + 1u], bias[4u * quad + 2u], bias[4u * quad + 3u]); }
    if (HAS_TIME_EMBEDDING) { addend += decode_time_embedding(time_embedding[n * vectors + quad]); }
    //!unroll
    for (var a = 0u; a < 2u; a++) {
        let row = transform(array<vec4<f32>, 4>(columns[0][a], columns[1][a], columns[2][a], columns[3][a]));
        let oh = 2u * (tile / p.tiles_w % p.tiles_h) + a;
        //!unroll
        for (var b = 0u; b < 2u; b++) {
            let ow = 2u * (tile % p.tiles_w) + b;
            if (oh < p.OH && ow < p.OW) {
                let i = ((n * p.OH + oh) * p.OW + ow) * vectors + quad;
                var result = row[b] + addend;
                if (HAS_RESIDUAL) { result += decode_residual(residual[i]); }
                y[i] = encode_y(result);
            }
        }
    }
}
