// contraction, winograd_output: y[n, 2 tile_h + a, 2 tile_w + b, o] = (A^T m A)[a, b] and its epilogue, m the 4x4 sums
// of output tile t = [n, tile_h, tile_w]; the last step of Winograd's F(2x2, 3x3), see winograd_input.wgsl
//
//   partial  [16, N, tiles_h, tiles_w, C_out]  f32, m by position 4 a + b
// bias, summand, residual and y: include/epilogue.wgsl
// dispatch:   one invocation for four channels of a tile
// requires:   C_out % 4 = 0
// constants:  those of the epilogue: HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION
// error:      2e-6 relative L2 in f32 for the whole convolution
// faster:     see winograd_input.wgsl
// source:     Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1
//!include flat_index
//!include epilogue

struct Params {
    images: u32,
    OH: u32,
    OW: u32,
    N: u32, // output channels
    tiles_h: u32, // OH / 2, rounded up
    tiles_w: u32,
    scale: f32,
    summand_columns: u32,
    summand_first: u32,
}

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> p: Params;

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
    let vectors = p.N / 4u;
    let tiles = p.images * p.tiles_h * p.tiles_w;
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
    let addend = common_addend(n, 4u * quad);
    //!unroll
    for (var a = 0u; a < 2u; a++) {
        let row = transform(array<vec4<f32>, 4>(columns[0][a], columns[1][a], columns[2][a], columns[3][a]));
        let oh = 2u * (tile / p.tiles_w % p.tiles_h) + a;
        //!unroll
        for (var b = 0u; b < 2u; b++) {
            let ow = 2u * (tile % p.tiles_w) + b;
            if (oh < p.OH && ow < p.OW) {
                let i = ((n * p.OH + oh) * p.OW + ow) * vectors + quad;
                y[i] = encode_y(conclude(row[b] + addend, n, 4u * quad, i));
            }
        }
    }
}
