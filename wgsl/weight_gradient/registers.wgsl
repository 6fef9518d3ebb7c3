// weight_gradient, registers: y[part, f, tap, c] = sum_m dy[m, f] * x[pixel under the tap at m, c], over the part's m,
// as a sum of outer products in registers
//
// A workgroup computes TILE_F filters by TILE_C channels of one tap and part. Both factors lie in memory as it reads
// them, one position after the other, so nothing is transposed. x, dy, y and the parameters:
// include/weight_gradient.wgsl.
//
// dispatch:   x = C / TILE_C, y = F / TILE_F, z = parts * taps
// requires:   C % 4 = 0; groups = 1; up to 16 KiB of workgroup memory, INVOCATIONS <= 256
// constants:  TILE_F, TILE_C: 16 to 128; F_QUADS, C_QUADS: vectors of an invocation, 1 or 2; INVOCATIONS = TILE_F *
//             TILE_C / (16 * F_QUADS * C_QUADS), a divisor of 4 * TILE_F and of 4 * TILE_C; WINDOWS: false for a
//             product of matrices; DY_VECTORS: F % 4 = 0. Of these follow TILE_P, the positions between two barriers,
//             LANES_F and LANES_C, the invocations along each side, F_UNITS and C_UNITS, the vectors that one loads
// error:      1e-5 relative L2 in f32 for parts of up to 4096 positions
// faster:     than naive everywhere: 64 x 64 results share their loads (8 loads of four values for 1024 multiply-adds
//             of an invocation, naive 2 for one). Not timed on a GPU yet
// source:     Volkov and Demmel 2008, "Benchmarking GPUs to Tune Dense Linear Algebra": outer products from registers;
//             Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3: patches never stored
//!include weight_gradient

const TILE_F: u32 = 64u;
const TILE_C: u32 = 64u;
const F_QUADS: u32 = 2u;
const C_QUADS: u32 = 2u;
const INVOCATIONS: u32 = 64u;
const WINDOWS: bool = true;

const TILE_P: u32 = 16u; // positions whose products are added between two barriers
const LANES_F: u32 = TILE_F / (4u * F_QUADS);
const LANES_C: u32 = TILE_C / (4u * C_QUADS);
const F_UNITS: u32 = TILE_P * TILE_F / 4u / INVOCATIONS; // vectors that an invocation loads
const C_UNITS: u32 = TILE_P * TILE_C / 4u / INVOCATIONS;

var<workgroup> tile_dy: array<vec4<f32>, TILE_P * TILE_F / 4u>; // [position, f]
var<workgroup> tile_x: array<vec4<f32>, TILE_P * TILE_C / 4u>;  // [position, c]

// The position that lies `by` behind another, without divisions.
fn moved(start: vec4<u32>, by: u32) -> vec4<u32> {
    var at = start;
    at.w += by;
    if (!WINDOWS) { return at; }
    while (at.w >= p.OW) {
        at.w -= p.OW;
        at.z++;
        if (at.z == p.OH) {
            at.z = 0u;
            at.y++;
            if (at.y == p.OD) {
                at.y = 0u;
                at.x++;
            }
        }
    }
    return at;
}

// Channels c to c + 3 of x under a tap, zero outside the picture.
fn gathered(at: vec4<u32>, tap: vec3<u32>, c: u32) -> vec4<f32> {
    var pixel = at.w;
    var inside = c < p.C;
    if (WINDOWS) {
        // Before the first pixel these wrap around to huge numbers.
        let d = at.y * p.stride_d + tap.x * p.dilation_d - p.pad_d;
        let h = at.z * p.stride_h + tap.y * p.dilation_h - p.pad_h;
        let w = at.w * p.stride_w + tap.z * p.dilation_w - p.pad_w;
        pixel = ((at.x * p.D + d) * p.H + h) * p.W + w;
        inside = inside && d < p.D && h < p.H && w < p.W;
    }
    if (!inside) { return vec4<f32>(0.0); }
    return decode_x(x[(pixel * p.C + c) / 4u]);
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let taps = p.KD * p.KH * p.KW;
    let tap = tap_of(workgroup.z % taps);
    let part = workgroup.z / taps;
    let c0 = workgroup.x * TILE_C;
    let f0 = workgroup.y * TILE_F;
    let first = part * p.length;
    let end = min(first + p.length, p.images * p.OD * p.OH * p.OW);
    let row = local / LANES_C;
    let column = local % LANES_C;

    var sums: array<array<vec4<f32>, C_QUADS>, 4u * F_QUADS>;
    var at = position(first);
    for (var m = first; m < end; m += TILE_P) {
        //!unroll
        for (var unit = 0u; unit < F_UNITS; unit++) {
            let i = unit * INVOCATIONS + local;
            let behind = i / (TILE_F / 4u);
            var values = vec4<f32>(0.0);
            if (m + behind < end) { values = upstream(m + behind, f0 + 4u * (i % (TILE_F / 4u))); }
            tile_dy[i] = values;
        }
        //!unroll
        for (var unit = 0u; unit < C_UNITS; unit++) {
            let i = unit * INVOCATIONS + local;
            let behind = i / (TILE_C / 4u);
            // Beyond the part dy is zero.
            var values = vec4<f32>(0.0);
            if (m + behind < end) { values = gathered(moved(at, behind), tap, c0 + 4u * (i % (TILE_C / 4u))); }
            tile_x[i] = values;
        }
        at = moved(at, TILE_P);
        workgroupBarrier();
        for (var k = 0u; k < TILE_P; k++) {
            var of_x: array<vec4<f32>, C_QUADS>;
            //!unroll
            for (var j = 0u; j < C_QUADS; j++) { of_x[j] = tile_x[k * (TILE_C / 4u) + j * LANES_C + column]; }
            //!unroll
            for (var r = 0u; r < F_QUADS; r++) {
                let of_dy = tile_dy[k * (TILE_F / 4u) + r * LANES_F + row];
                //!unroll
                for (var j = 0u; j < C_QUADS; j++) {
                    sums[4u * r][j] += of_dy.x * of_x[j];
                    sums[4u * r + 1u][j] += of_dy.y * of_x[j];
                    sums[4u * r + 2u][j] += of_dy.z * of_x[j];
                    sums[4u * r + 3u][j] += of_dy.w * of_x[j];
                }
            }
        }
        workgroupBarrier();
    }

    //!unroll
    for (var r = 0u; r < 4u * F_QUADS; r++) {
        let f = f0 + 4u * (r / 4u * LANES_F + row) + r % 4u;
        //!unroll
        for (var j = 0u; j < C_QUADS; j++) {
            let c = c0 + 4u * (j * LANES_C + column);
            if (f < p.F && c < p.C) {
                y[(((part * p.F + f) * taps + workgroup.z % taps) * p.C + c) / 4u] = encode_y(sums[r][j]);
            }
        }
    }
}
