// The tiles of x and the weights on their way from memory to workgroup memory: loaded, as they are stored, into
// registers, and kept there until the tile before has been used.
//
// What addresses need is worked out before the loop over k. In the loop, the place of a row of x is the sum of two
// numbers, one of the row and one of the step, and whether a tap lies inside the picture is one bit of a mask. A tile
// is loaded in blocks of a few rows by four values of k; where it has fewer blocks than there are invocations, several
// load the same and one stores it. Every load is made in every step, whether it is needed or not: a branch around it
// would have to wait for what it loads.
//
// If JOINED, x is two tensors that stand for their concatenation along the channels: x [M, C_first] and x_second
// [M, C - C_first], under a window of one tap.
//
// If SUBPIXEL (include/subpixel.wgsl), tiles are not ragged, KH = KW = 2, and the weights are those of a 3x3 window.
//
// The kernel that includes it has TILE_M, TILE_N, TILE_K and INVOCATIONS, and at most 31 taps.
//!include subpixel
//!storage x_second
const JOINED: bool = false;
const WINDOWS: bool = true;  // false for a window of one tap over a line
const DEPTH: bool = true;    // false if D = OD = KD = 1
const RAGGED: bool = true;   // false if C and C_first are multiples of TILE_K, so that all of a tile lies under one tap
                             // and in one tensor
const X_ROWS: u32 = 2u;      // rows of a block of x: 1, 2 or 4
const W_ROWS: u32 = 2u;      // rows of a block of the weights
const X_UNITS: u32 = 1u;     // blocks of x that an invocation loads of a tile
const W_UNITS: u32 = 1u;     // blocks of the weights
const X_BLOCKS: u32 = TILE_M * TILE_K / 4u / X_ROWS;
const W_BLOCKS: u32 = TILE_N * TILE_K / 4u / W_ROWS;
const X_APART: u32 = 4u * INVOCATIONS / TILE_K * X_ROWS; // rows from one block of an invocation to its next one
const W_APART: u32 = 4u * INVOCATIONS / TILE_K * W_ROWS;

@group(0) @binding(8) var<storage, read> x_second: array<x_second_vec4>;

// This invocation's rows of a tile of x: where each begins under the first tap, as an index of vectors (if JOINED, its
// number), and the taps that lie inside the picture, one bit each.
var<private> x_first: array<u32, X_ROWS * X_UNITS>;
var<private> x_taps: array<u32, X_ROWS * X_UNITS>;
var<private> w_first: array<u32, W_ROWS * W_UNITS>;
// The tile on its way, and whether it is there; otherwise zeros stand for it.
var<private> x_next: array<x_vec4, X_ROWS * X_UNITS>;
var<private> w_next: array<weight_vec4, W_ROWS * W_UNITS>;
var<private> x_second_next: array<x_second_vec4, X_ROWS * X_UNITS>;
var<private> from_second: bool;
var<private> x_vector: u32; // within a tile, of the vectors that this invocation loads; 0 if tiles are ragged
var<private> x_there: array<bool, X_ROWS * X_UNITS>;
var<private> w_there: bool;
// If SUBPIXEL, the weights of the taps to the right, below, and both, and whether these lie over the same pixel of x.
var<private> w_right: array<weight_vec4, W_ROWS * W_UNITS>;
var<private> w_below: array<weight_vec4, W_ROWS * W_UNITS>;
var<private> w_both: array<weight_vec4, W_ROWS * W_UNITS>;
var<private> two_rows: bool;
var<private> two_columns: bool;
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

// Row and k of an invocation's first block of x and of the weights.
fn block(number: u32, rows: u32) -> vec2<u32> {
    return vec2<u32>(number / (TILE_K / 4u) * rows, 4u * (number % (TILE_K / 4u)));
}
fn x_block(local: u32) -> vec2<u32> { return block(local % X_BLOCKS, X_ROWS); }
fn w_block(local: u32) -> vec2<u32> { return block(local % W_BLOCKS, W_ROWS); }

// Whether this invocation stores what it has loaded.
fn stores_x(local: u32) -> bool { return X_BLOCKS >= INVOCATIONS || local < X_BLOCKS; }
fn stores_w(local: u32) -> bool { return W_BLOCKS >= INVOCATIONS || local < W_BLOCKS; }

// What has been loaded, as it is stored.
fn stored_x(i: u32) -> x_vec4 {
    var next = x_next[i];
    if (JOINED) { next = select(next, x_second_next[i], from_second); }
    if (!WINDOWS && !RAGGED) { return next; }
    return select(x_vec4(0), next, x_there[i]);
}
fn stored_w(i: u32) -> weight_vec4 {
    if (!RAGGED) { return w_next[i]; }
    return select(weight_vec4(0), w_next[i], w_there);
}

// The same as numbers.
fn loaded_x(i: u32) -> vec4<f32> { return decode_x(stored_x(i)); }
fn loaded_w(i: u32) -> vec4<f32> {
    if (SUBPIXEL) {
        let right = select(vec4<f32>(0.0), decode_weight(w_right[i]), two_columns);
        let below = select(vec4<f32>(0.0), decode_weight(w_below[i]), two_rows);
        let both = select(vec4<f32>(0.0), decode_weight(w_both[i]), two_rows && two_columns);
        return (decode_weight(w_next[i]) + right) + (below + both);
    }
    return decode_weight(stored_w(i));
}

// Where the part of K that begins at k_first ends. A loop with barriers in it must ask this: of `k_end`, a compiler
// does not know that it is the same for all invocations.
fn part_end(k_first: u32) -> u32 { return min(k_first + p.K_per_split, p.KD * p.KH * p.KW * p.C); }

// Which taps of the window at output position m lie inside the picture.
fn taps_inside(m: u32) -> u32 {
    if (!WINDOWS) { return 1u; }
    let first = corner(position(m)) + part_offset();
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
    let first = corner(at) + part_offset();
    return ((at.x * p.D + first.x) * p.H + first.y) * p.W + first.z;
}

// Prepares this invocation for the tiles of a workgroup whose first row is m0, and begins to load the first one.
fn begin_tiles(workgroup: vec3<u32>, m0: u32, M: u32, local: u32) {
    let k_first = workgroup.z * p.K_per_split;
    begin_part(workgroup, m0, M, k_first, part_end(k_first), local);
}

// The same for the values of k from k_first to `end`.
fn begin_part(workgroup: vec3<u32>, m0: u32, M: u32, k_first: u32, end: u32, local: u32) {
    let K = p.KD * p.KH * p.KW * p.C;
    let x_at = x_block(local);
    let w_at = w_block(local);
    //!unroll
    for (var i = 0u; i < X_ROWS * X_UNITS; i++) {
        // Rows beyond the last one repeat it, and are not stored.
        let m = min(m0 + x_at.x + i / X_ROWS * X_APART + i % X_ROWS, M - 1u);
        x_first[i] = (first_pixel(m) * p.C + select(x_at.y, 0u, RAGGED)) / 4u;
        if (JOINED) { x_first[i] = m; }
        x_taps[i] = taps_inside(m);
    }
    //!unroll
    for (var i = 0u; i < W_ROWS * W_UNITS; i++) {
        let n = column_of(workgroup.x, w_at.x + i / W_ROWS * W_APART + i % W_ROWS, TILE_N);
        w_first[i] = (min(n, p.N - 1u) * select(K, 9u * p.C, SUBPIXEL) + select(w_at.y, 0u, RAGGED)) / 4u;
    }
    x_vector = select(x_at.y / 4u, 0u, RAGGED);
    k_next = k_first + select(0u, w_at.y, RAGGED);
    k_end = end;
    let k = k_first + select(0u, x_at.y, RAGGED);
    c = k % p.C;
    tap_number = k / p.C;
    tap = vec3<u32>(tap_number / (p.KW * p.KH), tap_number / p.KW % p.KH, tap_number % p.KW);
    tap_offset = (((tap.x * p.dilation_d * p.H + tap.y * p.dilation_h) * p.W + tap.z * p.dilation_w) * p.C + c) / 4u;
    fetch_tile();
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

// Begins to load the weights of a tile of a part of y.
fn fetch_summed_weights() {
    two_rows = two_taps(part_of_y / 2u, tap.y);
    two_columns = two_taps(part_of_y % 2u, tap.z);
    let first = 3u * first_tap(part_of_y / 2u, tap.y) + first_tap(part_of_y % 2u, tap.z);
    let at = (first * p.C + c) / 4u;
    let right = select(0u, p.C / 4u, two_columns);
    let below = select(0u, 3u * p.C / 4u, two_rows);
    //!unroll
    for (var i = 0u; i < W_ROWS * W_UNITS; i++) {
        w_next[i] = fetch_weight(w_first[i] + at);
        w_right[i] = fetch_weight(w_first[i] + at + right);
        w_below[i] = fetch_weight(w_first[i] + at + below);
        w_both[i] = fetch_weight(w_first[i] + at + right + below);
    }
}

// Begins to load a tile. Outside the picture, beyond this part of K, and of the tensor in which a value does not lie,
// the first vector is loaded instead.
fn fetch_tile() {
    let tap_bit = 1u << min(tap_number, 31u);
    from_second = JOINED && c >= p.C_first;
    let pitch = select(p.C_first, p.C - p.C_first, from_second) / 4u; // vectors of a row
    let offset = tap_offset + x_vector - select(0u, p.C_first / 4u, from_second);
    //!unroll
    for (var i = 0u; i < X_ROWS * X_UNITS; i++) {
        x_there[i] = (!WINDOWS && !RAGGED) || (x_taps[i] & tap_bit) != 0u;
        if (JOINED) {
            let at = x_first[i] * pitch + offset;
            x_next[i] = fetch_x(select(0u, at, x_there[i] && !from_second));
            x_second_next[i] = fetch_x_second(select(0u, at, x_there[i] && from_second));
        } else {
            x_next[i] = fetch_x(select(0u, x_first[i] + tap_offset, x_there[i]));
        }
    }
    if (SUBPIXEL) {
        fetch_summed_weights();
        return;
    }
    w_there = !RAGGED || k_next < k_end;
    //!unroll
    for (var i = 0u; i < W_ROWS * W_UNITS; i++) {
        w_next[i] = fetch_weight(select(0u, w_first[i] + k_next / 4u, w_there));
    }
}
