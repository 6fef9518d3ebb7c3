// contraction, 5_pipelined: y = scale * (f(x * weight + bias + summand) + residual) as 4_registers.wgsl, with the next
// tile on its way while this one is multiplied
//
// include/next_tile.wgsl loads a tile into registers, where it waits until the tile before has been multiplied and
// workgroup memory is free; include/product_tile.wgsl says how invocations share the products. x, weight and the
// parameters: include/gather.wgsl; bias, summand, residual and y: include/epilogue.wgsl. Where K is split, workgroup z
// sums one part of it and y holds partial sums [splits, M, N_padded] for conclude.wgsl. If JOINED, x and x_second hold
// the first and the last channels. If SUBPIXEL, pixels of x count as repeated (include/subpixel.wgsl), and M is the
// rows of one of the four parts of y.
//
// dispatch:   x = N / TILE_N, y = M / TILE_M, four times that if SUBPIXEL, z = splits
// requires:   C % 4 = 0; groups = 1; at most 31 taps; N_padded is N rounded up to a multiple of 4, and the epilogue is
//             empty where they differ or splits > 1; with a gate N % 8 = 0 and COLUMN_QUADS = 2; 4 TILE_K (TILE_M +
//             TILE_N) bytes of workgroup memory, TILE_M TILE_N / (16 ROW_QUADS COLUMN_QUADS) invocations
// constants:  TILE_M, TILE_N, TILE_K; ROW_QUADS, COLUMN_QUADS: of an invocation; UNROLL: TILE_K, or a divisor of it;
//             X_ROWS, W_ROWS, X_UNITS, W_UNITS, RAGGED, WINDOWS, DEPTH, JOINED: see next_tile; SUBPIXEL: see subpixel;
//             those of the epilogue: HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION, GATE
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
//!include sum_tile
//!include store_tile

@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let M = p.images * p.OD * p.OH * p.OW;
    var m0 = (workgroup.y + p.first_workgroup_y) * TILE_M;
    if (SUBPIXEL) {
        let rows = (M + TILE_M - 1u) / TILE_M * TILE_M; // of each part, its last tile whole
        part_of_y = m0 / rows;
        m0 %= rows;
    }
    let k_first = workgroup.z * p.K_per_split;
    sum_tile(workgroup, m0, M, k_first, part_end(k_first), local);
    store_tile(workgroup, m0, M, local / LANES_N, local % LANES_N);
}
