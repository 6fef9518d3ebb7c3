// attention_gradient, shuffle, for CPU drivers: with w = e^(scale * q_t . k_s - L_t) and u = scale * w * (dy_t . v_s -
// D_t): dq_t = sum_s u k_s,  dk_s = sum_t u q_t,  dv_s = sum_t w dy_t
//
//   q           [N, T, heads, head_dim]  f32 or f16
//   k, v        [N, S, heads, head_dim]  f32 or f16
//   dy          as q
//   statistics  [N, T, heads, 2]         f32: L, D (attention_statistics)
//   y           as q, k or v             f32 or f16; or parts of its sums, [parts, ..], f32
// dispatch:   one workgroup, which is one subgroup, for one head of LANES positions of y, one to a lane; x = heads, y =
//             [n, block of positions], z = parts of their sums
// requires:   head_dim = 4 * HEAD_VECTORS, at most 128; subgroups of exactly LANES invocations
// constants:  CAUSAL: query t sees only keys s <= t; OF: 0 for dq, 1 for dk, 2 for dv; HEAD_VECTORS; LANES
// error:      1e-5 relative L2 in f32 for up to 10 000 keys
// faster:     than rows where loads are emulated lane by lane: each lane loads one row of what is summed over, and the
//             others get it by subgroupShuffle, which is a register move. lavapipe (Mesa 22.3, two busy cores), dk of
//             16 images of 64 keys and queries, 3 heads of 32, f32: 4.0 ms of processor time, rows 12.9 (medians of
//             five runs in turn, 2026-11-27). With two rows to a lane it took as long, with four a quarter less, and
//             3 s to compile
// source:     Dao et al. 2022, "FlashAttention", algorithm 4
//!storage q
//!storage k
//!storage v
//!storage dy
//!storage y

const CAUSAL: bool = false;
const OF: u32 = 0u;
const HEAD_VECTORS: u32 = 8u;
const LANES: u32 = 8u;

struct Params {
    rows: u32,   // of y: images * positions * heads
    length: u32, // positions of the other that a part sums over
    queries: u32,
    keys: u32,
    heads: u32,
    scale: f32,
    first_workgroup_y: u32, // of this launch: long launches are split along y
}

@group(0) @binding(0) var<storage, read> q: array<q_vec4>;
@group(0) @binding(1) var<storage, read> k: array<k_vec4>;
@group(0) @binding(2) var<storage, read> v: array<v_vec4>;
@group(0) @binding(3) var<storage, read> dy: array<dy_vec4>;
@group(0) @binding(4) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

// Lane j's vector, for all lanes.
fn broadcast(x: vec4<f32>, j: u32) -> vec4<f32> {
    return vec4<f32>(
        subgroupShuffle(x.x, j),
        subgroupShuffle(x.y, j),
        subgroupShuffle(x.z, j),
        subgroupShuffle(x.w, j),
    );
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let own = select(p.keys, p.queries, OF == 0u);
    let other = select(p.queries, p.keys, OF == 0u);
    let head = workgroup.x;
    let blocks = (own + LANES - 1u) / LANES;
    let block = workgroup.y + p.first_workgroup_y;
    let image = block / blocks;
    let first_position = block % blocks * LANES;

    let position = first_position + lane;
    let row = (image * own + min(position, own - 1u)) * p.heads + head; // past the end: computed, not stored

    // What this lane's row brings to the scores, and to dy . v; dv needs no second one.
    var of_score: array<vec4<f32>, HEAD_VECTORS>;
    var of_product: array<vec4<f32>, HEAD_VECTORS>;
    var sum: array<vec4<f32>, HEAD_VECTORS>;
    //!unroll
    for (var d = 0u; d < HEAD_VECTORS; d++) {
        let at = row * HEAD_VECTORS + d;
        if (OF == 0u) {
            of_score[d] = decode_q(q[at]);
            of_product[d] = decode_dy(dy[at]);
        } else {
            of_score[d] = decode_k(k[at]);
            of_product[d] = decode_v(v[at]);
        }
        sum[d] = vec4<f32>(0.0);
    }
    var of_row: vec2<f32>;
    if (OF == 0u) { of_row = statistics[row]; }

    // What any of these rows sees, of this part.
    let begin = workgroup.z * p.length;
    let end = min(begin + p.length, select(other, min(other, first_position + LANES), CAUSAL && OF == 0u));
    for (var first = max(begin, select(0u, first_position, CAUSAL && OF != 0u)); first < end; first += LANES) {
        // Each lane loads one row of the other.
        let across = (image * other + min(first + lane, other - 1u)) * p.heads + head;
        var scored: array<vec4<f32>, HEAD_VECTORS>;
        var multiplied: array<vec4<f32>, HEAD_VECTORS>;
        var of_lane: vec2<f32>;
        //!unroll
        for (var d = 0u; d < HEAD_VECTORS; d++) {
            let at = across * HEAD_VECTORS + d;
            if (OF == 0u) {
                scored[d] = decode_k(k[at]);
                multiplied[d] = decode_v(v[at]);
            } else {
                scored[d] = decode_q(q[at]);
                multiplied[d] = decode_dy(dy[at]);
            }
        }
        if (OF != 0u) { of_lane = statistics[across]; }

        // 1. The factor of each of them for this lane's row: u or w.
        var factor: array<f32, LANES>;
        //!unroll
        for (var j = 0u; j < LANES; j++) {
            var score = 0.0;
            var product = 0.0;
            //!unroll
            for (var d = 0u; d < HEAD_VECTORS; d++) {
                score += dot(of_score[d], broadcast(scored[d], j));
                if (OF != 2u) { product += dot(of_product[d], broadcast(multiplied[d], j)); }
            }
            let s = select(vec2<f32>(subgroupShuffle(of_lane.x, j), subgroupShuffle(of_lane.y, j)), of_row, OF == 0u);
            let w = exp(p.scale * score - s.x);
            let query = select(first + j, position, OF == 0u);
            let key = select(position, first + j, OF == 0u);
            let counts = first + j < end && (!CAUSAL || key <= query);
            factor[j] = select(0.0, select(p.scale * w * (product - s.y), w, OF == 2u), counts);
        }

        // 2. The sum of the vectors with these factors.
        //!unroll
        for (var d = 0u; d < HEAD_VECTORS; d++) {
            let loaded = select(scored[d], multiplied[d], OF == 2u);
            //!unroll
            for (var j = 0u; j < LANES; j++) { sum[d] += factor[j] * broadcast(loaded, j); }
        }
    }

    if (position < own) {
        //!unroll
        for (var d = 0u; d < HEAD_VECTORS; d++) {
            y[(workgroup.z * p.rows + row) * HEAD_VECTORS + d] = encode_y(sum[d]);
        }
    }
}
