// linear, naive: y[m, n] = f(sum_k x[m, k] * weight[n, k] + bias[n]) + residual[m, n]
//
//   x         [M, K]   f32 or f16
//   weight    [N, K]   f32 or f16
//   bias      [N]      f32, if HAS_BIAS
//   residual  [M, N]   f32 or f16, if HAS_RESIDUAL
//   y         [M, N]   f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in two rows
// requires:   nothing: any M, N, K
// constants:  HAS_BIAS, HAS_RESIDUAL; ACTIVATION (include/activation.wgsl)
// error:      1e-5 relative L2 in f32 for K <= 10000
// source:     torch.nn.Linear
//!include flat_index
//!include activation
//!storage x
//!storage weight
//!storage residual
//!storage y

const HAS_BIAS: bool = true;
const HAS_RESIDUAL: bool = false;

struct Params {
    M: u32,
    N: u32,
    K: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> weight: array<weight_vec4>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(4) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    let elements = p.M * p.N;
    if (4u * i >= elements) { return; }

    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [m, n]
        if (element >= elements) { break; }
        let m = element / p.N;
        let n = element % p.N;
        var sum = 0.0;
        for (var k = 0u; k < p.K; k++) {
            let xi = m * p.K + k;
            let wi = n * p.K + k;
            sum += decode_x(x[xi / 4u])[xi % 4u] * decode_weight(weight[wi / 4u])[wi % 4u];
        }
        if (HAS_BIAS) { sum += bias[n]; }
        result[lane] = sum;
    }
    result = activate(result);
    if (HAS_RESIDUAL) { result += decode_residual(residual[i]); }
    y[i] = encode_y(result);
}
