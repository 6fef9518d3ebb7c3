// contraction, 5_pipelined: y = scale * (f(x * weight + bias + summand) + residual) as 4_registers.wgsl, with the next
// tile on its way while this one is multiplied
//
// include/next_tile.wgsl loads a tile into registers, where it waits until the tile before has been multiplied and
// workgroup memory is free; include/product_tile.wgsl says how invocations share the products. x, weight and the
// parameters: include/gather.wgsl; bias, summand, residual and y: include/epilogue.wgsl. Where K is split, workgroup z
// sums one part of it and y holds partial sums [splits, M, N_padded] for conclude.wgsl.
//
// dispatch:   x = N / TILE_N, y = M / TILE_M, z = splits
// requires:   C % 4 = 0; groups = 1; at most 31 taps; N_padded is N rounded up to a multiple of 4, and the epilogue is
//             empty where they differ or splits > 1; with a gate N % 8 = 0 and COLUMN_QUADS = 2; 4 TILE_K (TILE_M +
//             TILE_N) bytes of workgroup memory, TILE_M TILE_N / (16 ROW_QUADS COLUMN_QUADS) invocations
// constants:  TILE_M, TILE_N, TILE_K; ROW_QUADS, COLUMN_QUADS: of an invocation; UNROLL: TILE_K, or a divisor of it;
//             X_ROWS, W_ROWS, X_UNITS, W_UNITS, RAGGED, WINDOWS, DEPTH: see next_tile; those of the epilogue: HAS_BIAS,
//             SUMMAND, RESIDUAL, ACTIVATION, GATE
// error:      1e-5 relative L2 in f32 for K = KD * KH * KW * C <= 23040
// faster:     than 4_registers, which waits for every tile. Compiled for AMD RDNA2 and RDNA3 (RADV 22.3, offline; not
//             timed on a GPU): with tiles of 128, 88 to 90 % of what the loop issues are multiply-adds instead of 76 to
//             80 %, in 96 vector registers instead of 112; 1024 of them follow each other while loads are on their way
// source:     Volkov and Demmel 2008, "Benchmarking GPUs to Tune Dense Linear Algebra", section 5.3: prefetching;
//             Tan et al. 2011, "Fast Implementation of DGEMM on Fermi GPU": software pipelining
//!include gather
//!include epilogue
//!include product_tile
//!include next_tile
//!include store_tile

@group(0) @binding(6) var<uniform> p: Params;

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

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let M = p.images * p.OD * p.OH * p.OW;
    var m0 = (workgroup.y + p.first_workgroup_y) * TILE_M;
    if (SUBPIXEL) {
        let rows = (M + TILE_M - 1u) / TILE_M * TILE_M; // of each part, its last tile whole
        part_of_y = m0 / rows;
        m0 %= rows;
    }
    let x_at = x_block(local);
    let w_at = w_block(local);
    let k_first = workgroup.z * p.K_per_split;
    let end = part_end(k_first);
    begin_tiles(workgroup, m0, M, local);
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
    store_tile(workgroup, m0, M, local / LANES_N, local % LANES_N);
}
