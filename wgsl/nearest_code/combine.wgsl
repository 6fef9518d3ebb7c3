// nearest_code, combine: y[i] = the code of the part p whose distance best[p, i] is least, the first of several
//
//   best    [parts, rows, 2]  f32: distance, code (parts.wgsl)
//   y       [rows]            u32
// dispatch:   one invocation for one row
// requires:   nothing
// constants:  none
// error:      none
// faster:     the second launch of parts
// source:     van den Oord et al. 2017 (arXiv:1711.00937), eq. 1
//!include flat_index

struct Params {
    rows: u32,
    parts: u32,
}

@group(0) @binding(0) var<storage, read> best: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = flat_index(workgroup, workgroups, local, 64u);
    if (row >= p.rows) { return; }
    var least = best[row];
    for (var part = 1u; part < p.parts; part++) {
        let other = best[part * p.rows + row];
        if (other.x < least.x) { least = other; }
    }
    y[row] = u32(least.y);
}
