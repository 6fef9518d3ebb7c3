// contraction, shuffle: y = scale * (f(x * weight + bias + summand) + residual) as 1_naive.wgsl and conclude.wgsl
// together, for CPU drivers: no workgroup memory, no barriers
//
// A workgroup is one subgroup. Each lane owns ROWS output positions, side by side in a line of the picture (of M
// positions, for a matrix product), and all lanes own the same 4 * QUADS output channels. Each lane gathers its rows
// itself, four values along k at a time. Weights are loaded once for the whole subgroup, each lane taking one output
// channel, and shared by subgroupShuffle. x and weight may be textures. They and the parameters: include/gather.wgsl;
// bias, summand, residual and y: include/epilogue.wgsl. Where K is split, workgroup z sums one part of it and y holds
// partial sums [splits, M, N_padded].
//
// dispatch:   x = N / (4 * QUADS), y = runs of ROWS positions / LANES, z = splits; a run never leaves its line
// requires:   subgroups of exactly LANES invocations; C % 4 = 0; groups = 1; N_padded is N rounded up to a multiple of
//             4, and the epilogue is empty where they differ or splits > 1; no splits if WINDOWS; with a gate N % 8 = 0
//             and QUADS > 1
// constants:  LANES 4..64; ROWS 1..8; QUADS 1..8; WEIGHT_LOADS = 4 * QUADS / LANES, rounded up; WINDOWS: false for a
//             window of one tap over a line; SLIDE only if stride_w = dilation_w = 1; those of the epilogue: HAS_BIAS,
//             SUMMAND, RESIDUAL, ACTIVATION, GATE
// error:      1e-5 relative L2 in f32 for K = KD * KH * KW * C <= 23040
// faster:     lavapipe executes a load lane by lane, about 66 ns for eight vec4s where eight multiply-adds take 0.5 ns;
//             a barrier turns the whole kernel into a coroutine. 4 rows by 32 columns need 8 loads for 512
//             multiply-adds of a subgroup, 8 pixels by 16 channels need 16 for 1536 along a row of a 3x3 filter. In one
//             run on lavapipe (Mesa 22.3, two cores), f32: M = 4096, N = K = 96: 4.7 ms, 4_registers 38 ms; 16 pictures
//             of 16x16, 3x3, 96 to 96 channels: 29 ms, 4_registers 286 ms. Inside a loop it reads a buffer lane by
//             lane, and a texture without a branch: eight vec4s of f32 in 30 and 14 ns on an EPYC. There M = 1024,
//             N = 640, K = 1280: from buffers 44 GFLOP/s in f32 and 57 in f16, from textures 73 and 78, with 8 rows 84
//             (two cores, by processor time)
// source:     the outer-product form of matrix multiplication; broadcasting by shuffle is how warp-level GEMMs share
//             operands
//!include gather
//!include epilogue

const LANES: u32 = 8u; // invocations of a subgroup
const ROWS: u32 = 4u;  // output positions of an invocation
const QUADS: u32 = 8u; // output channels of a workgroup / 4
const WEIGHT_LOADS: u32 = 4u; // 4 * QUADS / LANES, rounded up
const WINDOWS: bool = true;
// The pixels under the next filter column are those under this one, shifted by one: load only the new one.
const SLIDE: bool = false;

@group(0) @binding(6) var<uniform> p: Params;

// Four input channels of a pixel of the picture row that begins at pixel `line`; zero outside the picture.
fn pixel(line: u32, line_inside: bool, w: u32, quad: u32) -> vec4<f32> {
    // Left of the picture w has wrapped around to a huge number.
    let inside = line_inside && w < p.W;
    let value = load_x(select(0u, (line + w) * (p.C / 4u) + quad, inside));
    return select(vec4<f32>(0.0), value, inside);
}

alias Sums = array<array<vec4<f32>, QUADS>, ROWS>;

// Adds the products of four values of k: this lane's rows times the weights that the lanes hold between them.
fn add_products(sums: ptr<function, Sums>, a: array<vec4<f32>, ROWS>, w: array<vec4<f32>, WEIGHT_LOADS>) {
    //!unroll
    for (var c = 0u; c < QUADS; c++) {
        let of_lane = w[4u * c / LANES];
        let lead = 4u * c % LANES;
        let w0 = subgroupShuffle(of_lane, lead);
        let w1 = subgroupShuffle(of_lane, lead + 1u);
        let w2 = subgroupShuffle(of_lane, lead + 2u);
        let w3 = subgroupShuffle(of_lane, lead + 3u);
        //!unroll
        for (var i = 0u; i < ROWS; i++) {
            (*sums)[i][c] += vec4<f32>(dot(a[i], w0), dot(a[i], w1), dot(a[i], w2), dot(a[i], w3));
        }
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let runs_per_line = (p.OW + ROWS - 1u) / ROWS;
    let run = (workgroup.y + p.first_workgroup_y) * LANES + lane;
    let ow = run % runs_per_line * ROWS;
    let out_line = run / runs_per_line; // [image, od, oh]
    let image = out_line / (p.OH * p.OD);
    let n = column_of(workgroup.x, 0u, 4u * QUADS);
    let vectors = p.C / 4u;
    let first = corner(vec4<u32>(image, out_line / p.OH % p.OD, out_line % p.OH, ow));

    // In a matrix product, rows past the end repeat the last one; their sums are not stored.
    var base: array<u32, ROWS>;
    //!unroll
    for (var i = 0u; i < ROWS; i++) { base[i] = min(run * ROWS + i, p.OW - 1u) * vectors; }
    // This lane's share of the weights: this workgroup's output channels lane, lane + LANES, …
    var channel: array<u32, WEIGHT_LOADS>;
    //!unroll
    for (var j = 0u; j < WEIGHT_LOADS; j++) {
        channel[j] = min(column_of(workgroup.x, j * LANES + lane, 4u * QUADS), p.N - 1u);
    }

    var sums: Sums;
    var a: array<vec4<f32>, ROWS>; // four values of k under the window at each output position
    if (!WINDOWS) {
        let k_first = workgroup.z * p.K_per_split / 4u;
        for (var k = k_first; k < min(k_first + p.K_per_split / 4u, vectors); k++) {
            //!unroll
            for (var i = 0u; i < ROWS; i++) { a[i] = load_x(base[i] + k); }
            var w: array<vec4<f32>, WEIGHT_LOADS>;
            //!unroll
            for (var j = 0u; j < WEIGHT_LOADS; j++) { w[j] = load_weight(channel[j] * vectors + k); }
            add_products(&sums, a, w);
        }
    } else {
        for (var tap_line = 0u; tap_line < p.KD * p.KH; tap_line++) {
            let d = first.x + tap_line / p.KH * p.dilation_d;
            let h = first.y + tap_line % p.KH * p.dilation_h;
            let line = ((image * p.D + d) * p.H + h) * p.W;
            let line_inside = d < p.D && h < p.H && image < p.images;
            for (var quad = 0u; quad < vectors; quad++) {
                if (SLIDE) {
                    //!unroll
                    for (var i = 1u; i < ROWS; i++) { a[i] = pixel(line, line_inside, first.z + i - 1u, quad); }
                }
                for (var kw = 0u; kw < p.KW; kw++) {
                    if (SLIDE) {
                        //!unroll
                        for (var i = 1u; i < ROWS; i++) { a[i - 1u] = a[i]; }
                        a[ROWS - 1u] = pixel(line, line_inside, first.z + ROWS - 1u + kw, quad);
                    } else {
                        let left = first.z + kw * p.dilation_w;
                        //!unroll
                        for (var i = 0u; i < ROWS; i++) {
                            a[i] = pixel(line, line_inside, left + i * p.stride_w, quad);
                        }
                    }
                    var w: array<vec4<f32>, WEIGHT_LOADS>;
                    //!unroll
                    for (var j = 0u; j < WEIGHT_LOADS; j++) {
                        w[j] = load_weight(((channel[j] * p.KD * p.KH + tap_line) * p.KW + kw) * vectors + quad);
                    }
                    add_products(&sums, a, w);
                }
            }
        }
    }

    if (out_line >= p.images * p.OD * p.OH) { return; }
    // A run of pixels lies in one image; a run of rows of a matrix product may not.
    if (WINDOWS || SUMMAND != 1u) {
        //!unroll
        for (var c = 0u; c < QUADS; c++) {
            let addend = common_addend(image, min(column_of(workgroup.x, 4u * c, 4u * QUADS), p.N - 1u));
            //!unroll
            for (var i = 0u; i < ROWS; i++) { sums[i][c] += addend; }
        }
    }
    // The count is not constant, so this stays a loop and the code to store one row is compiled once. It always stores
    // row 0, then moves the others up.
    var m = out_line * p.OW + ow;
    let M = p.images * p.OD * p.OH * p.OW;
    for (var left_over = min(ROWS, p.OW - ow); left_over > 0u; left_over--) {
        let owner = m / p.rows_per_image;
        let index = ((workgroup.z * M + m) * p.N_padded + n) / 4u;
        //!unroll
        for (var c = 0u; c < QUADS; c++) {
            if (GATE) {
                // The first half of the quads holds values, the second half their gates.
                let column = n + 4u * c;
                if (c < QUADS / 2u && column < p.N / 2u) {
                    var value = sums[0][c];
                    var gate = sums[0][(c + QUADS / 2u) % QUADS];
                    if (!WINDOWS && SUMMAND == 1u) {
                        value += common_addend(owner, column);
                        gate += common_addend(owner, p.N / 2u + column);
                    }
                    y[(m * (p.N / 2u) + column) / 4u] = encode_y(conclude_gated(value, gate, owner, column, m));
                }
            } else if (n + 4u * c < p.N) {
                var sum = sums[0][c];
                if (!WINDOWS && SUMMAND == 1u) { sum += common_addend(owner, n + 4u * c); }
                y[index + c] = encode_y(conclude(sum, owner, n + 4u * c, index + c));
            }
            //!unroll
            for (var i = 1u; i < ROWS; i++) { sums[i - 1u][c] = sums[i][c]; }
        }
        m++;
    }
}
