// blend_tiles, naive: v = above[H_above - rows + h] * (1 - h / rows) + x[h] * h / rows where h < rows, else x;
// y = left[W_left - columns + w] * (1 - w / columns) + v[w] * w / columns where w < columns, else v, at every [n, c]
//
//   x         [N, H, W, C]        f32 or f16
//   above     [N, H_above, W, C]  f32 or f16, if HAS_ABOVE
//   left      [N, H, W_left, C]   f32 or f16, if HAS_LEFT
//   y         [N, H, W, C]        f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in several pixels
// requires:   rows <= min(H, H_above), columns <= min(W, W_left)
// constants:  HAS_ABOVE, HAS_LEFT
// error:      1e-6 relative L2 in f32
// source:     blend_v and blend_h of AutoencoderKL in diffusers
//!include flat_index
//!storage x
//!storage above
//!storage left
//!storage y

const HAS_ABOVE: bool = true;
const HAS_LEFT: bool = true;

struct Params {
    elements: u32,
    H: u32,
    W: u32,
    C: u32,
    H_above: u32,
    W_left: u32,
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> above: array<above_vec4>;
@group(0) @binding(2) var<storage, read> left: array<left_vec4>;
@group(0) @binding(3) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let vector = flat_index(workgroup, workgroups, local, 64u);
    if (4u * vector >= p.elements) { return; }

    var result = decode_x(x[vector]);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * vector + lane; // [n, h, w, c]
        if (element >= p.elements) { break; }
        let c = element % p.C;
        let w = element / p.C % p.W;
        let h = element / (p.C * p.W) % p.H;
        let n = element / (p.C * p.W * p.H);
        if (HAS_ABOVE && h < p.rows) {
            let i = ((n * p.H_above + p.H_above - p.rows + h) * p.W + w) * p.C + c;
            let share = f32(h) / f32(p.rows);
            result[lane] = decode_above(above[i / 4u])[i % 4u] * (1.0 - share) + result[lane] * share;
        }
        if (HAS_LEFT && w < p.columns) {
            let i = ((n * p.H + h) * p.W_left + p.W_left - p.columns + w) * p.C + c;
            let share = f32(w) / f32(p.columns);
            result[lane] = decode_left(left[i / 4u])[i % 4u] * (1.0 - share) + result[lane] * share;
        }
    }
    y[vector] = encode_y(result);
}
