// model_input, naive: y[r, n, ..] = input_scale * state[0, n, ..] for each repetition r
//
//   state         [1 + S, N, ..]  f32; row 0 is the sample
//   coefficients  [..]            f32; the first is the input scale
//   y             [R * N, ..]     f32
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     scale_model_input of diffusers' schedulers; the batch of classifier-free guidance, Ho and Salimans 2022
//!include flat_index

struct Params {
    elements: u32, // of y
    sample: u32,   // elements of the sample
}

@group(0) @binding(0) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> coefficients: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        // One element at a time, because a vector may reach from one repetition into the next.
        let source = (4u * i + lane) % p.sample;
        result[lane] = coefficients[0] * state[source / 4u][source % 4u];
    }
    y[i] = result;
}
