// linear, reduce: y[m, n] = f(sum_s partial[s, m, n] + bias[n]) + residual[m, n]
// Adds the partial sums of a product whose K was split, and takes N out of its padding.
//
//   partial   [splits, M, N_padded]  f32
//   bias      [N]                    f32, if HAS_BIAS
//   residual  [M, N]                 f32 or f16, if HAS_RESIDUAL
//   y         [M, N]                 f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in several rows
// requires:   nothing: any N <= N_padded
// constants:  HAS_BIAS, HAS_RESIDUAL; ACTIVATION (include/activation.wgsl)
// error:      1e-6 relative L2 in f32
// faster:     a long sum of few outputs is shared by many workgroups; this pass reads what they computed once
// source:     split-K matrix multiplication
//!include flat_index
//!include activation
//!storage residual
//!storage y

const HAS_BIAS: bool = true;
const HAS_RESIDUAL: bool = false;

struct Params {
    splits: u32,
    M: u32,
    N: u32,
    N_padded: u32,
}

@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(3) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vector = flat_index(workgroup, workgroups, local, 64u);
    let elements = p.M * p.N;
    if (4u * vector >= elements) { return; }

    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < min(4u, elements - 4u * vector); lane++) {
        let m = (4u * vector + lane) / p.N;
        let n = (4u * vector + lane) % p.N;
        var sum = 0.0;
        for (var s = 0u; s < p.splits; s++) { sum += partial[(s * p.M + m) * p.N_padded + n]; }
        if (HAS_BIAS) { sum += bias[n]; }
        result[lane] = sum;
    }
    result = activate(result);
    if (HAS_RESIDUAL) { result += decode_residual(residual[vector]); }
    y[vector] = encode_y(result);
}
