// attention, matrix: y[n, t, h, .] = sum_s softmax_s(scale * q[n, t, h, .] . k[n, s, g, .] + bias) * v[n, s, g, .] with
// g = h / group, scores never stored, both products by the device's matrix units
//
//   q, k, v     f16; see include/attention.wgsl
//   bias, mask, y   f32 or f16; likewise; a query that sees no key gets zeros
// dispatch:   one workgroup for one head of QUERIES queries; x = heads, y = [n, block of queries]
// requires:   head_dim % 4 == 0, at most 160; arithmetic in f16; subgroups of SUBGROUP invocations that follow each
//             other, their shuffles, and their product of MATRIX by MATRIX matrices of f16 with sums in f32; more
//             workgroup memory and invocations than WebGPU promises in most settings
// constants:  HEAD_VECTORS; MATRIX = 8 or 16; SUBGROUP: a multiple of MATRIX; QUERIES, KEYS: of a block, multiples of
//             2 MATRIX; DEPTH = 4 * HEAD_VECTORS / MATRIX, UNITS = KEYS * HEAD / 4 / INVOCATIONS, both rounded up;
//             CAUSAL; derived: INVOCATIONS, HEAD, BLOCKS, PER_ROW, EACH, STAGE_ROW, SCORE_ROW, WEIGHT_ROW; fixed:
//             GROWTH, LIFT
// error:      1e-5 relative L2 in f32 for up to 10 000 keys; times the largest |score| / 10 where that exceeds 10
// faster:     than flash by 2.5 with heads of 40 channels and 4096 keys, by 3.4 with 80 and 1024, on an H100
//             (2026-11-26, benches/results/h100.md), for one and a half times as many multiply-adds
// source:     Dao 2023, "FlashAttention-2", algorithm 1; Markidis et al. 2018, "NVIDIA Tensor Core Programmability,
//             Performance & Precision", section V (numbers as sums of two of f16)
//
// Each subgroup has MATRIX queries throughout. They stay in matrices, and so do the sums of their values. For each
// block of keys it computes
//   1. scores, as matrices, to workgroup memory: no invocation knows which elements of a matrix it has,
//   2. weights 2^(score - m) as sums of two numbers of f16, high and low, which keep 22 of its 24 bits. m follows the
//      largest score only where that is GROWTH above it: only then are the sums scaled down, through workgroup memory
//      too. The factor 2^LIFT keeps small weights above the least number of f16,
//   3. the weighted sums of the values, as matrices.
enable f16;
enable wgpu_cooperative_matrix;
//!include attention

const MATRIX: u32 = 16u;
const SUBGROUP: u32 = 32u;
const QUERIES: u32 = 64u;
const KEYS: u32 = 32u;
const DEPTH: u32 = 4u; // matrices across a head, the last one ending in zeros
const UNITS: u32 = 4u; // vectors of a block of keys or values that an invocation loads

const INVOCATIONS: u32 = QUERIES / MATRIX * SUBGROUP;
const HEAD: u32 = DEPTH * MATRIX;
const BLOCKS: u32 = KEYS / MATRIX;
const PER_ROW: u32 = SUBGROUP / MATRIX; // invocations that share the row of a query
const EACH: u32 = KEYS / PER_ROW;       // scores that each of them has
// Rows in workgroup memory, which 16 bytes set apart, or all would begin in the same bank.
const STAGE_ROW: u32 = HEAD + 8u;
const SCORE_ROW: u32 = KEYS + 4u;
const WEIGHT_ROW: u32 = KEYS + 8u;
const GROWTH: f32 = 7.0;
const LIFT: f32 = 8.0;     // 2^(GROWTH + LIFT) is still a number of f16

var<workgroup> grown: u32; // whether any m has changed

//!include matrix_{MATRIX}
//!include matrix_attention_{MATRIX}
//!include next_block

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = workgroup.x;
    let blocks = (p.queries + QUERIES - 1u) / QUERIES;
    let image = (workgroup.y + p.first_workgroup_y) / blocks;
    let first_query = (workgroup.y + p.first_workgroup_y) % blocks * QUERIES;
    let q_base = first_of_q(image, head);
    let k_base = first_of_k(image, head);
    let v_base = first_of_v(image, head);
    let own = local / SUBGROUP * MATRIX; // this subgroup's first query of the block
    let row = local / PER_ROW;           // the query whose row this invocation shares
    let part = local % PER_ROW;
    let query = first_query + row;
    let factor = p.scale * LOG2_E; // 2^x is what hardware computes

    for (var j = local; j < QUERIES * HEAD / 4u; j += INVOCATIONS) {
        let at = place(j);
        let index = min(first_query + at.x, p.queries - 1u) * (p.q_stride / 4u) + min(at.y, HEAD_VECTORS - 1u);
        put(at, fetch_q(q_base + index)); // queries past the end are computed, but not stored
    }
    workgroupBarrier();
    var queries: array<matrix_a, DEPTH>;
    //!unroll
    for (var d = 0u; d < DEPTH; d++) { queries[d] = load_queries(own * STAGE_ROW + d * MATRIX); }
    workgroupBarrier();

    var sums: array<matrix_c, DEPTH>;
    var m = LOWEST;
    var l = 0.0; // the sum of the weights of this invocation's keys
    fetch_block(0u, k_base, p.k_stride / 4u, false, local);
    let seen = select(p.keys, min(p.keys, first_query + QUERIES), CAUSAL);
    for (var first_key = 0u; first_key < seen; first_key += KEYS) {
        // 1. Scores.
        put_block(local);
        if (local == 0u) { grown = 0u; }
        workgroupBarrier();
        fetch_block(first_key, v_base, p.v_stride / 4u, true, local);
        for (var b = 0u; b < BLOCKS; b++) {
            var s = matrix_c();
            //!unroll
            for (var d = 0u; d < DEPTH; d++) {
                s = multiply_add(queries[d], load_keys(b * MATRIX * STAGE_ROW + d * MATRIX), s);
            }
            store_scores(own * SCORE_ROW + b * MATRIX, s);
        }
        workgroupBarrier();

        // 2. Weights.
        var s: array<vec4<f32>, EACH / 4u>;
        var largest = LOWEST;
        let end = select(p.keys, min(p.keys, query + 1u), CAUSAL);
        //!unroll
        for (var e = 0u; e < EACH / 4u; e++) {
            let first = part * EACH + 4u * e;
            s[e] = factor * get_scores(row * SCORE_ROW + first);
            //!unroll
            for (var i = 0u; i < 4u; i++) {
                let key = first_key + first + i;
                let at = min(key, p.keys - 1u);
                if (HAS_BIAS) { s[e][i] += LOG2_E * bias_at(image, head, min(query, p.queries - 1u), at); }
                if (HAS_MASK) { s[e][i] = select(s[e][i], HIDDEN, is_hidden(image, at)); }
                s[e][i] = select(HIDDEN, s[e][i], key < end);
                largest = max(largest, s[e][i]);
            }
        }
        for (var step = 1u; step < PER_ROW; step *= 2u) { largest = max(largest, subgroupShuffleXor(largest, step)); }
        let before = m;
        if (largest > m + GROWTH) {
            m = largest;
            grown = 1u;
        }
        let shrink = exp2(before - m);
        l *= shrink;
        //!unroll
        for (var e = 0u; e < EACH / 4u; e++) {
            let weight = exp2(s[e] - m + LIFT);
            // The first eleven bits, cut off as bits: compilers think that a conversion there and back does nothing.
            let high = bitcast<vec4<f32>>(bitcast<vec4<u32>>(weight) & vec4<u32>(0xffffe000u));
            l += dot(weight, vec4<f32>(1.0));
            put_weights(row * WEIGHT_ROW + part * EACH + 4u * e, vec4<f16>(high), vec4<f16>(weight - high));
        }

        // 3. Weighted sums of the values. The weights of keys past the end are 0.
        put_block(local);
        fetch_block(first_key + KEYS, k_base, p.k_stride / 4u, false, local);
        if (workgroupUniformLoad(&grown) != 0u) { // which is a barrier, too
            //!unroll
            for (var d = 0u; d < DEPTH; d++) {
                // In two places by turns, so that one is not written while it is still read.
                let column = d % 2u * MATRIX;
                store_sums(own * SCORE_ROW + column, sums[d]);
                workgroupBarrier();
                for (var i = part; i < MATRIX / 4u; i += PER_ROW) {
                    scale_scores(row * SCORE_ROW + column + 4u * i, shrink);
                }
                workgroupBarrier();
                sums[d] = load_sums(own * SCORE_ROW + column);
            }
        }
        for (var b = 0u; b < BLOCKS; b++) {
            let high = load_high(own * WEIGHT_ROW + b * MATRIX);
            let low = load_low(own * WEIGHT_ROW + b * MATRIX);
            //!unroll
            for (var d = 0u; d < DEPTH; d++) {
                let values = load_values(b * MATRIX * STAGE_ROW + d * MATRIX);
                sums[d] = multiply_add(values, low, sums[d]);
                sums[d] = multiply_add(values, high, sums[d]);
            }
        }
        workgroupBarrier();
    }

    for (var step = 1u; step < PER_ROW; step *= 2u) { l += subgroupShuffleXor(l, step); }
    let total = max(l, 1e-30); // a query that sees no key gets zeros
    //!unroll
    for (var d = 0u; d < DEPTH; d++) {
        store_sums(own * SCORE_ROW, sums[d]);
        workgroupBarrier();
        for (var i = part; i < MATRIX / 4u; i += PER_ROW) {
            let vector = d * (MATRIX / 4u) + i;
            let sum = get_scores(row * SCORE_ROW + 4u * i);
            if (query < p.queries && vector < HEAD_VECTORS) {
                y[first_of_y(image, head, query) + vector] = encode_y(sum / total);
            }
        }
        workgroupBarrier();
    }
}
