// Concludes and stores the sums of include/product_tile.wgsl: the tile whose first row is m0, of a y, or a part of it
// (include/subpixel.wgsl), with M rows, by invocation (row, column). Where K is split, y holds the sums of each part of
// K, one after another.
//!include subpixel

fn store_tile(workgroup: vec3<u32>, m0: u32, M: u32, row: u32, column: u32) {
    //!unroll
    for (var j = 0u; j < COLUMN_QUADS; j++) {
        let n = column_of(workgroup.x, 4u * (LANES_N * j + column), TILE_N);
        if (GATE) {
            // The first quad holds values, the second one their gates.
            if (j == 0u && n < p.N / 2u) { store_gated(m0, row, n, M); }
        } else if (n < p.N) {
            var addend = vec4<f32>(0.0);
            if (SUMMAND != 1u) { addend = common_addend(0u, n); } // the same for every image
            //!unroll
            for (var q = 0u; q < ROW_QUADS; q++) {
                //!unroll
                for (var r = 0u; r < 4u; r++) {
                    let at = m0 + 4u * (LANES_M * q + row) + r;
                    if (at < M) {
                        let row_y = row_of_y(at);
                        let image = row_y / p.rows_per_image;
                        if (SUMMAND == 1u) { addend = common_addend(image, n); }
                        let index = ((workgroup.z * rows_of_y(M) + row_y) * p.N_padded + n) / 4u;
                        y[index] = encode_y(conclude(sums[4u * q + r][j] + addend, image, n, index));
                    }
                }
            }
        }
    }
}

// Stores the columns n to n + 3 of y from this invocation's values and gates.
fn store_gated(m0: u32, row: u32, n: u32, M: u32) {
    //!unroll
    for (var q = 0u; q < ROW_QUADS; q++) {
        //!unroll
        for (var r = 0u; r < 4u; r++) {
            let m = m0 + 4u * (LANES_M * q + row) + r;
            if (m < M) {
                let image = m / p.rows_per_image;
                let value = sums[4u * q + r][0] + common_addend(image, n);
                let gate = sums[4u * q + r][COLUMN_QUADS - 1u] + common_addend(image, p.N / 2u + n);
                y[(m * (p.N / 2u) + n) / 4u] = encode_y(conclude_gated(value, gate, image, n, m));
            }
        }
    }
}
