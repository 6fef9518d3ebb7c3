// What the kernels of attention that keep no scores share: tensors, parameters, bias and mask.
//
//   q, k, v     rows of q_stride, k_stride, v_stride elements, of which heads of head_dim = 4 * HEAD_VECTORS are used,
//               from 0, k_offset and v_offset on; `group` heads of q share one of k and v
//   bias, mask  see include/attention_bias.wgsl
//   y           [N, T, heads, head_dim]
//!include attention_bias
//!storage q
//!storage k
//!storage v
//!storage bias
//!storage mask
//!storage y

const HEAD_VECTORS: u32 = 16u;
const CAUSAL: bool = false; // query t sees only keys s <= t
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
    bias_image: u32,
    bias_head: u32,
    bias_query: u32,
    bias_key: u32,
    mask_image: u32,
    scale: f32,
    first_workgroup_y: u32, // of this launch: long launches are split along y
}

@group(0) @binding(0) var<storage, read> q: array<q_vec4>;
@group(0) @binding(1) var<storage, read> k: array<k_vec4>;
@group(0) @binding(2) var<storage, read> v: array<v_vec4>;
@group(0) @binding(3) var<storage, read> bias: array<bias_vec4>;
@group(0) @binding(4) var<storage, read> mask: array<mask_vec4>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(6) var<uniform> p: Params;

// Where the heads of an image begin, in vectors of four elements.
fn first_of_q(image: u32, head: u32) -> u32 { return image * p.queries * (p.q_stride / 4u) + head * HEAD_VECTORS; }
fn first_of_k(image: u32, head: u32) -> u32 {
    return image * p.keys * (p.k_stride / 4u) + p.k_offset / 4u + head / p.group * HEAD_VECTORS;
}
fn first_of_v(image: u32, head: u32) -> u32 {
    return image * p.keys * (p.v_stride / 4u) + p.v_offset / 4u + head / p.group * HEAD_VECTORS;
}
fn first_of_y(image: u32, head: u32, query: u32) -> u32 {
    return ((image * p.queries + query) * p.heads + head) * HEAD_VECTORS;
}
