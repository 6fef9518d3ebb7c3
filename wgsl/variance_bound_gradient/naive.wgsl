// variance_bound_gradient, naive: dv = dy * scale * dL / dv, the bound that a learned variance is trained with
//
//   variance, original, sample, prediction  [N, ..]  f32; v, x_0, x_t and what the model says beside v
//   coefficients   [N, 5]  f32; x_0 is seen as [0] * x_t + [1] * prediction, the means of q and p differ by [2] times
//                  its error; [3] above 1/2: the first timestep; [4]: scale
//   log_variances  [N, 2]  f32; log of the smallest and of the largest variance, at v = -1 and v = 1
//   dy, y          [N, ..]  f32; y is dv
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  none
// error:      1e-5 relative L2
// source:     Nichol and Dhariwal 2021, eq. 15 and 16; Ho et al. 2020, eq. 5 and 13
//!include flat_index
//!include variance_bound

struct Params {
    elements: u32, // of y
    image: u32,    // elements of one image
}

@group(0) @binding(0) var<storage, read> variance: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> original: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> sample: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> prediction: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> coefficients: array<f32>;
@group(0) @binding(5) var<storage, read> log_variances: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> p: Params;

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
        let element = 4u * i + lane;
        if (element >= p.elements) { break; }
        let n = element / p.image;
        let x = original[i][lane];
        let seen = coefficients[5u * n] * sample[i][lane] + coefficients[5u * n + 1u] * prediction[i][lane];
        let range = log_variances[n];
        let share = 0.5 * variance[i][lane] + 0.5;
        let log_variance = share * range.y + (1.0 - share) * range.x;
        var bound: Bound;
        if (coefficients[5u * n + 3u] > 0.5) {
            bound = level_bound(x, seen, log_variance);
        } else {
            bound = divergence(coefficients[5u * n + 2u] * (x - seen), range.x, log_variance);
        }
        let slope = 0.5 * (range.y - range.x); // of log_variance by v
        result[lane] = dy[i][lane] * coefficients[5u * n + 4u] * slope * bound.derivative;
    }
    y[i] = result;
}
