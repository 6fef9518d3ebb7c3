// What an optimizer's kernels make of the gradients' norm: the factor on every gradient, and whether there is a step at
// all. Needs the bindings `coefficients` and `norm`.
//
//   coefficients[0]  1 / the loss scale
//   coefficients[1]  the largest norm that gradients may have; longer ones are shortened to it
//   coefficients[2]  0: gradients are only collected, there is no step
//   norm[0]          the sum of the squares of all gradients, loss scale included
const HAS_NORM: bool = true;

// Without a step, state and parameters stay: also where a gradient is infinite or no number, because in f16 it
// overflowed.
fn is_step() -> bool {
    var finite = true;
    if (HAS_NORM) { finite = (bitcast<u32>(norm[0]) & 0x7f800000u) != 0x7f800000u; }
    return finite && coefficients[2] != 0.0;
}

fn gradient_factor() -> f32 {
    if (!HAS_NORM) { return 1.0; }
    let length = sqrt(norm[0]) * coefficients[0];
    return coefficients[0] * min(1.0, coefficients[1] / (length + 1e-6));
}
