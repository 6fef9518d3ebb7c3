// attention, flash: y[n, t, h, .] = sum_s softmax_s(scale * q[n, t, h, .] . k[n, s, g, .] + bias) * v[n, s, g, .] with
// g = h / group, scores never stored
//
//   q, k, v, bias, mask, y   see include/attention.wgsl; f32 or f16; a query that sees no key gets zeros
// dispatch:   one workgroup for one head of BLOCK_Q queries; x = heads, y = [n, block of queries]
// requires:   head_dim % 4 == 0, at most 512; LANES_X * LANES_Y <= 256 invocations; up to 16 KiB of workgroup memory
// constants:  HEAD_VECTORS; LANES_X, LANES_Y: the workgroup; KEY_QUADS: keys of an invocation, in fours; DEPTH divides
//             HEAD_VECTORS; V_ROWS divides 4 * LANES_X; UNROLL divides V_ROWS; QUADS = HEAD_VECTORS / LANES_X, rounded
//             up; MEMORY >= 4 * DEPTH * (KEY_QUADS * LANES_X + LANES_Y) and WEIGHTS + V_ROWS * V_STRIDE; CAUSAL;
//             derived: INVOCATIONS, BLOCK_Q, KEY_ROW, BLOCK_K, K_STAGE, WEIGHTS, V_STRIDE
// error:      1e-5 relative L2 in f32 for up to 10 000 keys; times the largest |score| / 10 where that exceeds 10
// faster:     than naive: both products run on tiles in workgroup memory, up to 32 products for three vectors read
// source:     Dao et al. 2022, "FlashAttention", algorithm 1; Milakov and Gimelshein 2018, "Online normalizer
//             calculation for softmax"
//
// An invocation owns four queries (4 ty .. 4 ty + 3 of the block) throughout. For each block of keys it computes
//   1. their scores against KEY_QUADS times four keys (4 tx .., 4 (LANES_X + tx) ..) as a sum of outer products,
//   2. their largest scores so far, m, and the weights e^(score - m), scaling down sums made with a smaller m,
//   3. the weighted sums of QUADS vectors of the values (tx, tx + LANES_X, ..), for four keys of each at a time.
//!include attention

const LANES_X: u32 = 8u;
const LANES_Y: u32 = 16u;
const KEY_QUADS: u32 = 2u;
const DEPTH: u32 = 8u;   // vectors of the head in workgroup memory at a time, in step 1
const V_ROWS: u32 = 16u; // rows of the values in workgroup memory at a time, in step 3
const UNROLL: u32 = 4u;  // of them written out
const QUADS: u32 = 2u;
const MEMORY: u32 = 896u;
const INVOCATIONS: u32 = LANES_X * LANES_Y;
const BLOCK_Q: u32 = 4u * LANES_Y;
const KEY_ROW: u32 = KEY_QUADS * LANES_X; // keys of a block, in fours
const BLOCK_K: u32 = 4u * KEY_ROW;
const K_STAGE: u32 = 4u * DEPTH * LANES_Y; // where the keys begin in `memory`
const WEIGHTS: u32 = 4u * LANES_X * LANES_Y;
const V_STRIDE: u32 = QUADS * LANES_X;

// In step 1 queries [d][ty] and keys [d][KEY_ROW]; in step 3 weights [key][ty], from WEIGHTS on values [row][V_STRIDE].
var<workgroup> memory: array<vec4<f32>, MEMORY>;
var<workgroup> shared_rows: array<vec4<f32>, INVOCATIONS>; // [tx][ty]: what each tx contributes to four queries

// Stores four rows of one vector as the four columns d .. d + 3 of a tile that is `width` vectors wide.
fn store_transposed(at: u32, width: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    memory[at] = vec4<f32>(a.x, b.x, c.x, d.x);
    memory[at + width] = vec4<f32>(a.y, b.y, c.y, d.y);
    memory[at + 2u * width] = vec4<f32>(a.z, b.z, c.z, d.z);
    memory[at + 3u * width] = vec4<f32>(a.w, b.w, c.w, d.w);
}

// Where `row` and the three rows after it begin; past the end the last one again.
fn rows(row: u32, count: u32, stride: u32) -> vec4<u32> {
    return min(row * stride + stride * vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>((count - 1u) * stride));
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
        // 1. Scores: s[i] holds those of query 4 ty + i.
        var s: array<array<vec4<f32>, KEY_QUADS>, 4>;
        //!unroll
        for (var i = 0u; i < 4u * KEY_QUADS; i++) { s[i / KEY_QUADS][i % KEY_QUADS] = vec4<f32>(0.0); }
        for (var depth = 0u; depth < HEAD_VECTORS; depth += DEPTH) {
            for (var j = local; j < DEPTH * LANES_Y; j += INVOCATIONS) {
                // Queries past the end are computed, but not stored.
                let at = rows(first_query + 4u * (j % LANES_Y), p.queries, p.q_stride / 4u)
                    + (q_base + depth + j / LANES_Y);
                let d = 4u * (j / LANES_Y);
                store_transposed(d * LANES_Y + j % LANES_Y, LANES_Y, factor * decode_q(q[at.x]),
                    factor * decode_q(q[at.y]), factor * decode_q(q[at.z]), factor * decode_q(q[at.w]));
            }
            for (var j = local; j < DEPTH * KEY_ROW; j += INVOCATIONS) {
                let at = rows(first_key + 4u * (j % KEY_ROW), p.keys, p.k_stride / 4u)
                    + (k_base + depth + j / KEY_ROW);
                let d = 4u * (j / KEY_ROW);
                store_transposed(K_STAGE + d * KEY_ROW + j % KEY_ROW, KEY_ROW, decode_k(k[at.x]), decode_k(k[at.y]),
                    decode_k(k[at.z]), decode_k(k[at.w]));
            }
            workgroupBarrier();
            for (var vector = 0u; vector < DEPTH; vector++) {
                let q_at = 4u * vector * LANES_Y + ty;
                let k_at = K_STAGE + 4u * vector * KEY_ROW + tx;
                //!unroll
                for (var d = 0u; d < 4u; d++) {
                    let queries = memory[q_at + d * LANES_Y];
                    //!unroll
                    for (var h = 0u; h < KEY_QUADS; h++) {
                        let keys = memory[k_at + d * KEY_ROW + h * LANES_X];
                        //!unroll
                        for (var i = 0u; i < 4u; i++) { s[i][h] += queries[i] * keys; }
                    }
                }
            }
            workgroupBarrier();
        }

        // 2. Weights.
        var largest = m;
        //!unroll
        for (var h = 0u; h < KEY_QUADS; h++) {
            let quad = first_key + 4u * (h * LANES_X + tx);
            let key = quad + vec4<u32>(0u, 1u, 2u, 3u);
            //!unroll
            for (var i = 0u; i < 4u; i++) {
                let query = first_query + 4u * ty + i;
                //!unroll
                for (var j = 0u; j < 4u; j++) {
                    let at = min(quad + j, p.keys - 1u);
                    if (HAS_BIAS) { s[i][h][j] += LOG2_E * bias_at(image, head, min(query, p.queries - 1u), at); }
                    if (HAS_MASK) { s[i][h][j] = select(s[i][h][j], HIDDEN, is_hidden(image, at)); }
                }
                if (CAUSAL || first_key + BLOCK_K > p.keys) {
                    let end = select(p.keys, min(p.keys, query + 1u), CAUSAL);
                    s[i][h] = select(vec4<f32>(HIDDEN), s[i][h], key < vec4<u32>(end));
                }
                largest[i] = max(largest[i], max(max(s[i][h].x, s[i][h].y), max(s[i][h].z, s[i][h].w)));
            }
        }
        shared_rows[local] = largest;
        workgroupBarrier();
        for (var x = 0u; x < LANES_X; x++) { largest = max(largest, shared_rows[x * LANES_Y + ty]); }
        let shrink = exp2(m - largest);
        m = largest;
        l *= shrink;
        //!unroll
        for (var i = 0u; i < 4u; i++) {
            //!unroll
            for (var h = 0u; h < KEY_QUADS; h++) {
                s[i][h] = exp2(s[i][h] - largest[i]);
                l[i] += s[i][h].x + s[i][h].y + s[i][h].z + s[i][h].w;
            }
            //!unroll
            for (var c = 0u; c < QUADS; c++) { o[i][c] *= shrink[i]; }
        }

        // 3. Weighted sums of the values. The weights of keys past the end are 0.
        //!unroll
        for (var h = 0u; h < KEY_QUADS; h++) {
            //!unroll
            for (var j = 0u; j < 4u; j++) {
                memory[(4u * tx + j) * LANES_Y + ty] = vec4<f32>(s[0][h][j], s[1][h][j], s[2][h][j], s[3][h][j]);
            }
            for (var first_row = 0u; first_row < 4u * LANES_X; first_row += V_ROWS) {
                let first = first_key + 4u * LANES_X * h + first_row;
                for (var j = local; j < V_ROWS * HEAD_VECTORS; j += INVOCATIONS) {
                    let row = j / HEAD_VECTORS;
                    let vector = j % HEAD_VECTORS;
                    let at = min(first + row, p.keys - 1u) * (p.v_stride / 4u) + vector;
                    memory[WEIGHTS + row * V_STRIDE + vector] = decode_v(v[v_base + at]);
                }
                workgroupBarrier();
                for (var row = 0u; row < V_ROWS; row += UNROLL) {
                    let weight_at = (first_row + row) * LANES_Y + ty;
                    let v_at = WEIGHTS + row * V_STRIDE + tx;
                    //!unroll
                    for (var u = 0u; u < UNROLL; u++) {
                        let weight = memory[weight_at + u * LANES_Y];
                        //!unroll
                        for (var c = 0u; c < QUADS; c++) {
                            let value = memory[v_at + u * V_STRIDE + c * LANES_X];
                            //!unroll
                            for (var i = 0u; i < 4u; i++) { o[i][c] += weight[i] * value; }
                        }
                    }
                }
                workgroupBarrier();
            }
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
