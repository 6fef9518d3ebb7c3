// masked_latents, naive: y[0] = mask * state[0] + (1 - mask) * (a * original + b * noise), y[r] = state[r] for the
// memory slots r > 0
//
//   state, y         [1 + S, N, H, W, C]  f32
//   original, noise  [N, H, W, C]         f32
//   mask             [H, W]               f32
//   level            [2]                  f32; a, b
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  none
// error:      1e-6 relative L2
// source:     Lugmayr et al. 2022, "RePaint", eq. 8
//!include flat_index

struct Params {
    elements: u32, // of y
    sample: u32,   // elements of one row of the state
    pixels: u32,   // H * W
    C: u32,
}

@group(0) @binding(0) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> original: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> noise: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> mask: array<f32>;
@group(0) @binding(4) var<storage, read> level: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }
    var result = state[i];
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane;
        if (element >= p.sample) { break; }
        let m = mask[element / p.C % p.pixels];
        result[lane] = m * result[lane] + (1.0 - m) * (level[0] * original[i][lane] + level[1] * noise[i][lane]);
    }
    y[i] = result;
}
