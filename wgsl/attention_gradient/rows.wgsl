// attention_gradient, rows: with w = e^(scale * q_t . k_s - L_t) and u = scale * w * (dy_t . v_s - D_t):
//   dq_t = sum_s u k_s,  dk_s = sum_t u q_t,  dv_s = sum_t w dy_t
//
//   q           [N, T, heads, head_dim]  f32 or f16
//   k, v        [N, S, heads, head_dim]  f32 or f16
//   dy          as q
//   statistics  [N, T, heads, 2]         f32: L, D (attention_statistics)
//   y           as q, k or v             f32 or f16; or parts of its sums, [parts, ..], f32
// dispatch:   one invocation for a row of one head of y, or of each of its parts
// requires:   head_dim = 4 * HEAD_VECTORS, at most 128
// constants:  CAUSAL: query t sees only keys s <= t; OF: 0 for dq, 1 for dk, 2 for dv; HEAD_VECTORS
// error:      1e-5 relative L2 in f32 for up to 10 000 keys
// faster:     than naive everywhere: a weight is computed once for a row, not once for each of its elements; whole
//             vectors (4 * head_dim multiply-adds for each weight in place of 2 * head_dim^2)
// source:     Dao et al. 2022, "FlashAttention", algorithm 4
//!include flat_index
//!storage q
//!storage k
//!storage v
//!storage dy
//!storage y

const CAUSAL: bool = false;
const OF: u32 = 0u;
const HEAD_VECTORS: u32 = 8u;

struct Params {
    rows: u32,   // of q or k, whose gradient it is: images * positions * heads
    parts: u32,
    length: u32, // positions of the other that a part sums over
    queries: u32,
    keys: u32,
    heads: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<q_vec4>;
@group(0) @binding(1) var<storage, read> k: array<k_vec4>;
@group(0) @binding(2) var<storage, read> v: array<v_vec4>;
@group(0) @binding(3) var<storage, read> dy: array<dy_vec4>;
@group(0) @binding(4) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u); // [part, n, position, head]
    if (i >= p.parts * p.rows) { return; }
    let row = i % p.rows;
    let own = select(p.keys, p.queries, OF == 0u);
    let other = select(p.queries, p.keys, OF == 0u);
    let head = row % p.heads;
    let position = row / p.heads % own;
    let image = row / (p.heads * own);

    // What this row brings to the scores, and to dy . v; dv needs no second one.
    var of_score: array<vec4<f32>, HEAD_VECTORS>;
    var of_product: array<vec4<f32>, HEAD_VECTORS>;
    var sum: array<vec4<f32>, HEAD_VECTORS>;
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
    let begin = i / p.rows * p.length;
    let first = max(begin, select(0u, position, CAUSAL && OF != 0u));
    let end = min(begin + p.length, select(other, position + 1u, CAUSAL && OF == 0u));
    for (var o = first; o < end; o++) {
        let across = (image * other + o) * p.heads + head;
        var score = vec4<f32>(0.0);
        var product = vec4<f32>(0.0);
        for (var d = 0u; d < HEAD_VECTORS; d++) {
            let at = across * HEAD_VECTORS + d;
            if (OF == 0u) {
                score += of_score[d] * decode_k(k[at]);
                product += of_product[d] * decode_v(v[at]);
            } else {
                score += of_score[d] * decode_q(q[at]);
                if (OF == 1u) { product += of_product[d] * decode_dy(dy[at]); }
            }
        }
        let ones = vec4<f32>(1.0);
        let s = statistics[select(across, row, OF == 0u)];
        let w = exp(p.scale * dot(score, ones) - s.x);
        let factor = select(p.scale * w * (dot(product, ones) - s.y), w, OF == 2u);
        for (var d = 0u; d < HEAD_VECTORS; d++) {
            let at = across * HEAD_VECTORS + d;
            if (OF == 0u) {
                sum[d] += factor * decode_k(k[at]);
            } else if (OF == 1u) {
                sum[d] += factor * decode_q(q[at]);
            } else {
                sum[d] += factor * decode_dy(dy[at]);
            }
        }
    }
    for (var d = 0u; d < HEAD_VECTORS; d++) { y[i * HEAD_VECTORS + d] = encode_y(sum[d]); }
}
