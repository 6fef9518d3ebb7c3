// layer_norm, workgroup: y = (x - mean) / sqrt(variance + eps) * gamma + beta, over each row
//
//   x, y        [rows, channels]  f32 or f16
//   gamma, beta [channels]        f32
// dispatch:   ROW_LANES invocations for one row, 64 / ROW_LANES rows for one workgroup
// requires:   channels % 4 == 0; 64 invocations, 256 bytes of workgroup memory
// constants:  ROW_LANES = 8, 16, 32 or 64
// error:      1e-5 relative L2 in f32, 1e-4 with a mean above 100 deviations
// faster:     than naive: each row's sums are computed once, by many invocations, in whole vectors
// source:     Ba, Kiros and Hinton 2016, "Layer Normalization", equation 3
//!include flat_index
//!storage x
//!storage y

const ROW_LANES: u32 = 64u;

struct Params {
    rows: u32,
    channels: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> beta: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(4) var<uniform> p: Params;

var<workgroup> partial: array<f32, 64>;

// The sum of the values of the ROW_LANES invocations of a row, for all of them.
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

    var sum = vec4<f32>(0.0);
    for (var i = lane; i < vectors; i += ROW_LANES) { sum += decode_x(x[first + i]); }
    let mean = row_sum(sum, local) / f32(p.channels);

    var squares = vec4<f32>(0.0);
    for (var i = lane; i < vectors; i += ROW_LANES) {
        let difference = decode_x(x[first + i]) - mean;
        squares += difference * difference;
    }
    let inverse_deviation = 1.0 / sqrt(row_sum(squares, local) / f32(p.channels) + p.eps);

    for (var i = lane; i < vectors; i += ROW_LANES) {
        y[first + i] = encode_y((decode_x(x[first + i]) - mean) * inverse_deviation * gamma[i] + beta[i]);
    }
}
