// The tiles of x and the weights on their way from memory to workgroup memory: loaded, as they are stored, into
// registers, and kept there until the tile before has been used.
//
// What addresses need is worked out before the loop over k. In the loop, the place of a row of x is the sum of two
// numbers, one of the row and one of the step, and whether a tap lies inside the picture is one bit of a mask. A tile
// is loaded in blocks of four rows by four values of k; where it has fewer blocks of x than there are invocations, the
// first ones load x, and where it has fewer of the weights, the last ones load those.
//
// The kernel that includes it has TILE_M, TILE_N, TILE_K and INVOCATIONS, and at most 31 taps.
const WINDOWS: bool = true; // false for a window of one tap over a line
const DEPTH: bool = true;   // false if D = OD = KD = 1
const RAGGED: bool = true;  // false if C is a multiple of TILE_K, so that all of a tile lies under one tap
const X_UNITS: u32 = 1u;    // blocks of x that an invocation loads of a tile
const W_UNITS: u32 = 1u;    // blocks of the weights
const X_BLOCKS: u32 = TILE_M * TILE_K / 16u;
const W_BLOCKS: u32 = TILE_N * TILE_K / 16u;
const ROW_QUADS_APART: u32 = 4u * INVOCATIONS / TILE_K; // from one block of an invocation to its next one

// This invocation's rows of a tile of x: where each begins under the first tap, as an index of vectors, and the taps
// that lie inside the picture, one bit each.
var<private> x_first: array<u32, 4u * X_UNITS>;
var<private> x_taps: array<u32, 4u * X_UNITS>;
var<private> w_first: array<u32, 4u * W_UNITS>;
// The tile on its way.
var<private> x_next: array<x_vec4, 4u * X_UNITS>;
var<private> w_next: array<weight_vec4, 4u * W_UNITS>;
// The value of k that the next tile begins with, and where its part of K ends. If tiles are ragged, that of this
// invocation's weights.
var<private> k_next: u32;
var<private> k_end: u32;
// The channel and the tap under which that value of k lies, the number of the tap, and how far from the first tap the
// channel is, in vectors. If tiles are ragged, those of this invocation's x.
var<private> c: u32;
var<private> tap: vec3<u32>;
var<private> tap_number: u32;
var<private> tap_offset: u32;

fn loads_x(local: u32) -> bool { return X_BLOCKS >= INVOCATIONS || local < X_BLOCKS; }
fn loads_w(local: u32) -> bool { return W_BLOCKS >= INVOCATIONS || INVOCATIONS - 1u - local < W_BLOCKS; }

// Row / 4 and k of an invocation's first block of x and of the weights.
fn x_block(local: u32) -> vec2<u32> { return vec2<u32>(local / (TILE_K / 4u), 4u * (local % (TILE_K / 4u))); }
fn w_block(local: u32) -> vec2<u32> {
    return x_block(select(local, INVOCATIONS - 1u - local, W_BLOCKS < INVOCATIONS));
}

// Which taps of the window at output position m lie inside the picture.
fn taps_inside(m: u32) -> u32 {
    if (!WINDOWS) { return 1u; }
    let first = corner(position(m));
    var taps = 0u;
    var bit = 1u;
    for (var kd = 0u; kd < p.KD; kd++) {
        for (var kh = 0u; kh < p.KH; kh++) {
            for (var kw = 0u; kw < p.KW; kw++) {
                let at = first + vec3<u32>(kd * p.dilation_d, kh * p.dilation_h, kw * p.dilation_w);
                if (at.x < p.D && at.y < p.H && at.z < p.W) { taps |= bit; }
                bit <<= 1u;
            }
        }
    }
    return taps;
}

// The pixel under the first tap at output position m; before the first pixel it wraps around, like `corner`.
fn first_pixel(m: u32) -> u32 {
    if (!WINDOWS) { return m; }
    let at = position(m);
    let first = corner(at);
    return ((at.x * p.D + first.x) * p.H + first.y) * p.W + first.z;
}

// Prepares this invocation for the tiles of a workgroup whose first row is m0, and begins to load the first one.
fn begin_tiles(workgroup: vec3<u32>, m0: u32, M: u32, local: u32) {
    let K = p.KD * p.KH * p.KW * p.C;
    let k_first = workgroup.z * p.K_per_split;
    let x_at = x_block(local);
    let w_at = w_block(local);
    //!unroll
    for (var i = 0u; i < 4u * X_UNITS; i++) {
        // Rows beyond the last one repeat it, and are not stored.
        let m = min(m0 + 4u * (x_at.x + i / 4u * ROW_QUADS_APART) + i % 4u, M - 1u);
        x_first[i] = (first_pixel(m) * p.C + select(x_at.y, 0u, RAGGED)) / 4u;
        x_taps[i] = taps_inside(m);
    }
    //!unroll
    for (var i = 0u; i < 4u * W_UNITS; i++) {
        let n = column_of(workgroup.x, 4u * (w_at.x + i / 4u * ROW_QUADS_APART) + i % 4u, TILE_N);
        w_first[i] = (min(n, p.N - 1u) * K + select(w_at.y, 0u, RAGGED)) / 4u;
    }
    k_next = k_first + select(0u, w_at.y, RAGGED);
    k_end = min(k_first + p.K_per_split, K);
    let k = k_first + select(0u, x_at.y, RAGGED);
    c = k % p.C;
    tap_number = k / p.C;
    tap = vec3<u32>(tap_number / (p.KW * p.KH), tap_number / p.KW % p.KH, tap_number % p.KW);
    tap_offset = (((tap.x * p.dilation_d * p.H + tap.y * p.dilation_h) * p.W + tap.z * p.dilation_w) * p.C + c) / 4u;
    fetch_tile(local);
}

// Goes on by TILE_K along k, without divisions.
fn advance() {
    k_next += TILE_K;
    c += TILE_K;
    tap_offset += TILE_K / 4u;
    if (!WINDOWS && !RAGGED) { return; } // there is no other tap, and no k beyond the last one
    while (c >= p.C) {
        c -= p.C;
        tap_number++;
        if (WINDOWS) {
            tap.z++;
            tap_offset += (p.dilation_w - 1u) * (p.C / 4u);
            if (tap.z == p.KW) {
                tap.z = 0u;
                tap.y++;
                tap_offset += (p.dilation_h * p.W - p.KW * p.dilation_w) * (p.C / 4u);
                if (DEPTH && tap.y == p.KH) {
                    tap.y = 0u;
                    tap_offset += (p.dilation_d * p.H - p.KH * p.dilation_h) * p.W * (p.C / 4u);
                }
            }
        }
    }
}

// Begins to load a tile: zeros outside the picture, and beyond this part of K.
fn fetch_tile(local: u32) {
    let tap_bit = 1u << min(tap_number, 31u);
    if (loads_x(local)) {
        //!unroll
        for (var i = 0u; i < 4u * X_UNITS; i++) {
            if (WINDOWS || RAGGED) {
                x_next[i] = x_vec4();
                if ((x_taps[i] & tap_bit) != 0u) { x_next[i] = fetch_x(x_first[i] + tap_offset); }
            } else {
                x_next[i] = fetch_x(x_first[i] + tap_offset);
            }
        }
    }
    if (loads_w(local)) {
        //!unroll
        for (var i = 0u; i < 4u * W_UNITS; i++) {
            if (RAGGED) {
                w_next[i] = weight_vec4();
                if (k_next < k_end) { w_next[i] = fetch_weight(w_first[i] + k_next / 4u); }
            } else {
                w_next[i] = fetch_weight(w_first[i] + k_next / 4u);
            }
        }
    }
}
