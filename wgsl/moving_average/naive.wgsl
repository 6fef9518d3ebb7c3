// moving_average, naive: y = keep * state + take * v, with v = factor * value + decay * parameter, or its square
//
//   y                    flat elements, f32: the state before, its next value after; changed in place
//   parameter            as y; if HAS_DECAY
//   value                as y; f32
//   coefficients         [16 or more]  f32: keep, take and decay are at KEEP, TAKE and DECAY; the first three are
//                        explained in include/gradient_factor.wgsl
//   norm                 [1]  f32; if HAS_NORM; else factor is 1 and there is always a step
// dispatch:   one invocation for four consecutive elements
// requires:   nothing
// constants:  HAS_NORM, HAS_DECAY, SQUARED, KEEP, TAKE, DECAY; without a step, y stays
// error:      1e-6 relative L2
// source:     Kingma and Ba 2015, "Adam", algorithm 1: both moments; Polyak and Juditsky 1992: averaged parameters
//!include flat_index
//!include gradient_factor

const HAS_DECAY: bool = false;
const SQUARED: bool = false;
const KEEP: u32 = 3u;
const TAKE: u32 = 4u;
const DECAY: u32 = 5u;

struct Params {
    vectors: u32, // elements / 4, rounded up
}

@group(0) @binding(0) var<storage, read> value: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> coefficients: array<f32>;
@group(0) @binding(2) var<storage, read> norm: array<f32>;
@group(0) @binding(3) var<storage, read> parameter: array<vec4<f32>>;
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
    if (HAS_NORM && !is_step()) { return; }
    var v = gradient_factor() * value[i];
    if (HAS_DECAY) { v += coefficients[DECAY] * parameter[i]; }
    y[i] = coefficients[KEEP] * y[i] + coefficients[TAKE] * select(v, v * v, SQUARED);
}
