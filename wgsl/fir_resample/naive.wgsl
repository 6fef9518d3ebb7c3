// fir_resample, naive: y[n, oh, ow, c] = sum over rows r and columns s of tap(r) * tap(s) * x[n, r, s, c]
//
//   x         [N, H, W, C]    f32 or f16
//   y         [N, OH, OW, C]  f32 or f16; OH = 2 H if UP, else floor(H / 2); OW likewise
// The filter is (1, 3, 3, 1) in each direction. Going down, output row o sees rows 2 o - 1 .. 2 o + 2 with taps
// (1, 3, 3, 1) / 8. Going up, zeros lie between the rows, so that two taps meet any: row 2 j sees rows j - 1 and j with
// (1, 3) / 4, row 2 j + 1 sees j and j + 1 with (3, 1) / 4. What lies outside the picture is zero.
// dispatch:   one invocation for four consecutive elements of y, which may lie in two pixels
// requires:   nothing: any C
// constants:  UP = true: twice the size; false: half of it
// error:      1e-6 relative L2 in f32
// source:     Karras et al. 2019, "Analyzing and Improving the Image Quality of StyleGAN", upfirdn2d; diffusers'
//             upsample_2d and downsample_2d with the kernel (1, 3, 3, 1)
//!include flat_index
//!storage x
//!storage y

const UP: bool = false;

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

// The first row that output row `at` sees, which may lie above the picture.
fn first(at: u32) -> i32 {
    if (UP) { return (i32(at) + 1) / 2 - 1; }
    return 2 * i32(at) - 1;
}

// The weight of the t-th row that output row `at` sees.
fn tap(at: u32, t: i32) -> f32 {
    if (UP) { return select(0.75, 0.25, i32(at % 2u) == t); }
    return select(0.125, 0.375, t == 1 || t == 2);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }

    let taps = select(4, 2, UP);
    var sum = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [n, oh, ow, c]
        if (element >= p.elements) { break; }
        let pixel = element / p.C;
        let column = pixel % p.OW;
        let row = pixel / p.OW % p.OH;
        let image = pixel / p.OW / p.OH;
        for (var r = 0; r < taps; r++) {
            let h = first(row) + r;
            if (h < 0 || h >= i32(p.H)) { continue; }
            for (var s = 0; s < taps; s++) {
                let w = first(column) + s;
                if (w < 0 || w >= i32(p.W)) { continue; }
                let from_x = ((image * p.H + u32(h)) * p.W + u32(w)) * p.C + element % p.C;
                sum[lane] += tap(row, r) * tap(column, s) * decode_x(x[from_x / 4u])[from_x % 4u];
            }
        }
    }
    y[i] = encode_y(sum);
}
