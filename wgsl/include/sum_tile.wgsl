// The sums of one tile of a product over one part of K, of include/product_tile.wgsl, with the next part of
// include/next_tile.wgsl on its way while this one is multiplied.

// Stores the block of x that begins at this row and k, loaded as number `first`.
fn put_block_x(row: u32, k: u32, first: u32) {
    let a = loaded_x(first);
    let b = loaded_x(first + 1u);
    if (X_ROWS == 4u) {
        put_x(row / 4u, k, a, b, loaded_x(first + X_ROWS - 2u), loaded_x(first + X_ROWS - 1u));
    } else {
        put_pair_x(row, k, a, b);
    }
}

// The same for the weights.
fn put_block_w(row: u32, k: u32, first: u32) {
    let a = loaded_w(first);
    let b = loaded_w(first + 1u);
    if (W_ROWS == 4u) {
        put_w(row / 4u, k, a, b, loaded_w(first + W_ROWS - 2u), loaded_w(first + W_ROWS - 1u));
    } else {
        put_pair_w(row, k, a, b);
    }
}

// The products of TILE_M rows from m0 on, of M, with the columns of this workgroup, over the values of k from k_first
// to `end`.
fn sum_tile(workgroup: vec3<u32>, m0: u32, M: u32, k_first: u32, end: u32, local: u32) {
    let x_at = x_block(local);
    let w_at = w_block(local);
    begin_part(workgroup, m0, M, k_first, end, local);
    for (var k0 = k_first; k0 < end; k0 += TILE_K) {
        if (stores_x(local)) {
            //!unroll
            for (var i = 0u; i < X_UNITS; i++) { put_block_x(x_at.x + i * X_APART, x_at.y, i * X_ROWS); }
        }
        if (stores_w(local)) {
            //!unroll
            for (var i = 0u; i < W_UNITS; i++) { put_block_w(w_at.x + i * W_APART, w_at.y, i * W_ROWS); }
        }
        workgroupBarrier();
        // After the last tile it is loaded once more.
        if (k0 + TILE_K < end) { advance(); }
        fetch_tile();
        add_outer_products(local / LANES_N, local % LANES_N);
        workgroupBarrier();
    }
}
