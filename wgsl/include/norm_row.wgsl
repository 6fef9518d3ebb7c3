// What follows normalisation, for four channels of a row: (n gamma + beta) (1 + scale) + shift, then the activation
// function. The kernel binds gamma, beta and modulation as vectors of four; its Params say how many rows share a row of
// modulation (span), how many vectors such a row has (modulation_columns), and where scale and shift begin in it.
const HAS_GAMMA: bool = true;
const HAS_BETA: bool = true;
const HAS_SCALE: bool = false;
const HAS_SHIFT: bool = false;

struct Affine {
    factor: vec4<f32>,
    summand: vec4<f32>,
}

// gamma (1 + scale), and beta (1 + scale) + shift.
fn affine(row: u32, vector: u32) -> Affine {
    var result = Affine(vec4<f32>(1.0), vec4<f32>(0.0));
    if (HAS_GAMMA) { result.factor = gamma[vector]; }
    if (HAS_BETA) { result.summand = beta[vector]; }
    let at = row / p.span * p.modulation_columns + vector;
    if (HAS_SCALE) {
        let scale = 1.0 + decode_modulation(modulation[at + p.scale_column]);
        result.factor *= scale;
        result.summand *= scale;
    }
    if (HAS_SHIFT) { result.summand += decode_modulation(modulation[at + p.shift_column]); }
    return result;
}

fn finished(n: vec4<f32>, by: Affine) -> vec4<f32> {
    return activate(n * by.factor + by.summand);
}
