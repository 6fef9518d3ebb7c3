// upsample_nearest, vec4: y[n, oh, ow, c] = x[n, floor(oh * H / OH), floor(ow * W / OW), c], four channels at a time
//
//   x         [N, H, W, C]    f32 or f16
//   y         [N, OH, OW, C]  f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which lie in one pixel
// requires:   C a multiple of 4
// constants:  none
// error:      none
// faster:     than naive: one load and four index divisions for four elements where naive has four and sixteen
// source:     torch.nn.functional.interpolate, mode "nearest"
//!include flat_index
//!storage x
//!storage y

struct Params {
    vectors: u32, // of y
    H: u32,
    W: u32,
    OH: u32,
    OW: u32,
    channel_vectors: u32, // C / 4
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
    if (i >= p.vectors) { return; }
    y[i] = encode_y(decode_x(x[source(i / p.channel_vectors) * p.channel_vectors + i % p.channel_vectors]));
}
