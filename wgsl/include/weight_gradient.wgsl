// What every kernel of weight_gradient sums: y[part, f, tap, c] = sum_m dy[m, f] * x[pixel under the tap at m, c].
//
// m is an output position [image, od, oh, ow] of the convolution, f one of its filters, c an input channel. Pictures
// have D = KD = 1; lines also H = KH = 1; for a matrix product all rows are one line, under a single tap. A part of the
// sum takes the positions of a `length` of its own.
//
//   x   [images, D, H, W, C]            zero outside the picture
//   dy  [images, OD, OH, OW, F]
//   y   [parts, F, KD, KH, KW, C / groups]
//!storage x
//!storage dy
//!storage y

struct Params {
    images: u32,
    D: u32,
    H: u32,
    W: u32,
    C: u32,
    OD: u32,
    OH: u32,
    OW: u32,
    F: u32,
    KD: u32,
    KH: u32,
    KW: u32,
    stride_d: u32,
    stride_h: u32,
    stride_w: u32,
    pad_d: u32, // zeros before the first plane, row, column
    pad_h: u32,
    pad_w: u32,
    dilation_d: u32, // from one tap to the next
    dilation_h: u32,
    dilation_w: u32,
    groups: u32, // filters of a group see only the input channels of the group
    parts: u32,
    length: u32, // positions of a part; runs of them in shuffle
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> dy: array<dy_vec4>;
@group(0) @binding(2) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(3) var<uniform> p: Params;

const DY_VECTORS: bool = true; // F is a multiple of four

// An output position [image, od, oh, ow] from its flat index.
fn position(m: u32) -> vec4<u32> {
    return vec4<u32>(m / (p.OD * p.OH * p.OW), m / (p.OH * p.OW) % p.OD, m / p.OW % p.OH, m % p.OW);
}

// The tap [kd, kh, kw] from its flat index.
fn tap_of(tap: u32) -> vec3<u32> {
    return vec3<u32>(tap / (p.KH * p.KW), tap / p.KW % p.KH, tap % p.KW);
}

// dy of filters f to f + 3 at output position m; zero for those beyond the last.
fn upstream(m: u32, f: u32) -> vec4<f32> {
    let first = m * p.F + f;
    if (DY_VECTORS) { return select(vec4<f32>(0.0), decode_dy(dy[min(first, p.F * (m + 1u) - 4u) / 4u]), f < p.F); }
    var values = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        let at = first + i;
        if (f + i < p.F) { values[i] = decode_dy(dy[at / 4u])[at % 4u]; }
    }
    return values;
}
