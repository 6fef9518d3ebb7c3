// What happens to a sum of the contraction before it is stored, the same in every kernel:
//
//   y = scale * (f(sum + bias + summand) + residual)
//
// With a gate, h = sum + bias + summand has twice as many columns as y, and f(h) = h[.., ..N / 2] * f(h[.., N / 2..]).
//
// Columns come in fours: N is a multiple of 4, or of 8 with a gate. Where it is not, where a sum was split, or where no
// invocation has both values and their gates, a kernel stores bare sums and conclude.wgsl applies the epilogue.
//
//   bias      [N]                                            if HAS_BIAS
//   summand   [images, summand_columns], of which N from summand_first on, or [M, N], as SUMMAND says
//   residual  the shape of y, or one row per image, as RESIDUAL says
//!include activation
//!storage summand
//!storage residual
//!storage y

const HAS_BIAS: bool = false;
const SUMMAND: u32 = 0u;  // 0: none; 1: one row per image; 2: one row per row of y
const RESIDUAL: u32 = 0u; // likewise
const GATE: bool = false;

@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> summand: array<summand_vec4>;
@group(0) @binding(4) var<storage, read> residual: array<residual_vec4>;
@group(0) @binding(5) var<storage, read_write> y: array<y_vec4>;

// What is added to every row of an image before the activation: columns n to n + 3.
fn common_addend(image: u32, n: u32) -> vec4<f32> {
    var addend = vec4<f32>(0.0);
    if (HAS_BIAS) { addend = bias[n / 4u]; }
    if (SUMMAND == 1u) { addend += load_summand((image * p.summand_columns + p.summand_first + n) / 4u); }
    return addend;
}

// The result for the vector of y at `index`, columns n to n + 3 of some row of an image. `sum` includes the common
// addend.
fn conclude(sum: vec4<f32>, image: u32, n: u32, index: u32) -> vec4<f32> {
    var result = sum;
    if (SUMMAND == 2u) { result += load_summand(index); }
    result = activate(result);
    if (RESIDUAL == 1u) { result += load_residual((image * p.N + n) / 4u); }
    if (RESIDUAL == 2u) { result += load_residual(index); }
    return p.scale * result;
}

// The column of h that is a workgroup's `at`-th of `width`. With a gate, the first half are values and the second half
// their gates.
fn column_of(workgroup: u32, at: u32, width: u32) -> u32 {
    if (!GATE) { return workgroup * width + at; }
    let half = width / 2u;
    return workgroup * half + at % half + select(0u, p.N / 2u, at >= half);
}

// Like `conclude`, from a value and its gate, each including its common addend: columns n to n + 3 of row m of y.
fn conclude_gated(value: vec4<f32>, gate: vec4<f32>, image: u32, n: u32, m: u32) -> vec4<f32> {
    var v = value;
    var g = gate;
    if (SUMMAND == 2u) {
        v += load_summand((m * p.N + n) / 4u);
        g += load_summand((m * p.N + p.N / 2u + n) / 4u);
    }
    var result = v * activate(g);
    if (RESIDUAL == 1u) { result += load_residual((image * (p.N / 2u) + n) / 4u); }
    if (RESIDUAL == 2u) { result += load_residual((m * (p.N / 2u) + n) / 4u); }
    return p.scale * result;
}
