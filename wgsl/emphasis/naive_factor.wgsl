// emphasis, naive_factor: factor[m] = mean(x[m]) / mean(weights[m] * x[m])
//
//   x        [M, S, D]  f32
//   weights  [M, S]     f32
//   factor   [M]        f32
// dispatch:   one workgroup for one window m
// requires:   nothing
// constants:  none
// error:      1e-6 relative to mean(|x|) / |mean(x)|
// source:     AUTOMATIC1111's web UI, emphasis "Original"

struct Params {
    E: u32, // S * D
    D: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> factor: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> partial: array<vec2<f32>, 256>; // sums of x and of weight * x

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let begin = workgroup.x * p.E;
    var sum = vec2<f32>(0.0);
    for (var e = local; e < p.E; e += 256u) {
        let element = begin + e;
        sum += x[element / 4u][element % 4u] * vec2<f32>(1.0, weights[element / p.D]);
    }
    partial[local] = sum;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) { partial[local] += partial[local + half]; }
    }
    if (local == 0u) { factor[workgroup.x] = partial[0].x / partial[0].y; }
}
