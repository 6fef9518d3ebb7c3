// contraction, 1_naive: sums[m, n] = sum over taps kd, kh, kw and channels c of x[image, d, h, w, c] * weight[n, kd,
// kh, kw, c]
//
// One invocation, one sum: the formula of convolution and matrix product as in include/gather.wgsl, which declares x,
// weight and the parameters. The epilogue is left to conclude.wgsl.
//
//   sums  [M, N]  f32; M = images * OD * OH * OW
// dispatch:   x = N / 8, y = M / 8: one invocation for one sum
// requires:   nothing: any sizes, strides, paddings, dilations, groups
// constants:  none
// error:      1e-5 relative L2 in f32 for K = KD * KH * KW * C / groups <= 23040
// source:     torch.nn.Linear, torch.nn.Conv1d to Conv3d (cross-correlations: the window is not flipped)
//!include gather

@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let n = 8u * workgroup.x + local.x;
    let m = 8u * (workgroup.y + p.first_workgroup_y) + local.y;
    let at = position(m);
    if (at.x >= p.images || n >= p.N) { return; }
    let first = corner(at);
    let channels = p.C / p.groups;
    let first_channel = n / (p.N / p.groups) * channels; // of this output channel's group

    var sum = 0.0;
    for (var kd = 0u; kd < p.KD; kd++) {
        let d = first.x + kd * p.dilation_d;
        if (d >= p.D) { continue; }
        for (var kh = 0u; kh < p.KH; kh++) {
            let h = first.y + kh * p.dilation_h;
            if (h >= p.H) { continue; }
            for (var kw = 0u; kw < p.KW; kw++) {
                let w = first.z + kw * p.dilation_w;
                if (w >= p.W) { continue; }
                let pixel = (((at.x * p.D + d) * p.H + h) * p.W + w) * p.C + first_channel;
                let tap = (((n * p.KD + kd) * p.KH + kh) * p.KW + kw) * channels;
                for (var c = 0u; c < channels; c++) { sum += x_element(pixel + c) * weight_element(tap + c); }
            }
        }
    }
    sums[m * p.N + n] = sum;
}
