// emphasis, naive: y[m, s, d] = x[m, s, d] * weights[m, s] * factor[m]
//
//   x, y     [M, S, D]  f32
//   weights  [M, S]     f32
//   factor   [M]        f32, from naive_factor
// dispatch:   one invocation for four consecutive elements, which may belong to two tokens
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     AUTOMATIC1111's web UI, emphasis "Original"
//!include flat_index

struct Params {
    elements: u32,
    E: u32, // S * D
    D: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> factor: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }
    var by = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [m, s, d]
        if (element >= p.elements) { break; }
        by[lane] = weights[element / p.D] * factor[element / p.E];
    }
    y[i] = x[i] * by;
}
