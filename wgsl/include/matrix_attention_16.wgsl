// What attention/matrix keeps in workgroup memory, and what it does with the device's matrices, of matrix_16.
// Memory is in vectors, which compilers load and store whole; Metal wants pointers to numbers: matrix_attention_8.
// A test puts plain loops in the place of what uses matrices. `&array[i]` must be worked out beforehand: naga 30
// forgets what is computed in the call of a store.

var<workgroup> stage: array<vec4<f16>, max(QUERIES, KEYS) * STAGE_ROW / 4u>; // queries, keys or values [row, channel]
var<workgroup> scores: array<vec4<f32>, QUERIES * SCORE_ROW / 4u>; // [query, key]; or a matrix of each subgroup's sums
var<workgroup> weights_high: array<vec4<f16>, QUERIES * WEIGHT_ROW / 4u>; // [query, key]
var<workgroup> weights_low: array<vec4<f16>, QUERIES * WEIGHT_ROW / 4u>;

fn put_stage(at: u32, v: vec4<f16>) { stage[at / 4u] = v; }
fn get_scores(at: u32) -> vec4<f32> { return scores[at / 4u]; }
fn scale_scores(at: u32, factor: f32) { scores[at / 4u] *= factor; }
fn put_weights(at: u32, high: vec4<f16>, low: vec4<f16>) {
    weights_high[at / 4u] = high;
    weights_low[at / 4u] = low;
}

// Queries, row-major. They stay although `stage` changes.
fn load_queries(at: u32) -> matrix_a { return coopLoadT<matrix_a>(&stage[at / 4u], STAGE_ROW / 4u); }
// Keys: a row of `stage` is a column of the matrix.
fn load_keys(at: u32) -> matrix_b { return coopLoad<matrix_b>(&stage[at / 4u], STAGE_ROW / 4u); }
// Values, likewise: the matrix is [channel, key].
fn load_values(at: u32) -> matrix_a { return coopLoad<matrix_a>(&stage[at / 4u], STAGE_ROW / 4u); }
// The two parts of weights, likewise: [key, query].
fn load_high(at: u32) -> matrix_b { return coopLoad<matrix_b>(&weights_high[at / 4u], WEIGHT_ROW / 4u); }
fn load_low(at: u32) -> matrix_b { return coopLoad<matrix_b>(&weights_low[at / 4u], WEIGHT_ROW / 4u); }
fn multiply_add(a: matrix_a, b: matrix_b, c: matrix_c) -> matrix_c { return coopMultiplyAdd(a, b, c); }
// Scores, row-major.
fn store_scores(at: u32, c: matrix_c) {
    let first = at / 4u;
    coopStoreT(c, &scores[first], SCORE_ROW / 4u);
}
// Sums of values, [channel, query], to and from rows of queries.
fn store_sums(at: u32, c: matrix_c) {
    let first = at / 4u;
    coopStore(c, &scores[first], SCORE_ROW / 4u);
}
fn load_sums(at: u32) -> matrix_c { return coopLoad<matrix_c>(&scores[at / 4u], SCORE_ROW / 4u); }
