// What contraction/6_matrix does with the device's matrices, of matrix_8 or matrix_16. A test puts plain loops in the
// place of all that follows. `&array[i]` must be worked out beforehand: naga 30 forgets what is computed in the call of
// a store.

// Rows of x from tile_x[at], row-major.
fn load_a(at: u32) -> matrix_a { return coopLoadT<matrix_a>(&tile_x[at], PITCH); }
// Columns of the weights from tile_w[at]: a row of the tile is a column of the matrix.
fn load_b(at: u32) -> matrix_b { return coopLoad<matrix_b>(&tile_w[at], PITCH); }
fn multiply_add(a: matrix_a, b: matrix_b, c: matrix_c) -> matrix_c { return coopMultiplyAdd(a, b, c); }
// To results[at], row-major.
fn store_sums(c: matrix_c, at: u32) { coopStoreT(c, &results[at], RESULT_ROW); }
