// What attention/matrix does with the device's matrices, of matrix_8 or matrix_16. A test puts plain loops in the place
// of both files. `&array[i]` must be worked out beforehand: naga 30 forgets what is computed in the call of a store.

// Queries from stage[at], row-major. They stay although `stage` changes.
fn load_queries(at: u32) -> matrix_a { return coopLoadT<matrix_a>(&stage[at], STAGE_ROW); }
// Keys from stage[at]: a row of `stage` is a column of the matrix.
fn load_keys(at: u32) -> matrix_b { return coopLoad<matrix_b>(&stage[at], STAGE_ROW); }
// Values from stage[at], row-major.
fn load_values(at: u32) -> matrix_b { return coopLoadT<matrix_b>(&stage[at], STAGE_ROW); }
// The two parts of weights, row-major.
fn load_high(at: u32) -> matrix_a { return coopLoadT<matrix_a>(&weights_high[at], WEIGHT_ROW); }
fn load_low(at: u32) -> matrix_a { return coopLoadT<matrix_a>(&weights_low[at], WEIGHT_ROW); }
fn multiply_add(a: matrix_a, b: matrix_b, c: matrix_c) -> matrix_c { return coopMultiplyAdd(a, b, c); }
// Scores, or sums of values, to and from scores[at], row-major.
fn store_scores(at: u32, c: matrix_c) { coopStoreT(c, &scores[at], SCORE_ROW); }
fn load_sums(at: u32) -> matrix_c { return coopLoadT<matrix_c>(&scores[at], SCORE_ROW); }
