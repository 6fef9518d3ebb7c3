// What a norm's naive backward kernels share: the gradient of a normalised value n, g = dy * gamma * (1 + scale), of
// the element of x at a flat index. Needs the bindings x, dy, gamma and modulation, and the fields channels, span,
// modulation_columns and scale_column of Params.
const HAS_GAMMA: bool = true;
const HAS_SCALE: bool = false;

fn modulation_at(element: u32) -> f32 {
    return decode_modulation(modulation[element / 4u])[element % 4u];
}

// The factor on dy at one element of x.
fn factor_at(element: u32) -> f32 {
    let channel = element % p.channels;
    var factor = 1.0;
    if (HAS_GAMMA) { factor *= gamma[channel]; }
    if (HAS_SCALE) {
        factor *= 1.0 + modulation_at(element / p.channels / p.span * p.modulation_columns + channel + p.scale_column);
    }
    return factor;
}

fn x_at(element: u32) -> f32 {
    return decode_x(x[element / 4u])[element % 4u];
}

fn upstream_at(element: u32) -> f32 {
    return decode_dy(dy[element / 4u])[element % 4u] * factor_at(element);
}
