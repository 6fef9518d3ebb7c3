// nearest_code, parts: best[part, i] = the least sum_d (x[i, d] - codes[k, d])^2 over the codes k of a part, and that
// k, the first of several
//
//   x       [rows, D]         f32 or f16
//   codes   [K, D]            f32 or f16; part p has the codes p * length .. (p + 1) * length, fewer in the last
//   best    [parts, rows, 2]  f32: distance, code; combine.wgsl chooses among the parts
// Where x holds NaN, no distance is less than another, and the first code stays.
// dispatch:   one invocation for one row and part
// requires:   K < 2^24, so that f32 holds each code
// constants:  none
// error:      none, but where two codes are equally near within the rounding of f32
// faster:     than naive with few rows, for which it has too few invocations; and CPU drivers, which end loops after
//             65 535 rounds, run any codebook so. Reasoned, not measured
// source:     van den Oord et al. 2017 (arXiv:1711.00937), eq. 1
//!include flat_index
//!include squared_distance

@group(0) @binding(2) var<storage, read_write> best: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u); // [part, row]
    if (i >= p.parts * p.rows) { return; }
    let row = i % p.rows;
    let first = i / p.rows * p.length;

    var nearest = first;
    var least = squared_distance(row, first);
    for (var code = first + 1u; code < min(first + p.length, p.K); code++) {
        let distance = squared_distance(row, code);
        if (distance < least) {
            nearest = code;
            least = distance;
        }
    }
    best[i] = vec2<f32>(least, f32(nearest));
}
