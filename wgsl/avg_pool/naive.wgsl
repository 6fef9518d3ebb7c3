// avg_pool, naive: y[n, oh, ow, c] = mean of x[n, 2 oh .. 2 oh + 1, 2 ow .. 2 ow + 1, c]
//
//   x         [N, H, W, C]    f32 or f16
//   y         [N, OH, OW, C]  f32 or f16, OH = floor(H / 2), OW = floor(W / 2): an odd last row or column is dropped
// dispatch:   one invocation for four consecutive elements of y, which may lie in two pixels
// requires:   nothing: any C
// constants:  none
// error:      1e-6 relative L2 in f32
// source:     torch.nn.AvgPool2d(kernel_size=2, stride=2)
//!include flat_index
//!storage x
//!storage y

struct Params {
    elements: u32, // of y
    H: u32,
    W: u32,
    OH: u32,
    OW: u32,
    C: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(2) var<uniform> p: Params;

// Index of the first of the four source pixels of output pixel `pixel`, both [n, row, column].
fn source(pixel: u32) -> u32 {
    let row = pixel / p.OW;
    return (row / p.OH * p.H + 2u * (row % p.OH)) * p.W + 2u * (pixel % p.OW);
}

fn element_of_x(xi: u32) -> f32 {
    return decode_x(x[xi / 4u])[xi % 4u];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }

    var sum = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [n, oh, ow, c]
        if (element >= p.elements) { break; }
        let upper = source(element / p.C) * p.C + element % p.C;
        let lower = upper + p.W * p.C;
        sum[lane] = element_of_x(upper) + element_of_x(upper + p.C) + element_of_x(lower) + element_of_x(lower + p.C);
    }
    y[i] = encode_y(0.25 * sum);
}
