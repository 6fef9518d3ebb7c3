// contraction, winograd_output: y[n, TILE tile_h + a, TILE tile_w + b, o] = (A^T m A)[a, b] and its epilogue, m the
// SIDE x SIDE sums of output tile t, channel o; the last step of Winograd's form, see winograd_input.wgsl
//
//   partial  [SIDE^2, lines, tiles_w, C_out]  f32, m by position SIDE a + b
// bias, summand, residual and y: include/epilogue.wgsl
// dispatch:   one invocation for four channels of a tile
// requires:   C_out % 4 = 0
// constants:  TILE: 2 or 4; SIDE = TILE + 2; those of the epilogue: HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION
// error:      3e-6 relative L2 in f32 for the whole convolution
// faster:     see winograd_input.wgsl
// source:     as winograd_input.wgsl
//!include flat_index
//!include epilogue

const TILE: u32 = 2u;
const SIDE: u32 = 4u; // TILE + 2

struct Params {
    OH: u32,
    OW: u32,
    N: u32, // output channels
    tiles_h: u32, // OH / TILE, rounded up
    tiles_w: u32,
    first_line: u32, // of this band, among the lines of tiles of all images
    lines: u32,      // in this band
    scale: f32,
    summand_columns: u32,
    summand_first: u32,
}

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> p: Params;

// SIDE vectors, of results TILE; the others are not used.
alias Side = array<vec4<f32>, 6>;

// A^T applied to SIDE values.
fn transform(m: Side) -> Side {
    let sum = m[1] + m[2];
    let difference = m[1] - m[2];
    if (TILE == 2u) { return Side(m[0] + sum, difference - m[3], m[0], m[0], m[0], m[0]); }
    let sum_inverse = m[3] + m[4];
    let difference_inverse = m[3] - m[4];
    return Side(
        m[0] + sum + sum_inverse,
        0.7071067811865476 * difference + 1.4142135623730951 * difference_inverse,
        0.5 * sum + 2.0 * sum_inverse,
        0.3535533905932738 * difference + 2.8284271247461903 * difference_inverse + m[5],
        m[0],
        m[0],
    );
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vectors = p.N / 4u;
    let tiles = p.lines * p.tiles_w;
    let index = flat_index(workgroup, workgroups, local, 64u); // [line of this band, tile_w, quad of channels]
    if (index >= tiles * vectors) { return; }
    let quad = index % vectors;
    let tile = index / vectors;
    let line = p.first_line + tile / p.tiles_w; // [n, tile_h]
    let n = line / p.tiles_h;

    var columns: array<Side, SIDE>; // column b of m, transformed
    //!unroll
    for (var b = 0u; b < SIDE; b++) {
        var m: Side;
        //!unroll
        for (var a = 0u; a < SIDE; a++) { m[a] = partial[((SIDE * a + b) * tiles + tile) * vectors + quad]; }
        columns[b] = transform(m);
    }
    let addend = common_addend(n, 4u * quad);
    //!unroll
    for (var a = 0u; a < TILE; a++) {
        var row: Side;
        //!unroll
        for (var b = 0u; b < SIDE; b++) { row[b] = columns[b][a]; }
        row = transform(row);
        let oh = TILE * (line % p.tiles_h) + a;
        //!unroll
        for (var b = 0u; b < TILE; b++) {
            let ow = TILE * (tile % p.tiles_w) + b;
            if (oh < p.OH && ow < p.OW) {
                let i = ((n * p.OH + oh) * p.OW + ow) * vectors + quad;
                y[i] = encode_y(conclude(row[b] + addend, n, 4u * quad, i));
            }
        }
    }
}
