// rope, naive: each pair (u, v) of channels becomes (u cos - v sin, u sin + v cos); other channels are copied
//
//   x, y            [rows, C]            f32 or f16; C = heads of D channels
//   cosines, sines  [table_rows, pairs]  f32 or f16; row r of x uses row r % table_rows
// dispatch:   one invocation for four consecutive elements of y, which may lie in two heads or rows
// requires:   nothing: any C, any D that divides it, up to D / 2 pairs
// constants:  INTERLEAVED = true: pair j of a head is its channels 2 j and 2 j + 1; false: j and j + pairs
// error:      1e-6 relative L2 in f32
// source:     Su et al. 2021, "RoFormer", equation 34
//!include flat_index
//!storage x
//!storage cosines
//!storage sines
//!storage y

const INTERLEAVED: bool = true;

struct Params {
    elements: u32,
    C: u32,
    D: u32,
    pairs: u32,
    table_rows: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> cosines: array<cosines_vec4>;
@group(0) @binding(2) var<storage, read> sines: array<sines_vec4>;
@group(0) @binding(3) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(4) var<uniform> p: Params;

fn x_at(element: u32) -> f32 {
    return decode_x(x[element / 4u])[element % 4u];
}

fn turned(element: u32) -> f32 {
    let channel = element % p.C % p.D; // of its head
    if (channel >= 2u * p.pairs) { return x_at(element); }
    var pair = channel % p.pairs;
    var is_first = channel < p.pairs;
    var distance = p.pairs;
    if (INTERLEAVED) {
        pair = channel / 2u;
        is_first = channel % 2u == 0u;
        distance = 1u;
    }
    let at = element / p.C % p.table_rows * p.pairs + pair;
    let cosine = decode_cosines(cosines[at / 4u])[at % 4u];
    let sine = decode_sines(sines[at / 4u])[at % 4u];
    if (is_first) { return x_at(element) * cosine - x_at(element + distance) * sine; }
    return x_at(element - distance) * sine + x_at(element) * cosine;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [row, channel]
        if (element >= p.elements) { break; }
        result[lane] = turned(element);
    }
    if (4u * i < p.elements) { y[i] = encode_y(result); }
}
