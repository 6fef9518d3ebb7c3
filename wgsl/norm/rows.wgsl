// norm, rows, for CPU drivers: n = (x - mean) / sqrt(variance + eps) over each row,
// y = f((n * gamma + beta) * (1 + scale) + shift)
//
//   x, y        [rows, channels]  f32 or f16
//   gamma       [channels]        f32; if HAS_GAMMA (include/norm_row.wgsl)
//   beta        [channels]        f32; if HAS_BETA
//   modulation  [rows / span, columns]  f32 or f16; scale and shift are parts of its columns; if HAS_SCALE
// dispatch:   one invocation for one row
// requires:   channels % 4 == 0
// constants:  CENTERED = false: the mean is taken as 0, for RMS norms; ACTIVATION (include/activation.wgsl)
// error:      1e-5 relative L2 in f32, 1e-4 with a mean above 100 deviations
// faster:     than workgroup on CPU drivers, where a barrier costs as much as ten loads
// source:     Ba, Kiros and Hinton 2016, "Layer Normalization", equation 3; Zhang and Sennrich 2019, "Root Mean Square
//             Layer Normalization", equation 4
//!include flat_index
//!include activation
//!include norm_row
//!storage x
//!storage modulation
//!storage y

const CENTERED: bool = true;

struct Params {
    rows: u32,
    channels: u32,
    span: u32, // rows that share a row of modulation
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

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = flat_index(workgroup, workgroups, local, 8u);
    if (row >= p.rows) { return; }
    let vectors = p.channels / 4u;
    let first = row * vectors;

    var mean = 0.0;
    if (CENTERED) {
        var sum = vec4<f32>(0.0);
        for (var i = 0u; i < vectors; i++) { sum += decode_x(x[first + i]); }
        mean = (sum.x + sum.y + sum.z + sum.w) / f32(p.channels);
    }

    var squares = vec4<f32>(0.0);
    for (var i = 0u; i < vectors; i++) {
        let difference = decode_x(x[first + i]) - mean;
        squares += difference * difference;
    }
    let variance = (squares.x + squares.y + squares.z + squares.w) / f32(p.channels);
    let inverse_deviation = 1.0 / sqrt(variance + p.eps);

    for (var i = 0u; i < vectors; i++) {
        y[first + i] = encode_y(finished((decode_x(x[first + i]) - mean) * inverse_deviation, affine(row, i)));
    }
}
