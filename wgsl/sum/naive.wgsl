// sum, naive: y[o, part, i] = sum_r f(x[o, r, i]) over the rows r of a part; f(v) = v, or v^2 with SQUARED
//
//   x         [outer, rows, inner]   f32 or f16
//   y         [outer, parts, inner]  f32 or f16: part p of the rows p * length .. (p + 1) * length; fewer in the last
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  SQUARED; VECTORS: inner is a multiple of four, so that the elements of a vector lie in one row
// error:      1e-5 relative L2 in f32 for up to 1000 rows a part
// source:     the definition
//!include flat_index
//!storage x
//!storage y

const SQUARED: bool = false;
const VECTORS: bool = true;

struct Params {
    elements: u32, // of y
    rows: u32,
    inner: u32,
    parts: u32,
    length: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }

    var sum = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = min(4u * i + lane, p.elements - 1u); // [o, part, i]
        let part = element / p.inner % p.parts;
        let first = part * p.length;
        let end = min(first + p.length, p.rows);
        let column = element / (p.inner * p.parts) * p.rows * p.inner + element % p.inner;
        for (var row = first; row < end; row++) {
            let at = column + row * p.inner;
            let v = decode_x(x[at / 4u]);
            if (VECTORS) {
                sum += select(v, v * v, SQUARED);
            } else {
                sum[lane] += select(v[at % 4u], v[at % 4u] * v[at % 4u], SQUARED);
            }
        }
        if (VECTORS) { break; } // the first lane's row holds the others' elements too
    }
    y[i] = encode_y(sum);
}
