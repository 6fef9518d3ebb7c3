// langevin_noise, naive: y = a * model_output + sqrt(2 a) * noise with a = 2 (r ‖noise‖ / ‖model_output‖)^2
//
//   noise         [N, E]  f32
//   model_output  [N, E]  f32, the score
//   coefficients  [..]    f32; r is element 4; where it is 0, y is the noise
//   norms         [N, 2]  f32, from naive_norms
//   y             [N, E]  f32
// The norms are those of single images, averaged over the batch.
// dispatch:   one invocation for four consecutive elements, each of which averages all norms
// requires:   nothing
// constants:  none
// error:      1e-5 relative L2
// source:     Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations",
//             algorithm 4; diffusers' ScoreSdeVeScheduler.step_correct
//!include flat_index

struct Params {
    elements: u32,
    N: u32,
}

@group(0) @binding(0) var<storage, read> noise: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> model_output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;
@group(0) @binding(3) var<storage, read> norms: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }
    let ratio = coefficients[4];
    if (ratio == 0.0) {
        y[i] = noise[i];
        return;
    }
    var sum = vec2<f32>(0.0); // the number of images cancels
    for (var n = 0u; n < p.N; n++) { sum += vec2<f32>(norms[2u * n], norms[2u * n + 1u]); }
    let root = ratio * sum.x / sum.y;
    y[i] = 2.0 * root * root * model_output[i] + 2.0 * root * noise[i];
}
