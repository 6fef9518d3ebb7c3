// norm, workgroup: n = (x - mean) / sqrt(variance + eps) over each row, y = f((n * gamma + beta) * (1 + scale) + shift)
//
//   x, y        [rows, channels]  f32 or f16
//   gamma       [channels]        f32; if HAS_GAMMA (include/norm_row.wgsl)
//   beta        [channels]        f32; if HAS_BETA
//   modulation  [rows / span, columns]  f32 or f16; scale and shift are parts of its columns; if HAS_SCALE
// dispatch:   ROW_LANES invocations for one row, 64 / ROW_LANES rows for one workgroup
// requires:   channels % 4 == 0; 64 invocations, 256 bytes of workgroup memory
// constants:  ROW_LANES = 8, 16, 32 or 64; CENTERED = false: the mean is taken as 0, for RMS norms; ACTIVATION
//             (include/activation.wgsl)
// error:      1e-5 relative L2 in f32, 1e-4 with a mean above 100 deviations
// faster:     than naive: each row's sums are computed once, by many invocations, in whole vectors
// source:     Ba, Kiros and Hinton 2016, "Layer Normalization", equation 3; Zhang and Sennrich 2019, "Root Mean Square
//             Layer Normalization", equation 4
//!include flat_index
//!include activation
//!include norm_row
//!storage x
//!storage modulation
//!storage y

const ROW_LANES: u32 = 64u;
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

var<workgroup> partial: array<f32, 64>;

// The sum over the ROW_LANES invocations of a row, returned to all of them.
fn row_sum(value: vec4<f32>, local: u32) -> f32 {
    workgroupBarrier(); // the last sum has been read
    partial[local] = value.x + value.y + value.z + value.w;
    for (var half = ROW_LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local % ROW_LANES < half) { partial[local] += partial[local + half]; }
    }
    workgroupBarrier();
    return partial[local / ROW_LANES * ROW_LANES];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let lane = local % ROW_LANES;
    let row = flat_index(workgroup, workgroups, local, 64u) / ROW_LANES;
    let inside = row < p.rows;
    let vectors = select(0u, p.channels / 4u, inside); // rows past the end take part in the barriers only
    let first = row * vectors;

    var mean = 0.0;
    if (CENTERED) {
        var sum = vec4<f32>(0.0);
        for (var i = lane; i < vectors; i += ROW_LANES) { sum += decode_x(x[first + i]); }
        mean = row_sum(sum, local) / f32(p.channels);
    }

    var squares = vec4<f32>(0.0);
    for (var i = lane; i < vectors; i += ROW_LANES) {
        let difference = decode_x(x[first + i]) - mean;
        squares += difference * difference;
    }
    let inverse_deviation = 1.0 / sqrt(row_sum(squares, local) / f32(p.channels) + p.eps);

    for (var i = lane; i < vectors; i += ROW_LANES) {
        y[first + i] = encode_y(finished((decode_x(x[first + i]) - mean) * inverse_deviation, affine(row, i)));
    }
}
