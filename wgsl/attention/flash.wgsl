// attention, flash: y[n, t, h, .] = sum_s softmax_s(scale * q[n, t, h, .] . k[n, s, g, .] + bias) * v[n, s, g, .] with
// g = h / group, scores never stored
//
//   q, k, v, bias, mask, y   see include/attention.wgsl; f32 or f16; a query that sees no key gets zeros
// dispatch:   one workgroup for one head of BLOCK_Q queries; x = heads, y = [n, block of queries]
// requires:   head_dim % 4 == 0, at most 512; LANES_X * LANES_Y <= 256 invocations; up to 16 KiB of workgroup memory
// constants:  HEAD_VECTORS; LANES_X, LANES_Y: the workgroup; DEPTH divides HEAD_VECTORS; V_ROWS divides BLOCK_K; QUADS
//             = HEAD_VECTORS / LANES_X, rounded up; STAGE >= 4 * DEPTH * (LANES_X + LANES_Y) and V_ROWS * QUADS *
//             LANES_X; CAUSAL; derived: INVOCATIONS, BLOCK_Q, BLOCK_K, K_STAGE,
//             V_STRIDE
// error:      1e-5 relative L2 in f32 for up to 10 000 keys; times the largest |score| / 10 where that exceeds 10
// faster:     than naive: both products run on tiles in workgroup memory, 16 products for every two vectors read, and
//             each score is computed once instead of twice per four channels
// source:     Dao et al. 2022, "FlashAttention", algorithm 1; Milakov and Gimelshein 2018, "Online normalizer
//             calculation for softmax"
//
// An invocation owns four queries (4 ty .. 4 ty + 3 of the block) throughout. For each block of keys it computes
//   1. their scores against four keys (4 tx ..) as a sum of outer products,
//   2. their largest scores so far, m, and the weights e^(score - m), scaling down sums made with a smaller m,
//   3. the weighted sums of QUADS vectors of the values (tx, tx + LANES_X, ..), again by outer products.
//!include attention

const LANES_X: u32 = 8u;
const LANES_Y: u32 = 16u;
const DEPTH: u32 = 4u;   // vectors of the head staged in workgroup memory at a time, in step 1
const V_ROWS: u32 = 16u; // rows of the values staged at a time, in step 3
const QUADS: u32 = 2u;
const STAGE: u32 = 384u;

const INVOCATIONS: u32 = LANES_X * LANES_Y;
const BLOCK_Q: u32 = 4u * LANES_Y;
const BLOCK_K: u32 = 4u * LANES_X;
const K_STAGE: u32 = 4u * DEPTH * LANES_Y; // where the keys begin in `stage`
const V_STRIDE: u32 = QUADS * LANES_X;

var<workgroup> stage: array<vec4<f32>, STAGE>;               // queries [d][ty], keys [d][tx]; or values [row][V_STRIDE]
var<workgroup> weights: array<vec4<f32>, BLOCK_K * LANES_Y>; // [key][ty]: the weights of one key for four queries
var<workgroup> shared_rows: array<vec4<f32>, INVOCATIONS>;   // [tx][ty]: what each tx contributes to four queries

// Stores four rows of one vector as the four columns d .. d + 3 of a tile that is `width` vectors wide.
fn stage_transposed(at: u32, width: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    stage[at] = vec4<f32>(a.x, b.x, c.x, d.x);
    stage[at + width] = vec4<f32>(a.y, b.y, c.y, d.y);
    stage[at + 2u * width] = vec4<f32>(a.z, b.z, c.z, d.z);
    stage[at + 3u * width] = vec4<f32>(a.w, b.w, c.w, d.w);
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let ty = local % LANES_Y;
    let tx = local / LANES_Y;
    let head = workgroup.x;
    let blocks = (p.queries + BLOCK_Q - 1u) / BLOCK_Q;
    let image = (workgroup.y + p.first_workgroup_y) / blocks;
    let first_query = (workgroup.y + p.first_workgroup_y) % blocks * BLOCK_Q;
    let q_base = first_of_q(image, head);
    let k_base = first_of_k(image, head);
    let v_base = first_of_v(image, head);
    let factor = p.scale * LOG2_E; // 2^x is what hardware computes

    var m = vec4<f32>(LOWEST); // the largest score of each of the four queries
    var l = vec4<f32>(0.0);    // the sums of the weights of this invocation's keys
    var o: array<array<vec4<f32>, QUADS>, 4>;
    let seen = select(p.keys, min(p.keys, first_query + BLOCK_Q), CAUSAL);
    for (var first_key = 0u; first_key < seen; first_key += BLOCK_K) {
        // 1. Scores: s[i] holds those of query 4 ty + i against four keys.
        var s: array<vec4<f32>, 4>;
        //!unroll
        for (var i = 0u; i < 4u; i++) { s[i] = vec4<f32>(0.0); }
        for (var depth = 0u; depth < HEAD_VECTORS; depth += DEPTH) {
            for (var j = local; j < DEPTH * LANES_Y; j += INVOCATIONS) {
                let row = first_query + 4u * (j % LANES_Y); // queries past the end are computed, but not stored
                let rows = min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(p.queries - 1u))
                    * (p.q_stride / 4u);
                let at = rows + q_base + depth + j / LANES_Y;
                let d = 4u * (j / LANES_Y);
                stage_transposed(d * LANES_Y + j % LANES_Y, LANES_Y, factor * decode_q(q[at.x]),
                    factor * decode_q(q[at.y]), factor * decode_q(q[at.z]), factor * decode_q(q[at.w]));
            }
            for (var j = local; j < DEPTH * LANES_X; j += INVOCATIONS) {
                let row = first_key + 4u * (j % LANES_X);
                let rows = min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(p.keys - 1u))
                    * (p.k_stride / 4u);
                let at = rows + k_base + depth + j / LANES_X;
                let d = 4u * (j / LANES_X);
                stage_transposed(K_STAGE + d * LANES_X + j % LANES_X, LANES_X, decode_k(k[at.x]), decode_k(k[at.y]),
                    decode_k(k[at.z]), decode_k(k[at.w]));
            }
            workgroupBarrier();
            for (var d = 0u; d < 4u * DEPTH; d++) {
                let queries = stage[d * LANES_Y + ty];
                let keys = stage[K_STAGE + d * LANES_X + tx];
                //!unroll
                for (var i = 0u; i < 4u; i++) { s[i] += queries[i] * keys; }
            }
            workgroupBarrier();
        }

        // 2. Weights.
        let key = first_key + 4u * tx + vec4<u32>(0u, 1u, 2u, 3u);
        var largest: vec4<f32>;
        //!unroll
        for (var i = 0u; i < 4u; i++) {
            let query = min(first_query + 4u * ty + i, p.queries - 1u);
            //!unroll
            for (var j = 0u; j < 4u; j++) {
                let at = min(first_key + 4u * tx + j, p.keys - 1u);
                if (HAS_BIAS) { s[i][j] += LOG2_E * bias_at(image, head, query, at); }
                if (HAS_MASK) { s[i][j] = select(s[i][j], HIDDEN, is_hidden(image, at)); }
            }
            let end = select(p.keys, first_query + 4u * ty + i + 1u, CAUSAL);
            s[i] = select(vec4<f32>(HIDDEN), s[i], key < vec4<u32>(min(end, p.keys)));
            largest[i] = max(max(s[i].x, s[i].y), max(s[i].z, s[i].w));
        }
        shared_rows[local] = largest;
        workgroupBarrier();
        largest = m;
        for (var x = 0u; x < LANES_X; x++) { largest = max(largest, shared_rows[x * LANES_Y + ty]); }
        let shrink = exp2(m - largest);
        m = largest;
        l *= shrink;
        //!unroll
        for (var i = 0u; i < 4u; i++) {
            s[i] = exp2(s[i] - largest[i]);
            l[i] += s[i].x + s[i].y + s[i].z + s[i].w;
            //!unroll
            for (var c = 0u; c < QUADS; c++) { o[i][c] *= shrink[i]; }
        }
        //!unroll
        for (var j = 0u; j < 4u; j++) {
            weights[(4u * tx + j) * LANES_Y + ty] = vec4<f32>(s[0][j], s[1][j], s[2][j], s[3][j]);
        }

        // 3. Weighted sums of the values. The weights of keys past the end are 0.
        for (var first_row = 0u; first_row < BLOCK_K; first_row += V_ROWS) {
            for (var j = local; j < V_ROWS * HEAD_VECTORS; j += INVOCATIONS) {
                let row = j / HEAD_VECTORS;
                let vector = j % HEAD_VECTORS;
                let at = min(first_key + first_row + row, p.keys - 1u) * (p.v_stride / 4u) + vector;
                stage[row * V_STRIDE + vector] = decode_v(v[v_base + at]);
            }
            workgroupBarrier();
            for (var row = 0u; row < V_ROWS; row++) {
                let weight = weights[(first_row + row) * LANES_Y + ty];
                //!unroll
                for (var c = 0u; c < QUADS; c++) {
                    let value = stage[row * V_STRIDE + c * LANES_X + tx];
                    //!unroll
                    for (var i = 0u; i < 4u; i++) { o[i][c] += weight[i] * value; }
                }
            }
            workgroupBarrier();
        }
    }

    shared_rows[local] = l;
    workgroupBarrier();
    var total = vec4<f32>(0.0);
    for (var x = 0u; x < LANES_X; x++) { total += shared_rows[x * LANES_Y + ty]; }
    total = max(total, vec4<f32>(1e-30)); // a query that sees no key gets zeros
    //!unroll
    for (var i = 0u; i < 4u; i++) {
        let query = first_query + 4u * ty + i;
        let row = first_of_y(image, head, query);
        //!unroll
        for (var c = 0u; c < QUADS; c++) {
            let vector = c * LANES_X + tx;
            if (query < p.queries && vector < HEAD_VECTORS) { y[row + vector] = encode_y(o[i][c] / total[i]); }
        }
    }
}
