// What attention/matrix keeps in workgroup memory, and what it does with the device's matrices, of matrix_8.
// Metal wants pointers to numbers; where it need not be, memory is in vectors: matrix_attention_16.
// A test puts plain loops in the place of what uses matrices. `&array[i]` must be worked out beforehand: naga 30
// forgets what is computed in the call of a store.

var<workgroup> stage: array<f16, max(QUERIES, KEYS) * STAGE_ROW>; // queries, keys or values [row, channel]
var<workgroup> scores: array<f32, QUERIES * SCORE_ROW>; // [query, key]; or a matrix of each subgroup's sums
var<workgroup> weights_high: array<f16, QUERIES * WEIGHT_ROW>; // [query, key]
var<workgroup> weights_low: array<f16, QUERIES * WEIGHT_ROW>;

fn put_stage(at: u32, v: vec4<f16>) {
    stage[at] = v.x;
    stage[at + 1u] = v.y;
    stage[at + 2u] = v.z;
    stage[at + 3u] = v.w;
}
fn get_scores(at: u32) -> vec4<f32> {
    return vec4<f32>(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
}
fn scale_scores(at: u32, factor: f32) {
    for (var i = 0u; i < 4u; i++) { scores[at + i] *= factor; }
}
fn put_weights(at: u32, high: vec4<f16>, low: vec4<f16>) {
    weights_high[at] = high.x;
    weights_high[at + 1u] = high.y;
    weights_high[at + 2u] = high.z;
    weights_high[at + 3u] = high.w;
    weights_low[at] = low.x;
    weights_low[at + 1u] = low.y;
    weights_low[at + 2u] = low.z;
    weights_low[at + 3u] = low.w;
}

// Queries, row-major. They stay although `stage` changes.
fn load_queries(at: u32) -> matrix_a { return coopLoadT<matrix_a>(&stage[at], STAGE_ROW); }
// Keys: a row of `stage` is a column of the matrix.
fn load_keys(at: u32) -> matrix_b { return coopLoad<matrix_b>(&stage[at], STAGE_ROW); }
// Values, likewise: the matrix is [channel, key].
fn load_values(at: u32) -> matrix_a { return coopLoad<matrix_a>(&stage[at], STAGE_ROW); }
// The two parts of weights, likewise: [key, query].
fn load_high(at: u32) -> matrix_b { return coopLoad<matrix_b>(&weights_high[at], WEIGHT_ROW); }
fn load_low(at: u32) -> matrix_b { return coopLoad<matrix_b>(&weights_low[at], WEIGHT_ROW); }
fn multiply_add(a: matrix_a, b: matrix_b, c: matrix_c) -> matrix_c { return coopMultiplyAdd(a, b, c); }
// Scores, row-major.
fn store_scores(at: u32, c: matrix_c) {
    let first = at;
    coopStoreT(c, &scores[first], SCORE_ROW);
}
// Sums of values, [channel, query], to and from rows of queries.
fn store_sums(at: u32, c: matrix_c) {
    let first = at;
    coopStore(c, &scores[first], SCORE_ROW);
}
fn load_sums(at: u32) -> matrix_c { return coopLoad<matrix_c>(&scores[at], SCORE_ROW); }
