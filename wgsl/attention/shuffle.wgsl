// attention, shuffle, for CPU drivers: y[n, t, h, .] = sum_s softmax_s(scale * q[n, t, h, .] . k[n, s, g, .] + bias) *
// v[n, s, g, .] with g = h / group
//
//   q, k, v, bias, mask, y   see include/attention.wgsl; f32 or f16; a query that sees no key gets zeros
// dispatch:   one workgroup, which is one subgroup, for one head of LANES * QUERIES queries; x = heads, y = [n, block
//             of queries]
// requires:   head_dim % 4 == 0, head_dim <= 160; subgroups of exactly LANES invocations
// constants:  HEAD_VECTORS; LANES; QUERIES: those of one invocation; CAUSAL
// error:      1e-5 relative L2 in f32 for up to 10 000 keys; times the largest |score| / 10 where that exceeds 10
// faster:     than flash where loads are emulated lane by lane and barriers are expensive: each lane loads one key (or
//             value) and the others get it by subgroupShuffle, which is a register move
// source:     Dao et al. 2022, "FlashAttention", algorithm 1; Milakov and Gimelshein 2018, "Online normalizer
//             calculation for softmax"
//!include attention

const LANES: u32 = 8u;
const QUERIES: u32 = 4u;

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
    let k_base = first_of_k(image, head);
    let v_base = first_of_v(image, head);

    var queries: array<array<vec4<f32>, HEAD_VECTORS>, QUERIES>;
    var o: array<array<vec4<f32>, HEAD_VECTORS>, QUERIES>;
    var m: array<f32, QUERIES>; // the largest score
    var l: array<f32, QUERIES>; // the sum of the weights
    //!unroll
    for (var i = 0u; i < QUERIES; i++) {
        let query = min(first_query + i * LANES + lane, p.queries - 1u); // past the end: computed, not stored
        let row = first_of_q(image, head) + query * (p.q_stride / 4u);
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
            let row = first_of_y(image, head, query);
            //!unroll
            for (var e = 0u; e < HEAD_VECTORS; e++) { y[row + e] = encode_y(o[i][e] / max(l[i], 1e-30)); }
        }
    }
}
