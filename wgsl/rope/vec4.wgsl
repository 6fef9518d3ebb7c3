// rope, vec4: each pair (u, v) of channels becomes (u cos - v sin, u sin + v cos), four channels at a time
//
//   x, y            [rows, C]            f32 or f16; C = heads of D channels
//   cosines, sines  [table_rows, pairs]  f32 or f16; row r of x uses row r % table_rows
// dispatch:   one invocation for four consecutive channels of one head
// requires:   D a multiple of 4; pairs a multiple of 2 if INTERLEAVED, else of 4
// constants:  INTERLEAVED = true: pair j of a head is its channels 2 j and 2 j + 1; false: j and j + pairs
// error:      1e-6 relative L2 in f32
// faster:     than naive: three or four loads for four elements where naive has sixteen, and the index divisions once
// source:     Su et al. 2021, "RoFormer", equation 34
//!include flat_index
//!storage x
//!storage cosines
//!storage sines
//!storage y

const INTERLEAVED: bool = true;

struct Params {
    vectors: u32, // elements / 4
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

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (i >= p.vectors) { return; }
    let own = decode_x(x[i]);
    let channel = 4u * i % p.C % p.D; // of its head
    let row = 4u * i / p.C % p.table_rows * p.pairs;
    if (channel >= 2u * p.pairs) {
        y[i] = encode_y(own);
    } else if (INTERLEAVED) {
        let at = row + channel / 2u; // even, so both pairs lie in one vector of the tables
        let cosine = decode_cosines(cosines[at / 4u]);
        let sine = decode_sines(sines[at / 4u]);
        let c = select(cosine.xy, cosine.zw, at % 4u == 2u);
        let s = select(sine.xy, sine.zw, at % 4u == 2u);
        y[i] = encode_y(vec4<f32>(
            own.x * c.x - own.y * s.x,
            own.x * s.x + own.y * c.x,
            own.z * c.y - own.w * s.y,
            own.z * s.y + own.w * c.y,
        ));
    } else {
        let at = (row + channel % p.pairs) / 4u;
        let cosine = decode_cosines(cosines[at]);
        let sine = decode_sines(sines[at]);
        let distance = p.pairs / 4u;
        if (channel < p.pairs) {
            y[i] = encode_y(own * cosine - decode_x(x[i + distance]) * sine);
        } else {
            y[i] = encode_y(decode_x(x[i - distance]) * sine + own * cosine);
        }
    }
}
