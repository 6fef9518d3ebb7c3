// contraction, conclude: y = scale * (f(sum_s partial[s] + bias + summand) + residual), element by element
//
// Adds the parts of a split sum, drops padding columns, joins the two halves of a gated sum, and applies the epilogue
// (include/epilogue.wgsl), for any number of columns. Where only the last rows of y were split, it makes these.
//
//   partial  [splits, rows, N_padded]  f32; with a gate the first half of the columns are values, the second gates
// bias, summand, residual and y: include/epilogue.wgsl; a gated y is [M, N / 2]
// dispatch:   one invocation for four consecutive elements of these rows, of several if N % 4 > 0
// requires:   any N <= N_padded; an even N for a gate; first_row % 4 = 0
// constants:  those of the epilogue: HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION, GATE
// error:      1e-6 relative L2 in f32
// faster:     a long sum of few outputs is shared by many workgroups; this pass reads their results once
// source:     split-K matrix multiplication; Shazeer 2020, "GLU Variants Improve Transformer", for gates
//!include flat_index
//!include epilogue

struct Params {
    splits: u32,
    first_row: u32, // of y
    rows: u32, // from there on
    N: u32,
    N_padded: u32,
    rows_per_image: u32,
    scale: f32,
    summand_columns: u32,
    summand_first: u32,
}

@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(6) var<uniform> p: Params;

// The sum at row m of y and column n with everything added before the activation.
fn hidden(m: u32, n: u32) -> f32 {
    var sum = 0.0;
    for (var s = 0u; s < p.splits; s++) { sum += partial[(s * p.rows + m - p.first_row) * p.N_padded + n]; }
    if (HAS_BIAS) { sum += bias[n / 4u][n % 4u]; }
    if (SUMMAND == 1u) { sum += summand_element(m / p.rows_per_image * p.summand_columns + p.summand_first + n); }
    if (SUMMAND == 2u) { sum += summand_element(m * p.N + n); }
    return sum;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let columns = select(p.N, p.N / 2u, GATE); // of y
    let vector = flat_index(workgroup, workgroups, local, 64u) + p.first_row / 4u * columns;
    let elements = (p.first_row + p.rows) * columns;
    if (4u * vector >= elements) { return; }

    var values = vec4<f32>(0.0);
    var gates = vec4<f32>(0.0);
    var added = vec4<f32>(0.0);
    for (var lane = 0u; lane < min(4u, elements - 4u * vector); lane++) {
        let m = (4u * vector + lane) / columns;
        let n = (4u * vector + lane) % columns;
        values[lane] = hidden(m, n);
        if (GATE) { gates[lane] = hidden(m, n + columns); }
        if (RESIDUAL == 1u) { added[lane] = residual_element(m / p.rows_per_image * columns + n); }
    }
    if (RESIDUAL == 2u) { added = load_residual(vector); }
    if (GATE) { values *= activate(gates); } else { values = activate(values); }
    y[vector] = encode_y(p.scale * (values + added));
}
