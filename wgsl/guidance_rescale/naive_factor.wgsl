// guidance_rescale, naive_factor: factor[n] = phi * std(model_output[n]) / std(guided[n]) + 1 - phi
//
//   guided        [N, E]     f32
//   model_output  [B, N, E]  f32; only the branch that begins at element `prediction` is read
//   factor        [N]        f32
// Deviations are taken around the mean, in two passes, so that a large mean costs no digits; their divisors cancel.
// dispatch:   one workgroup for one image
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", eq. 15 and 16

struct Params {
    E: u32,          // elements of one image
    prediction: u32, // where the conditional branch begins
    phi: f32,
}

@group(0) @binding(0) var<storage, read> guided: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> model_output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> factor: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> partial: array<vec2<f32>, 256>;

// Sums over the workgroup; every invocation gets the sum.
fn total(value: vec2<f32>, local: u32) -> vec2<f32> {
    workgroupBarrier(); // the last sum has been read
    partial[local] = value;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) { partial[local] += partial[local + half]; }
    }
    workgroupBarrier();
    return partial[0];
}

// The guided element and the predicted one.
fn pair(element: u32) -> vec2<f32> {
    let other = p.prediction + element;
    return vec2<f32>(guided[element / 4u][element % 4u], model_output[other / 4u][other % 4u]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let begin = workgroup.x * p.E;
    var sum = vec2<f32>(0.0);
    for (var e = local; e < p.E; e += 256u) { sum += pair(begin + e); }
    let mean = total(sum, local) / f32(p.E);

    sum = vec2<f32>(0.0);
    for (var e = local; e < p.E; e += 256u) {
        let deviation = pair(begin + e) - mean;
        sum += deviation * deviation;
    }
    let variance = total(sum, local);
    if (local == 0u) { factor[workgroup.x] = p.phi * sqrt(variance.y / variance.x) + (1.0 - p.phi); }
}
