// contraction, 3_shared: y = scale * (f(x * weight + bias + summand) + residual) as 2_vec4.wgsl, with operands shared
// through workgroup memory
//
// A workgroup computes 16 rows by 64 columns of y. It walks along k in steps of 16: its invocations load the patches of
// the 16 rows and the weights of the 64 columns into workgroup memory, one vec4 each, and then use each many times. x,
// weight and the parameters: include/gather.wgsl; bias, summand, residual and y: include/epilogue.wgsl.
//
// dispatch:   x = N / 64, y = M / 16
// requires:   C % 4 = 0, N % 4 = 0; groups = 1; 256 invocations
// constants:  those of the epilogue: HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION
// error:      1e-5 relative L2 in f32 for K = KD * KH * KW * C <= 23040
// faster:     than 2_vec4: each value of x is loaded N / 64 times instead of N / 4 times, each weight M / 16 times
//             instead of M times; but each product still reads both its factors from workgroup memory. From load
//             counts; not timed on a GPU
// source:     the blocked matrix product, as in NVIDIA's "CUDA C++ Programming Guide", section 3.2.4
//!include gather
//!include epilogue

@group(0) @binding(6) var<uniform> p: Params;

var<workgroup> tile_x: array<vec4<f32>, 64>;  // [row, k / 4]
var<workgroup> tile_w: array<vec4<f32>, 256>; // [column, k / 4]

// Values k to k + 3 of the patch at output position `at`; zeros outside the picture and the window.
fn gathered(at: vec4<u32>, k: u32) -> vec4<f32> {
    let kw = k / p.C % p.KW;
    let kh = k / (p.C * p.KW) % p.KH;
    let kd = k / (p.C * p.KW * p.KH);
    let here = corner(at) + vec3<u32>(kd * p.dilation_d, kh * p.dilation_h, kw * p.dilation_w);
    let inside = here.x < p.D && here.y < p.H && here.z < p.W;
    if (at.x >= p.images || kd >= p.KD || !inside) { return vec4<f32>(0.0); }
    return load_x(((((at.x * p.D + here.x) * p.H + here.y) * p.W + here.z) * p.C + k % p.C) / 4u);
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let m0 = 16u * (workgroup.y + p.first_workgroup_y);
    let n0 = 64u * workgroup.x;
    let K = p.KD * p.KH * p.KW * p.C;
    let loaded = position(m0 + i / 4u);
    let column = n0 + i / 4u;

    var sum = vec4<f32>(0.0); // row m0 + local.y, columns n0 + 4 * local.x to + 3
    for (var k0 = 0u; k0 < K; k0 += 16u) {
        let k = k0 + 4u * (i % 4u);
        if (i < 64u) { tile_x[i] = gathered(loaded, k); }
        tile_w[i] = vec4<f32>(0.0);
        if (column < p.N && k < K) { tile_w[i] = load_weight((column * K + k) / 4u); }
        workgroupBarrier();
        for (var v = 0u; v < 4u; v++) {
            let a = tile_x[4u * local.y + v];
            let i = 16u * local.x + v;
            let w = array<vec4<f32>, 4>(tile_w[i], tile_w[i + 4u], tile_w[i + 8u], tile_w[i + 12u]);
            sum += vec4<f32>(dot(a, w[0]), dot(a, w[1]), dot(a, w[2]), dot(a, w[3]));
        }
        workgroupBarrier();
    }

    let m = m0 + local.y;
    let n = n0 + 4u * local.x;
    if (position(m).x >= p.images || n >= p.N) { return; }
    let image = m / p.rows_per_image;
    let index = (m * p.N + n) / 4u;
    y[index] = encode_y(conclude(sum + common_addend(image, n), image, n, index));
}
