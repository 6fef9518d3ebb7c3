// fourier_embedding, naive: y[n, j] = sin(2 pi u) or cos(2 pi u) with u = f(timestep[n]) * weight[j mod half], f = log
// if LOG
//
//   timestep  [N]        f32; positive if LOG
//   weight    [half]     f32
//   y         [N, dim]   f32; half = dim / 2 sines, then as many cosines (COSINE_FIRST: the other way round)
// dispatch:   one invocation for four consecutive elements of y, which may lie in two rows
// requires:   nothing
// constants:  LOG, COSINE_FIRST
// error:      2 pi times the rounding of u: 1e-4 absolute for u = 300 turns, where torch's result is just as uncertain
// source:     Song et al. 2021, "Score-Based Generative Modeling through SDEs", appendix C.2; Tancik et al. 2020
//!include flat_index
//!include sine
//!include logarithm
//!storage y

const LOG: bool = true;
const COSINE_FIRST: bool = false;

struct Params {
    elements: u32, // of y
    dim: u32,
}

@group(0) @binding(0) var<storage, read> timestep: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
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
    var level = vec4<f32>(1.0);
    var turns = vec4<f32>(0.0);
    var quarters = vec4<u32>(0u); // 1 for a cosine
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [n, j]
        if (element >= p.elements) { break; }
        let j = element % p.dim;
        level[lane] = timestep[element / p.dim];
        turns[lane] = weight[j % half];
        quarters[lane] = select(0u, 1u, (j < half) == COSINE_FIRST);
    }
    if (LOG) { level = logarithm(level); }
    y[i] = encode_y(sin_turns(level * turns, quarters));
}
