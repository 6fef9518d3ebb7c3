// The matrix products of ceilings/matrix_*: four sums that do not depend on each other. Those files declare `number`,
// `left`, `right`, `sums` and SIDE.

// Only SLOTS of the results are kept: workgroups that share a slot write the same.
const SLOTS: u32 = 64u;
const LANES: u32 = 32u;

struct Params {
    rounds: u32,
}

@group(0) @binding(0) var<storage, read> a: array<number>;
@group(0) @binding(1) var<storage, read> b: array<number>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>) {
    let side = SIDE;
    let factor_a = coopLoadT<left>(&a[0], side);
    let factor_b = coopLoadT<right>(&b[0], side);
    var sum_0 = sums();
    var sum_1 = sums();
    var sum_2 = sums();
    var sum_3 = sums();
    for (var round = 0u; round < p.rounds; round++) {
        sum_0 = coopMultiplyAdd(factor_a, factor_b, sum_0);
        sum_1 = coopMultiplyAdd(factor_a, factor_b, sum_1);
        sum_2 = coopMultiplyAdd(factor_a, factor_b, sum_2);
        sum_3 = coopMultiplyAdd(factor_a, factor_b, sum_3);
    }
    let sum_01 = sum_0 + sum_1;
    let sum_23 = sum_2 + sum_3;
    let sum = sum_01 + sum_23;
    let at = workgroup.x % SLOTS * SIDE * SIDE;
    coopStoreT(sum, &y[at], side);
}
