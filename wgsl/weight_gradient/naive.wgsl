// weight_gradient, naive: y[part, f, tap, c] = sum_m dy[m, f] * x[pixel under the tap at m, c], over the part's m
//
// x, dy, y and the parameters: include/weight_gradient.wgsl.
//
// dispatch:   one invocation for four consecutive elements of y, which may belong to several taps, filters or parts
// requires:   nothing
// constants:  none: DY_VECTORS is for the others
// error:      1e-5 relative L2 in f32 for parts of up to 4096 positions
// source:     Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", chapter 4;
//             torch.nn.grad.conv2d_weight
//!include flat_index
//!include weight_gradient

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    let per_group = p.C / p.groups;
    let taps = p.KD * p.KH * p.KW;
    let elements = p.parts * p.F * taps * per_group;
    if (4u * i >= elements) { return; }
    let positions = p.images * p.OD * p.OH * p.OW;
    var sums = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = min(4u * i + lane, elements - 1u); // [part, f, tap, c]
        let tap = tap_of(element / per_group % taps);
        let f = element / (per_group * taps) % p.F;
        let c = f / (p.F / p.groups) * per_group + element % per_group;
        let first = element / (per_group * taps * p.F) * p.length;
        var sum = 0.0;
        for (var m = first; m < min(first + p.length, positions); m++) {
            let at = position(m);
            // Before the first pixel these wrap around to huge numbers.
            let d = at.y * p.stride_d + tap.x * p.dilation_d - p.pad_d;
            let h = at.z * p.stride_h + tap.y * p.dilation_h - p.pad_h;
            let w = at.w * p.stride_w + tap.z * p.dilation_w - p.pad_w;
            if (d < p.D && h < p.H && w < p.W) {
                let pixel = ((at.x * p.D + d) * p.H + h) * p.W + w;
                let of_x = pixel * p.C + c;
                let of_dy = m * p.F + f;
                sum += decode_x(x[of_x / 4u])[of_x % 4u] * decode_dy(dy[of_dy / 4u])[of_dy % 4u];
            }
        }
        sums[lane] = sum;
    }
    y[i] = encode_y(sums);
}
