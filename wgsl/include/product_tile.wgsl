// One tile of a matrix product, TILE_M rows by TILE_N columns, computed by LANES_M x LANES_N invocations as a sum of
// outer products: for each of TILE_K values of k, an invocation reads 4 * ROW_QUADS values of x and 4 * COLUMN_QUADS of
// the weights from workgroup memory and uses each many times.
//
// Invocation (row, column) owns the rows 4 (LANES_M i + row) + 0..3 and the columns 4 (LANES_N j + column) + 0..3:
// neighbours read neighbouring vec4s, which keeps workgroup memory free of bank conflicts and makes the stores of y
// contiguous.
const TILE_M: u32 = 128u; // 32 to 256
const TILE_N: u32 = 128u; // likewise
const TILE_K: u32 = 16u;  // a multiple of 4
const UNROLL: u32 = 4u;   // values of k whose products are written out, a divisor of TILE_K
const ROW_QUADS: u32 = 2u;
const COLUMN_QUADS: u32 = 2u;
const LANES_M: u32 = TILE_M / 4u / ROW_QUADS;
const LANES_N: u32 = TILE_N / 4u / COLUMN_QUADS;
const INVOCATIONS: u32 = LANES_M * LANES_N;

// Transposed, [k, row / 4], so that an outer product reads vec4s. TILE_K * (TILE_M + TILE_N) * 4 bytes, which must not
// exceed the 16 KiB that WebGPU guarantees, or what the device has.
var<workgroup> tile_x: array<vec4<f32>, TILE_K * TILE_M / 4u>;
var<workgroup> tile_w: array<vec4<f32>, TILE_K * TILE_N / 4u>;

// sums[4 i + r][j]: row 4 (LANES_M i + row) + r, columns 4 (LANES_N j + column) + 0..3
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

// Stores the values k to k + 3 of two rows, of which the first is even.
fn put_pair_x(row: u32, k: u32, a: vec4<f32>, b: vec4<f32>) {
    //!unroll
    for (var i = 0u; i < 4u; i++) {
        tile_x[(k + i) * (TILE_M / 4u) + row / 4u][row % 4u] = a[i];
        tile_x[(k + i) * (TILE_M / 4u) + row / 4u][row % 4u + 1u] = b[i];
    }
}

// The same for tile_w.
fn put_pair_w(row: u32, k: u32, a: vec4<f32>, b: vec4<f32>) {
    //!unroll
    for (var i = 0u; i < 4u; i++) {
        tile_w[(k + i) * (TILE_N / 4u) + row / 4u][row % 4u] = a[i];
        tile_w[(k + i) * (TILE_N / 4u) + row / 4u][row % 4u + 1u] = b[i];
    }
}

// Adds the outer products of UNROLL values of k, of which all that is read lies at a fixed distance from two addresses.
fn add_outer_products_from(first_k: u32, row: u32, column: u32) {
    let x_at = first_k * (TILE_M / 4u) + row;
    let w_at = first_k * (TILE_N / 4u) + column;
    //!unroll
    for (var k = 0u; k < UNROLL; k++) {
        var w: array<vec4<f32>, COLUMN_QUADS>;
        //!unroll
        for (var j = 0u; j < COLUMN_QUADS; j++) { w[j] = tile_w[w_at + (k * (TILE_N / 4u) + LANES_N * j)]; }
        //!unroll
        for (var i = 0u; i < ROW_QUADS; i++) {
            let a = tile_x[x_at + (k * (TILE_M / 4u) + LANES_M * i)];
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

fn add_outer_products(row: u32, column: u32) {
    // Without a loop where there need be none: compilers move loads to behind a loop, if nothing in it needs them.
    if (UNROLL == TILE_K) {
        add_outer_products_from(0u, row, column);
    } else {
        for (var k = 0u; k < TILE_K; k += UNROLL) { add_outer_products_from(k, row, column); }
    }
}
