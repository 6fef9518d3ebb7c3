// What every kernel of the contraction sums: y[m, n] = sum_k patch[m, k] * weight[n, k].
//
// Row m of y is an output position [image, od, oh, ow], column n an output channel, and k = [kd, kh, kw, c] a tap of
// the window and an input channel under it. Row m of the patches is what lies under the window there; it is never
// stored, but gathered from x. Pictures have D = KD = 1; lines of samples or tokens also have H = KH = 1; a plain
// matrix product is a window of one tap over a single line of M positions.
//
//   x       [images, D, H, W, C]            zero outside the picture
//   weight  [N, KD, KH, KW, C / groups]
//!storage x
//!storage weight

struct Params {
    images: u32,
    D: u32,
    H: u32,
    W: u32,
    C: u32, // input channels of x in memory
    C_first: u32, // those of the first of two tensors that stand for x, see next_tile.wgsl
    OD: u32,
    OH: u32,
    OW: u32,
    N: u32, // output channels
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
    groups: u32, // output channels of group g see only the input channels of group g
    rows_per_image: u32, // rows of y that share a row of a per-image summand
    scale: f32, // see epilogue.wgsl
    summand_columns: u32,
    summand_first: u32,
    N_padded: u32, // columns of y in memory
    K_per_split: u32, // values of k that workgroup z sums, where the sum is split
    whole_rows: u32, // rows of y before those whose sums are split, where some are
    first_workgroup_y: u32, // of this launch: long launches are split along y
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> weight: array<weight_vec4>;

// An output position [image, od, oh, ow] from its flat index.
fn position(m: u32) -> vec4<u32> {
    return vec4<u32>(m / (p.OD * p.OH * p.OW), m / (p.OH * p.OW) % p.OD, m / p.OW % p.OH, m % p.OW);
}

// Where the first tap of the window lies in the picture. Positions before the first pixel wrap around to huge numbers,
// so one comparison checks both edges.
fn corner(at: vec4<u32>) -> vec3<u32> {
    return vec3<u32>(at.y * p.stride_d - p.pad_d, at.z * p.stride_h - p.pad_h, at.w * p.stride_w - p.pad_w);
}
