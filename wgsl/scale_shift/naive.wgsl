// scale_shift, naive: y[n, pixel, c] = f(x[n, pixel, c] * (1 + embedding[n, c]) + embedding[n, C + c])
//
//   x, y       [N, pixels, C]  f32 or f16
//   embedding  [N, 2 C]        f32 or f16: scales, then shifts
// dispatch:   one invocation for four consecutive elements, which may lie in two images
// requires:   nothing: any C
// constants:  ACTIVATION (include/activation.wgsl)
// error:      1e-5 relative L2 in f32
// source:     Perez et al. 2018, "FiLM"; Dhariwal and Nichol 2021, section 3 (adaptive group normalisation)
//!include flat_index
//!include activation
//!storage x
//!storage embedding
//!storage y

struct Params {
    elements: u32,
    image: u32, // elements of one image: pixels * C
    C: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> embedding: array<embedding_vec4>;
@group(0) @binding(2) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }

    var scale = vec4<f32>(0.0);
    var shift = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [n, pixel, c]
        if (element >= p.elements) { break; }
        let first = element / p.image * 2u * p.C + element % p.C;
        let second = first + p.C;
        scale[lane] = decode_embedding(embedding[first / 4u])[first % 4u];
        shift[lane] = decode_embedding(embedding[second / 4u])[second % 4u];
    }
    y[i] = encode_y(activate(decode_x(x[i]) * (1.0 + scale) + shift));
}
