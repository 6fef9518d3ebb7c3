// weight_gradient, shuffle: y[part, f, tap, c] = sum_m dy[m, f] * x[pixel under the tap at m, c], over the part's m,
// for CPU drivers: no workgroup memory, no barriers
//
// A workgroup is one subgroup. Each lane owns four input channels under COLUMNS taps side by side, and all lanes own
// the same 4 * QUADS filters. Four output positions of a line, a run, are taken at a time: each lane loads its channels
// of the pixels under them, which neighbouring taps share, and four of the filters' dy, shared by subgroupShuffle. For
// a product of matrices there is one tap, and COLUMNS times as many channels. x, dy, y and the parameters:
// include/weight_gradient.wgsl; a part has `length` runs.
//
// dispatch:   x = C / (4 * LANES), y = F / (4 * QUADS) * KD * KH * (KW / COLUMNS), z = parts; for a product
//             x = C / (4 * LANES * COLUMNS), y = F / (4 * QUADS); a run never leaves its line
// requires:   subgroups of exactly LANES invocations; C % 4 = 0; groups = 1; QUADS <= LANES
// constants:  LANES 4..64; QUADS 1..8; COLUMNS 1..3; WINDOWS: false for a product of matrices; SLIDE only with WINDOWS
//             and stride_w = dilation_w = 1; STEP, PIXELS; DY_VECTORS: F % 4 = 0
// error:      1e-5 relative L2 in f32 for parts of up to 4096 runs
// faster:     than registers on lavapipe, which executes a load lane by lane and makes a coroutine of a kernel with a
//             barrier. Under three taps ten loads serve 1536 multiply-adds of a lane. 16 pictures of 32 x 32, 3 x 3, 64
//             to 32 channels: 15 to 22 ms, without loads 14, registers 350 ms (Mesa 22.3, two cores); as a convolution
//             of x and dy, both transposed and padded, 40 ms
// source:     the outer-product form of matrix multiplication; broadcasting by shuffle is how warp-level GEMMs share
//             operands
//!include weight_gradient

const LANES: u32 = 8u; // invocations of a subgroup
const QUADS: u32 = 4u; // filters of a workgroup / 4
const COLUMNS: u32 = 3u;
const WINDOWS: bool = true;
const SLIDE: bool = true; // the pixel under the next tap is the one under this tap at the next position
const STEP: u32 = 1u;     // from a position's first pixel to the next one's: 1 with SLIDE, else COLUMNS
const PIXELS: u32 = 6u;   // that a lane loads: 3 * STEP + COLUMNS

// Four channels from c on of a pixel of the line that begins at pixel `line`; zero outside the picture.
fn pixel(line: u32, line_inside: bool, w: u32, c: u32) -> vec4<f32> {
    // Left of the picture w has wrapped around to a huge number.
    let inside = line_inside && w < p.W && c < p.C;
    let value = decode_x(x[select(0u, ((line + w) * p.C + c) / 4u, inside)]);
    return select(vec4<f32>(0.0), value, inside);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let tiles = (p.F + 4u * QUADS - 1u) / (4u * QUADS);
    let f0 = workgroup.y % tiles * 4u * QUADS;
    // The first of this workgroup's taps. In a product the columns are blocks of channels.
    var tap = vec3<u32>(0u);
    var c = (workgroup.x * COLUMNS * LANES + lane) * 4u;
    if (WINDOWS) {
        let columns = (p.KW + COLUMNS - 1u) / COLUMNS;
        let line_of_taps = workgroup.y / tiles / columns;
        tap = vec3<u32>(line_of_taps / p.KH, line_of_taps % p.KH, workgroup.y / tiles % columns * COLUMNS);
        c = (workgroup.x * LANES + lane) * 4u;
    }

    let runs_per_line = (p.OW + 3u) / 4u;
    let first = workgroup.z * p.length;
    let end = min(first + p.length, p.images * p.OD * p.OH * runs_per_line);
    var line = first / runs_per_line; // [image, od, oh]
    var ow = first % runs_per_line * 4u;
    var sums: array<array<vec4<f32>, COLUMNS>, 4u * QUADS>;
    for (var run = first; run < end; run++) {
        let image = line / (p.OH * p.OD);
        let d = line / p.OH % p.OD * p.stride_d + tap.x * p.dilation_d - p.pad_d;
        let h = line % p.OH * p.stride_h + tap.y * p.dilation_h - p.pad_h;
        let w = ow * p.stride_w + tap.z * p.dilation_w - p.pad_w;
        let x_line = ((image * p.D + d) * p.H + h) * p.W;
        let inside = d < p.D && h < p.H;
        var of_x: array<vec4<f32>, PIXELS>;
        //!unroll
        for (var i = 0u; i < PIXELS; i++) {
            if (SLIDE) {
                of_x[i] = pixel(x_line, inside, w + i, c);
            } else if (WINDOWS) {
                of_x[i] = pixel(x_line, inside, w + i / COLUMNS * p.stride_w + i % COLUMNS * p.dilation_w, c);
            } else {
                of_x[i] = pixel(x_line, inside, w + i / COLUMNS, c + i % COLUMNS * 4u * LANES);
            }
        }
        var of_dy: array<vec4<f32>, 4>;
        //!unroll
        for (var i = 0u; i < 4u; i++) {
            let values = upstream(line * p.OW + min(ow + i, p.OW - 1u), f0 + 4u * min(lane, QUADS - 1u));
            of_dy[i] = select(vec4<f32>(0.0), values, ow + i < p.OW);
        }
        //!unroll
        for (var q = 0u; q < QUADS; q++) {
            let dy0 = subgroupShuffle(of_dy[0], q);
            let dy1 = subgroupShuffle(of_dy[1], q);
            let dy2 = subgroupShuffle(of_dy[2], q);
            let dy3 = subgroupShuffle(of_dy[3], q);
            //!unroll
            for (var k = 0u; k < 4u; k++) {
                //!unroll
                for (var j = 0u; j < COLUMNS; j++) {
                    sums[4u * q + k][j] += dy0[k] * of_x[j] + dy1[k] * of_x[STEP + j]
                        + dy2[k] * of_x[2u * STEP + j] + dy3[k] * of_x[3u * STEP + j];
                }
            }
        }
        ow += 4u;
        if (ow >= p.OW) {
            ow = 0u;
            line++;
        }
    }

    // The count is not constant, so this stays a loop and the code to store one filter is compiled once. It always
    // stores the first, then moves the others up.
    var f = f0;
    for (var left = min(4u * QUADS, p.F - f0); left > 0u; left--) {
        let taps = ((workgroup.z * p.F + f) * p.KD + tap.x) * p.KH + tap.y;
        //!unroll
        for (var j = 0u; j < COLUMNS; j++) {
            if (WINDOWS) {
                if (tap.z + j < p.KW && c < p.C) {
                    y[((taps * p.KW + tap.z + j) * p.C + c) / 4u] = encode_y(sums[0][j]);
                }
            } else if (c + j * 4u * LANES < p.C) {
                y[(taps * p.C + c) / 4u + j * LANES] = encode_y(sums[0][j]);
            }
        }
        //!unroll
        for (var i = 1u; i < 4u * QUADS; i++) { sums[i - 1u] = sums[i]; }
        f++;
    }
}
