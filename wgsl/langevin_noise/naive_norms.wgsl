// langevin_noise, naive_norms: norms[n] = ‖noise[n]‖, ‖model_output[n]‖
//
//   noise         [N, E]  f32
//   model_output  [N, E]  f32
//   norms         [N, 2]  f32
// dispatch:   one workgroup for one image
// requires:   nothing
// constants:  none
// error:      1e-6 relative
// source:     Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations",
//             algorithm 4; diffusers' ScoreSdeVeScheduler.step_correct

struct Params {
    E: u32, // elements of one image
}

@group(0) @binding(0) var<storage, read> noise: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> model_output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> norms: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> partial: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let begin = workgroup.x * p.E;
    var sum = vec2<f32>(0.0);
    for (var e = begin + local; e < begin + p.E; e += 256u) {
        let pair = vec2<f32>(noise[e / 4u][e % 4u], model_output[e / 4u][e % 4u]);
        sum += pair * pair;
    }
    partial[local] = sum;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) { partial[local] += partial[local + half]; }
    }
    if (local == 0u) {
        norms[2u * workgroup.x] = sqrt(partial[0].x);
        norms[2u * workgroup.x + 1u] = sqrt(partial[0].y);
    }
}
