// attention, naive: y[n, t, h, d] = sum_s softmax_s(scale * q[n, t, h, .] . k[n, s, g, .] + bias[n, h, t, s]) *
// v[n, s, g, d], with g = h / group
//
//   q         [N, T] rows of q_stride elements; the query is the first heads * head_dim of each; f32 or f16
//   k         [N, S] rows of k_stride elements; the key begins at k_offset
//   v         [N, S] rows of v_stride elements; the value begins at v_offset (q, k and v may be one tensor)
//   bias      any shape that broadcasts to [N, heads, T, S]; f32 or f16; if HAS_BIAS (include/attention_bias.wgsl)
//   mask      [N or 1, S]  f32 or f16, 0 for keys that no query sees; if HAS_MASK; a query that sees no key gets zeros
//   y         [N, T, heads, head_dim]   f32 or f16
// dispatch:   one invocation for four consecutive elements of y, which may lie in several heads
// requires:   nothing: any head_dim, any number of queries and keys
// constants:  CAUSAL: query t sees only keys s <= t; fixed: LOWEST
// error:      1e-5 relative L2 in f32 for up to 10 000 keys
// source:     Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1
//!include flat_index
//!include attention_bias
//!storage q
//!storage k
//!storage v
//!storage bias
//!storage mask
//!storage y

const CAUSAL: bool = false;
const LOWEST: f32 = -1e38; // below any score, so that e^(LOWEST - score) is 0

struct Params {
    elements: u32, // of y
    queries: u32,  // T
    keys: u32,     // S
    heads: u32,
    head_dim: u32,
    q_stride: u32,
    k_stride: u32,
    v_stride: u32,
    k_offset: u32,
    v_offset: u32,
    group: u32,    // heads that share a head of keys and values
    bias_image: u32, bias_head: u32, bias_query: u32, bias_key: u32,
    mask_image: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<q_vec4>;
@group(0) @binding(1) var<storage, read> k: array<k_vec4>;
@group(0) @binding(2) var<storage, read> v: array<v_vec4>;
@group(0) @binding(3) var<storage, read> bias: array<bias_vec4>;
@group(0) @binding(4) var<storage, read> mask: array<mask_vec4>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

// scale * (the query at element q_first) . (the key at element k_first)
fn score(q_first: u32, k_first: u32) -> f32 {
    var sum = 0.0;
    for (var d = 0u; d < p.head_dim; d++) {
        let qi = q_first + d;
        let ki = k_first + d;
        sum += decode_q(q[qi / 4u])[qi % 4u] * decode_k(k[ki / 4u])[ki % 4u];
    }
    return p.scale * sum;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }

    var result = vec4<f32>(0.0);
    var lane = 0u;
    while (lane < 4u && 4u * i + lane < p.elements) {
        // Lanes lane .. end hold consecutive channels of one head.
        let element = 4u * i + lane; // [n, t, h, d]
        let channel = element % p.head_dim;
        let head = element / p.head_dim % p.heads;
        let row = element / (p.head_dim * p.heads); // [n, t]
        let end = min(4u, lane + p.head_dim - channel);
        let seen = select(p.keys, row % p.queries + 1u, CAUSAL);

        let q_first = row * p.q_stride + head * p.head_dim;
        let first_row = row / p.queries * p.keys; // of this image's keys and values
        let k_first = first_row * p.k_stride + p.k_offset + head / p.group * p.head_dim;
        let v_first = first_row * p.v_stride + p.v_offset + head / p.group * p.head_dim + channel;
        let image = row / p.queries;

        // First pass: the largest score m, and l = sum_s e^(score_s - m). Whenever m grows, the sum so far is
        // multiplied by e^(old - new).
        var m = LOWEST;
        var l = 0.0;
        for (var s = 0u; s < seen; s++) {
            if (HAS_MASK) { if (is_hidden(image, s)) { continue; } }
            var next = score(q_first, k_first + s * p.k_stride);
            if (HAS_BIAS) { next += bias_at(image, head, row % p.queries, s); }
            let larger = max(m, next);
            l = l * exp(m - larger) + exp(next - larger);
            m = larger;
        }

        // Second pass: the weighted mean of the values.
        for (var s = 0u; s < seen; s++) {
            if (HAS_MASK) { if (is_hidden(image, s)) { continue; } }
            var next = score(q_first, k_first + s * p.k_stride);
            if (HAS_BIAS) { next += bias_at(image, head, row % p.queries, s); }
            let weight = exp(next - m) / max(l, 1e-30);
            for (var j = lane; j < end; j++) {
                let vi = v_first + s * p.v_stride + j - lane;
                result[j] += weight * decode_v(v[vi / 4u])[vi % 4u];
            }
        }
        lane = end;
    }
    y[i] = encode_y(result);
}
