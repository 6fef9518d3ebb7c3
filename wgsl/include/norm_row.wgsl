// What follows normalisation, for four channels of a row: (n gamma + beta) (1 + scale) + shift, then the activation
// function. The kernel binds gamma, beta and modulation as vectors of four; its Params say how many rows share a row of
// modulation (span), how many vectors such a row has (modulation_columns), and where scale and shift begin in it.
const HAS_GAMMA: bool = true;
const HAS_BETA: bool = true;
const HAS_SCALE: bool = false;
const HAS_SHIFT: bool = false;

fn finished(n: vec4<f32>, row: u32, vector: u32) -> vec4<f32> {
    var value = n;
    if (HAS_GAMMA) { value *= gamma[vector]; }
    if (HAS_BETA) { value += beta[vector]; }
    let at = row / p.span * p.modulation_columns + vector;
    if (HAS_SCALE) { value *= 1.0 + decode_modulation(modulation[at + p.scale_column]); }
    if (HAS_SHIFT) { value += decode_modulation(modulation[at + p.shift_column]); }
    return activate(value);
}
