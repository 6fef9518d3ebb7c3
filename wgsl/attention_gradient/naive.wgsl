// attention_gradient, naive: with w = e^(scale * q_t . k_s - L_t) and u = scale * w * (dy_t . v_s - D_t):
//   dq_t = sum_s u k_s,  dk_s = sum_t u q_t,  dv_s = sum_t w dy_t
//
//   q           [N, T, heads, head_dim]  f32 or f16
//   k, v        [N, S, heads, head_dim]  f32 or f16
//   dy          as q
//   statistics  [N, T, heads, 2]         f32: L, D (attention_statistics)
//   y           as q, k or v             f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in several heads
// requires:   nothing: any head_dim
// constants:  CAUSAL: query t sees only keys s <= t; OF: 0 for dq, 1 for dk, 2 for dv
// error:      1e-5 relative L2 in f32 for up to 10 000 keys
// source:     Dao et al. 2022, "FlashAttention", algorithm 4
//!include flat_index
//!storage q
//!storage k
//!storage v
//!storage dy
//!storage y

const CAUSAL: bool = false;
const OF: u32 = 0u;

struct Params {
    elements: u32, // of y
    queries: u32,
    keys: u32,
    heads: u32,
    head_dim: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<q_vec4>;
@group(0) @binding(1) var<storage, read> k: array<k_vec4>;
@group(0) @binding(2) var<storage, read> v: array<v_vec4>;
@group(0) @binding(3) var<storage, read> dy: array<dy_vec4>;
@group(0) @binding(4) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

// Row of q or of k: [n, position, head], as a row of `head_dim` elements.
fn row_of(image: u32, position: u32, head: u32, positions: u32) -> u32 {
    return (image * positions + position) * p.heads + head;
}

// u for dq and dk, w for dv, of a query's row and a key's row.
fn weight(query: u32, key: u32) -> f32 {
    var score = 0.0;
    var product = 0.0;
    for (var d = 0u; d < p.head_dim; d++) {
        let qi = query * p.head_dim + d;
        let ki = key * p.head_dim + d;
        score += decode_q(q[qi / 4u])[qi % 4u] * decode_k(k[ki / 4u])[ki % 4u];
        product += decode_dy(dy[qi / 4u])[qi % 4u] * decode_v(v[ki / 4u])[ki % 4u];
    }
    let s = statistics[query];
    let w = exp(p.scale * score - s.x);
    return select(p.scale * w * (product - s.y), w, OF == 2u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }
    let own = select(p.keys, p.queries, OF == 0u);
    let other = select(p.queries, p.keys, OF == 0u);
    var result = vec4<f32>(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        let element = 4u * i + lane; // [n, position, head, d]
        if (element >= p.elements) { break; }
        let d = element % p.head_dim;
        let row = element / p.head_dim;
        let head = row % p.heads;
        let position = row / p.heads % own;
        let image = row / (p.heads * own);
        // A query sees the keys up to its own; a key is seen by the queries from its own on.
        let first = select(0u, position, CAUSAL && OF != 0u);
        let end = select(other, position + 1u, CAUSAL && OF == 0u);
        var sum = 0.0;
        for (var o = first; o < end; o++) {
            let across = row_of(image, o, head, other);
            let at = across * p.head_dim + d;
            if (OF == 0u) {
                sum += weight(row, across) * decode_k(k[at / 4u])[at % 4u];
            } else if (OF == 1u) {
                sum += weight(across, row) * decode_q(q[at / 4u])[at % 4u];
            } else {
                sum += weight(across, row) * decode_dy(dy[at / 4u])[at % 4u];
            }
        }
        result[lane] = sum;
    }
    y[i] = encode_y(result);
}
