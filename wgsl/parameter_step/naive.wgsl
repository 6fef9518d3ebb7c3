// parameter_step, naive: y = (1 - decay) * parameter - rate * u, with u = first, or, with a second moment,
// u = first * correction_1 / (sqrt(second * correction_2) + eps)
//
//   y              flat elements, f32: the parameter before, its next value after; changed in place
//   first, second  as y; second if HAS_SECOND
//   coefficients  [16 or more]   f32: rate, decay, correction_1, correction_2, eps from AT on; the first three are
//                                explained in include/gradient_factor.wgsl
//   norm          [1]            f32
// dispatch:   one invocation for four consecutive elements
// requires:   nothing
// constants:  HAS_NORM (always true here), HAS_SECOND, AT; without a step, y stays
// error:      1e-6 relative L2
// source:     Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2
//!include flat_index
//!include gradient_factor

const HAS_SECOND: bool = true;
const AT: u32 = 6u;

struct Params {
    vectors: u32, // elements / 4, rounded up
}

@group(0) @binding(0) var<storage, read> first: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> second: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> coefficients: array<f32>;
@group(0) @binding(3) var<storage, read> norm: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (i >= p.vectors) { return; }
    if (!is_step()) { return; }
    var u = first[i];
    if (HAS_SECOND) {
        let deviation = sqrt(second[i] * coefficients[AT + 3u]) + coefficients[AT + 4u];
        u = u * coefficients[AT + 2u] / deviation;
    }
    y[i] = (1.0 - coefficients[AT + 1u]) * y[i] - coefficients[AT] * u;
}
