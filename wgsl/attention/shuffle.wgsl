// attention, shuffle, for CPU drivers: y[n, t, h, .] = sum_s softmax_s(scale * q[n, t, h, .] . k[n, s, g, .] + bias) *
// v[n, s, g, .] with g = h / group
//
//   q, k, v     rows of q_stride, k_stride, v_stride elements as in naive.wgsl, head_dim = 4 * HEAD_VECTORS; f32 or f16
//   bias, mask  as in naive.wgsl (include/attention_bias.wgsl); a query that sees no key gets zeros
//   y           [N, T, heads, head_dim]   f32 or f16
// dispatch:   one workgroup, which is one subgroup, for one head of LANES * QUERIES queries; x = heads, y = [n, block
//             of queries]
// requires:   head_dim % 4 == 0, head_dim <= 160; subgroups of exactly LANES invocations
// constants:  HEAD_VECTORS; LANES; QUERIES: those of one invocation; CAUSAL: query t sees only keys s <= t; fixed:
//             LOG2_E, LOWEST, HIDDEN
// error:      1e-5 relative L2 in f32 for up to 10 000 keys; times the largest |score| / 10 where that exceeds 10
// faster:     than flash where loads are emulated lane by lane and barriers are expensive: each lane loads one key (or
//             value) and the others get it by subgroupShuffle, which is a register move
// source:     Dao et al. 2022, "FlashAttention", algorithm 1; Milakov and Gimelshein 2018, "Online normalizer
//             calculation for softmax"
//!include attention_bias
//!storage q
//!storage k
//!storage v
//!storage bias
//!storage mask
//!storage y

const HEAD_VECTORS: u32 = 10u;
const LANES: u32 = 8u;
const QUERIES: u32 = 4u;
const CAUSAL: bool = false;

const LOG2_E: f32 = 1.4426950408889634;
const HIDDEN: f32 = -3.4028234e38;
const LOWEST: f32 = -1e38; // below any score, and so far above HIDDEN that 2^(HIDDEN - LOWEST) is 0

struct Params {
    queries: u32, // T
    keys: u32,    // S
    heads: u32,
    q_stride: u32,
    k_stride: u32,
    v_stride: u32,
    k_offset: u32,
    v_offset: u32,
    group: u32, // heads that share a head of keys and values
    bias_image: u32, bias_head: u32, bias_query: u32, bias_key: u32,
    mask_image: u32,
    scale: f32,
    first_workgroup_y: u32,
}

@group(0) @binding(0) var<storage, read> q: array<q_vec4>;
@group(0) @binding(1) var<storage, read> k: array<k_vec4>;
@group(0) @binding(2) var<storage, read> v: array<v_vec4>;
@group(0) @binding(3) var<storage, read> bias: array<bias_vec4>;
@group(0) @binding(4) var<storage, read> mask: array<mask_vec4>;
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
    let head = workgroup.x;
    let blocks = (p.queries + LANES * QUERIES - 1u) / (LANES * QUERIES);
    let image = (workgroup.y + p.first_workgroup_y) / blocks;
    let first_query = (workgroup.y + p.first_workgroup_y) % blocks * (LANES * QUERIES);
    // Everything below counts vectors of four elements.
    let k_base = image * p.keys * (p.k_stride / 4u) + p.k_offset / 4u + head / p.group * HEAD_VECTORS;
    let v_base = image * p.keys * (p.v_stride / 4u) + p.v_offset / 4u + head / p.group * HEAD_VECTORS;

    var queries: array<array<vec4<f32>, HEAD_VECTORS>, QUERIES>;
    var o: array<array<vec4<f32>, HEAD_VECTORS>, QUERIES>;
    var m: array<f32, QUERIES>; // the largest score
    var l: array<f32, QUERIES>; // the sum of the weights
    //!unroll
    for (var i = 0u; i < QUERIES; i++) {
        let query = min(first_query + i * LANES + lane, p.queries - 1u); // past the end: computed, not stored
        let row = (image * p.queries + query) * (p.q_stride / 4u) + head * HEAD_VECTORS;
        //!unroll
        for (var e = 0u; e < HEAD_VECTORS; e++) {
            queries[i][e] = p.scale * LOG2_E * decode_q(q[row + e]);
            o[i][e] = vec4<f32>(0.0);
        }
        m[i] = LOWEST;
        l[i] = 0.0;
    }

    let seen = select(p.keys, min(p.keys, first_query + LANES * QUERIES), CAUSAL);
    for (var first_key = 0u; first_key < seen; first_key += LANES) {
        let row = min(first_key + lane, p.keys - 1u); // of the key and value that this lane loads

        // 1. Scores of every query against LANES keys.
        var s: array<array<f32, LANES>, QUERIES>;
        //!unroll
        for (var i = 0u; i < QUERIES; i++) {
            //!unroll
            for (var j = 0u; j < LANES; j++) { s[i][j] = 0.0; }
        }
        //!unroll
        for (var e = 0u; e < HEAD_VECTORS; e++) {
            let loaded = decode_k(k[k_base + row * (p.k_stride / 4u) + e]);
            //!unroll
            for (var j = 0u; j < LANES; j++) {
                let key = broadcast(loaded, j);
                //!unroll
                for (var i = 0u; i < QUERIES; i++) { s[i][j] += dot(queries[i][e], key); }
            }
        }
        if (HAS_BIAS || HAS_MASK) {
            //!unroll
            for (var i = 0u; i < QUERIES; i++) {
                let query = min(first_query + i * LANES + lane, p.queries - 1u);
                //!unroll
                for (var j = 0u; j < LANES; j++) {
                    let at = min(first_key + j, p.keys - 1u);
                    if (HAS_BIAS) { s[i][j] += LOG2_E * bias_at(image, head, query, at); }
                    if (HAS_MASK) { s[i][j] = select(s[i][j], HIDDEN, is_hidden(image, at)); }
                }
            }
        }
        if (CAUSAL || first_key + LANES > p.keys) {
            //!unroll
            for (var i = 0u; i < QUERIES; i++) {
                let end = select(p.keys, min(p.keys, first_query + i * LANES + lane + 1u), CAUSAL);
                //!unroll
                for (var j = 0u; j < LANES; j++) { s[i][j] = select(HIDDEN, s[i][j], first_key + j < end); }
            }
        }

        // 2. Weights 2^(score - m). Sums made with a smaller m are scaled down to match.
        var shrink: array<f32, QUERIES>;
        //!unroll
        for (var i = 0u; i < QUERIES; i++) {
            var largest = m[i];
            //!unroll
            for (var j = 0u; j < LANES; j++) { largest = max(largest, s[i][j]); }
            shrink[i] = exp2(m[i] - largest);
            m[i] = largest;
            l[i] *= shrink[i];
            //!unroll
            for (var j = 0u; j < LANES; j++) {
                s[i][j] = exp2(s[i][j] - largest);
                l[i] += s[i][j];
            }
        }

        // 3. Weighted sums of the values.
        //!unroll
        for (var e = 0u; e < HEAD_VECTORS; e++) {
            let loaded = decode_v(v[v_base + row * (p.v_stride / 4u) + e]);
            //!unroll
            for (var i = 0u; i < QUERIES; i++) { o[i][e] *= shrink[i]; }
            //!unroll
            for (var j = 0u; j < LANES; j++) {
                let value = broadcast(loaded, j);
                //!unroll
                for (var i = 0u; i < QUERIES; i++) { o[i][e] += s[i][j] * value; }
            }
        }
    }

    //!unroll
    for (var i = 0u; i < QUERIES; i++) {
        let query = first_query + i * LANES + lane;
        if (query < p.queries) {
            let row = ((image * p.queries + query) * p.heads + head) * HEAD_VECTORS;
            //!unroll
            for (var e = 0u; e < HEAD_VECTORS; e++) { y[row + e] = encode_y(o[i][e] / max(l[i], 1e-30)); }
        }
    }
}
