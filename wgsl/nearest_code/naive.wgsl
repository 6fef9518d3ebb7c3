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
//!include squared_distance

@group(0) @binding(2) var<storage, read_write> y: array<u32>;

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
