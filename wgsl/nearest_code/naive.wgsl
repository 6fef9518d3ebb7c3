// nearest_code, naive: y[i] = the k for which sum_d (x[i, d] - codes[k, d])^2 is least, the first of several
//
//   x       [rows, D]  f32 or f16
//   codes   [K, D]     f32 or f16
//   y       [rows]     u32
// Where x holds NaN, no distance is less than another, and y is 0.
// dispatch:   one invocation for one row
// requires:   nothing: any D
// constants:  none
// error:      none, but where two codes are equally near within the rounding of f32
// source:     van den Oord et al. 2017 (arXiv:1711.00937), eq. 1
//!include flat_index
//!storage x
//!storage codes

struct Params {
    rows: u32,
    D: u32,
    K: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> codes: array<codes_vec4>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<uniform> p: Params;

fn squared_distance(row: u32, code: u32) -> f32 {
    var sum = 0.0;
    for (var d = 0u; d < p.D; d++) {
        let xi = row * p.D + d;
        let ci = code * p.D + d;
        let difference = decode_x(x[xi / 4u])[xi % 4u] - decode_codes(codes[ci / 4u])[ci % 4u];
        sum += difference * difference;
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = flat_index(workgroup, workgroups, local, 64u);
    if (row >= p.rows) { return; }

    var nearest = 0u;
    var least = squared_distance(row, 0u);
    for (var code = 1u; code < p.K; code++) {
        let distance = squared_distance(row, code);
        if (distance < least) {
            nearest = code;
            least = distance;
        }
    }
    y[row] = nearest;
}
