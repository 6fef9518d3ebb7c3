// One tile of a matrix product, TILE_M rows by TILE_N columns, computed by 16 x 16 invocations as a sum of outer
// products: for each of TILE_K values of k, an invocation reads 4 * ROW_QUADS values of x and 4 * COLUMN_QUADS of the
// weights from workgroup memory and uses each many times.
//
// Invocation (row 0..15, column 0..15) owns the rows 64 i + 4 row + 0..3 and the columns 64 j + 4 column + 0..3:
// neighbours read neighbouring vec4s, which keeps workgroup memory free of bank conflicts and makes the stores of y
// contiguous.
const TILE_M: u32 = 128u; // 64 or 128
const TILE_N: u32 = 128u; // 64 or 128
const TILE_K: u32 = 16u;  // 2048 / TILE_M, so 128 invocations load all rows and 128 all weights, four vec4s each
const ROW_QUADS: u32 = TILE_M / 64u;
const COLUMN_QUADS: u32 = TILE_N / 64u;

// Transposed, [k, row / 4], so that an outer product reads vec4s. TILE_K * (TILE_M + TILE_N) * 4 bytes = 16 KiB, all
// that WebGPU guarantees.
var<workgroup> tile_x: array<vec4<f32>, TILE_K * TILE_M / 4u>;
var<workgroup> tile_w: array<vec4<f32>, TILE_K * TILE_N / 4u>;

// sums[4 i + r][j]: row 64 i + 4 row + r, columns 64 j + 4 column + 0..3
var<private> sums: array<array<vec4<f32>, COLUMN_QUADS>, 4u * ROW_QUADS>;

// Stores the values k to k + 3 of the four rows of row_quad in tile_x.
fn put_x(row_quad: u32, k: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    //!unroll
    for (var i = 0u; i < 4u; i++) { tile_x[(k + i) * (TILE_M / 4u) + row_quad] = vec4<f32>(a[i], b[i], c[i], d[i]); }
}

// The same for tile_w.
fn put_w(row_quad: u32, k: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    //!unroll
    for (var i = 0u; i < 4u; i++) { tile_w[(k + i) * (TILE_N / 4u) + row_quad] = vec4<f32>(a[i], b[i], c[i], d[i]); }
}

fn add_outer_products(row: u32, column: u32) {
    for (var k = 0u; k < TILE_K; k++) {
        var w: array<vec4<f32>, COLUMN_QUADS>;
        //!unroll
        for (var j = 0u; j < COLUMN_QUADS; j++) { w[j] = tile_w[k * (TILE_N / 4u) + 16u * j + column]; }
        //!unroll
        for (var i = 0u; i < ROW_QUADS; i++) {
            let a = tile_x[k * (TILE_M / 4u) + 16u * i + row];
            //!unroll
            for (var r = 0u; r < 4u; r++) {
                //!unroll
                for (var j = 0u; j < COLUMN_QUADS; j++) {
                    sums[4u * i + r][j] = fma(vec4<f32>(a[r]), w[j], sums[4u * i + r][j]);
                }
            }
        }
    }
}
