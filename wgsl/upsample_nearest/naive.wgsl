// upsample_nearest, naive: y[n, oh, ow, c] = x[n, floor(oh * H / OH), floor(ow * W / OW), c]
//
//   x         [N, H, W, C]    f32 or f16
//   y         [N, OH, OW, C]  f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in two pixels
// requires:   nothing: any C
// constants:  none
// error:      none
// source:     torch.nn.functional.interpolate, mode "nearest"
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
    // Rounded to f32: torch multiplies by these, and where i * H / OH is nearly whole the rounding decides.
    scale_h: f32, // H / OH
    scale_w: f32, // W / OW
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(2) var<uniform> p: Params;

// Index of the source pixel of output pixel `pixel`, both [n, row, column].
fn source(pixel: u32) -> u32 {
    let row = pixel / p.OW;
    let h = min(u32(f32(row % p.OH) * p.scale_h), p.H - 1u);
    let w = min(u32(f32(pixel % p.OW) * p.scale_w), p.W - 1u);
    return (row / p.OH * p.H + h) * p.W + w;
}

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
        let element = 4u * i + lane; // [n, oh, ow, c]
        if (element >= p.elements) { break; }
        let xi = source(element / p.C) * p.C + element % p.C;
        result[lane] = decode_x(x[xi / 4u])[xi % 4u];
    }
    y[i] = encode_y(result);
}
