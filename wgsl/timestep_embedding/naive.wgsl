// timestep_embedding, naive: y[n, j] = sin(a) or cos(a) with the angle a = scale * (timestep[n] * frequencies[j mod
// half])
//
//   timestep     [N]       f32, need not be whole
//   frequencies  [half]    f32, max_period^(-j / (half - freq_shift)), a table from the host: exp() is too inaccurate
//                          for angles of 1000 rad
//   y            [N, dim]  f32; half = dim / 2 sines, then as many cosines (COSINE_FIRST: the other way round), then a
//                          zero if dim is odd
// dispatch:   one invocation for four consecutive elements of y, which may lie in two rows
// requires:   angles below 2047 rad
// constants:  COSINE_FIRST
// error:      1e-6 absolute
// source:     Vaswani et al. 2017, section 3.5; Ho, Jain and Abbeel 2020, appendix B
//!include flat_index
//!include sine
//!storage y

const COSINE_FIRST: bool = false;

struct Params {
    elements: u32, // of y
    dim: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> timestep: array<f32>;
@group(0) @binding(1) var<storage, read> frequencies: array<f32>;
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

    let half = p.dim / 2u;
    var angle = vec4<f32>(0.0);
    var quarters = vec4<u32>(0u); // 1 for a cosine; the padding is sin(0)
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [n, j]
        let j = element % p.dim;
        if (element >= p.elements || j >= 2u * half) { continue; }
        angle[lane] = p.scale * (timestep[element / p.dim] * frequencies[j % half]);
        quarters[lane] = select(0u, 1u, (j < half) == COSINE_FIRST);
    }
    y[i] = encode_y(sin_radians(angle, quarters));
}
