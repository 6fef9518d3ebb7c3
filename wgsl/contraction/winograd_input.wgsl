// contraction, winograd_input: v[t, SIDE a + b, i] = (B^T d B)[a, b], d the SIDE x SIDE pixels of x under output tile
// t, channel i; the first step of Winograd's F(2x2, 3x3) and F(4x4, 3x3)
//
// A 3x3 convolution computes TILE x TILE outputs from SIDE x SIDE pixels, SIDE = TILE + 2. Done directly, that takes
// 9 TILE^2 multiplications for each pair of channels: 36 or 144. In the transformed space it takes one for each
// position p = SIDE a + b, 16 or 36: m[p] = v[p] * u[p], summed over the input channels. These are SIDE^2 matrix
// products (shuffle.wgsl or 4_registers.wgsl, K split into as many parts), run after this kernel and
// winograd_weight.wgsl and before winograd_output.wgsl. A launch takes a band of whole lines of tiles, so that v and m
// stay small.
//
// The transforms evaluate polynomials at 0, 1, -1 and infinity, or at 0, s, -s, 1/s, -1/s and infinity with
// s = sqrt(1/2): the error is half of that with the usual 0, 1, -1, 2, -2.
//
//   x         [N, H, W, C_in]                 f32 or f16
//   v         [lines, tiles_w, SIDE^2, C_in]  f32; may be a texture
// dispatch:   one invocation for four channels of a tile
// requires:   a 3x3 filter, stride 1; C_in % 4 = 0
// constants:  TILE: 2 or 4; SIDE = TILE + 2
// error:      3e-6 relative L2 in f32 for the whole convolution
// faster:     2.25 times fewer multiplications than the direct form, for 4 times the traffic of x and y: pays off from
//             about 64 channels; 4 times fewer with TILE = 4, for 2.25 times the traffic. In one run
//             on lavapipe (Mesa 22.3, two cores), f32, shuffle against TILE = 2: 64x64, 320 to 320 channels: 404,
//             206 ms; 16 pictures of 16x16, 96 to 96: 29, 23 ms
// source:     Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4; the choice of
//             points: Barabasz and others 2020, "Error Analysis and Improving the Accuracy of Winograd Convolution for
//             Deep Neural Networks"
//!include flat_index
//!storage x
//!storage v

const TILE: u32 = 2u;
const SIDE: u32 = 4u; // TILE + 2

struct Params {
    H: u32,
    W: u32,
    C_in: u32,
    pad_top: u32,
    pad_left: u32,
    tiles_h: u32, // OH / TILE, rounded up
    tiles_w: u32,
    first_line: u32, // of this band, among the lines of tiles of all images
    lines: u32,      // in this band
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> v: array<v_vec4>;
@group(0) @binding(2) var<uniform> p: Params;

// SIDE vectors; the others are not used.
alias Side = array<vec4<f32>, 6>;

// B^T applied to SIDE values.
fn transform(d: Side) -> Side {
    if (TILE == 2u) { return Side(d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3], d[0], d[0]); }
    let even = d[4] - 2.0 * d[2];
    let odd = 0.7071067811865476 * (d[3] - 2.0 * d[1]);
    let even_inverse = d[4] - 0.5 * d[2];
    let odd_inverse = 1.4142135623730951 * (d[3] - 0.5 * d[1]);
    return Side(
        d[0] - 2.5 * d[2] + d[4],
        even + odd,
        even - odd,
        even_inverse + odd_inverse,
        even_inverse - odd_inverse,
        d[1] - 2.5 * d[3] + d[5],
    );
}

// Four channels of the pixel in row `row` and column `column` of image `n`; zero outside the picture.
fn pixel(n: u32, row: u32, column: u32, quad: u32) -> vec4<f32> {
    // Above and left of the picture the position has wrapped around to a huge number.
    let inside = row < p.H && column < p.W;
    let value = load_x(select(0u, ((n * p.H + row) * p.W + column) * (p.C_in / 4u) + quad, inside));
    return select(vec4<f32>(0.0), value, inside);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vectors = p.C_in / 4u;
    let index = flat_index(workgroup, workgroups, local, 64u); // [line of this band, tile_w, quad of channels]
    if (index >= p.lines * p.tiles_w * vectors) { return; }
    let quad = index % vectors;
    let tile = index / vectors;
    let line = p.first_line + tile / p.tiles_w; // [n, tile_h]
    let left = TILE * (tile % p.tiles_w) - p.pad_left;
    let top = TILE * (line % p.tiles_h) - p.pad_top;
    let n = line / p.tiles_h;

    var columns: array<Side, SIDE>; // column b of d, transformed
    //!unroll
    for (var b = 0u; b < SIDE; b++) {
        var d: Side;
        //!unroll
        for (var a = 0u; a < SIDE; a++) { d[a] = pixel(n, top + a, left + b, quad); }
        columns[b] = transform(d);
    }
    //!unroll
    for (var a = 0u; a < SIDE; a++) {
        var row: Side;
        //!unroll
        for (var b = 0u; b < SIDE; b++) { row[b] = columns[b][a]; }
        row = transform(row);
        //!unroll
        for (var b = 0u; b < SIDE; b++) { store_v((tile * SIDE * SIDE + SIDE * a + b) * vectors + quad, row[b]); }
    }
}
