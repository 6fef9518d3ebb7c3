// scheduler_step, naive: y[r] = sum over terms of K[r, term] * term, for the new sample (r = 0) and each memory slot
//
//   state         [1 + S, N, .., C]   f32; row 0 is the sample, the others are the memory slots
//   model_output  [N, .., C or 2C]    f32; only the first C channels are read
//   x0            [N, .., C]          f32
//   noise         [N, .., C]          f32, if HAS_NOISE
//   coefficients  [6 + (1+S)(4+S)]    f32; from element 6 on the matrix K [1+S, 4+S], its columns: sample,
//                                     model_output, x0, noise, slots
//   y             [1 + S, N, .., C]   f32
// dispatch:   one invocation for four consecutive elements of y, which may lie in two rows
// requires:   nothing
// constants:  HAS_NOISE
// error:      1e-6 relative L2
// source:     every linear multistep sampler: Ho et al. 2020, eq. 7; Song et al. 2020, eq. 12; Lu et al. 2022; Zhao et
//             al. 2023
//!include flat_index

const HAS_NOISE: bool = true;

struct Params {
    sample: u32,          // elements of the sample
    slots: u32,           // S
    channels: u32,        // of the sample
    output_channels: u32, // of model_output
}

@group(0) @binding(0) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> model_output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> x0: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> noise: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> coefficients: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    let rows = 1u + p.slots;
    if (4u * i >= rows * p.sample) { return; }
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [row, pixel, c]
        if (element >= rows * p.sample) { break; }
        let k = 6u + element / p.sample * (4u + p.slots);
        let at = element % p.sample;
        let output = at / p.channels * p.output_channels + at % p.channels;
        var sum = coefficients[k] * state[at / 4u][at % 4u];
        sum += coefficients[k + 1u] * model_output[output / 4u][output % 4u];
        sum += coefficients[k + 2u] * x0[at / 4u][at % 4u];
        if (HAS_NOISE) { sum += coefficients[k + 3u] * noise[at / 4u][at % 4u]; }
        for (var slot = 0u; slot < p.slots; slot++) {
            let source = (1u + slot) * p.sample + at;
            sum += coefficients[k + 4u + slot] * state[source / 4u][source % 4u];
        }
        result[lane] = sum;
    }
    y[i] = result;
}
