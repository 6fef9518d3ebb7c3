// Derivatives of the activation functions of include/activation.wgsl, which goes before this one: f'(x) for the
// constant ACTIVATION. Where f flattens out, powers of e overflow to infinity in a denominator and the quotient is 0,
// as it is.
fn activation_gradient(x: vec4<f32>) -> vec4<f32> {
    switch ACTIVATION {
        case 0u: {
            let s = sigmoid(x);
            return s * (1.0 + x * (1.0 - s));
        }
        // Phi(x) + x phi(x), phi the normal density.
        case 1u: { return normal_cdf(x) + x * 0.39894228 * exp(-0.5 * x * x); }
        case 2u: {
            let s = sigmoid(1.702 * x);
            return s * (1.0 + 1.702 * x * (1.0 - s));
        }
        case 3u: {
            // t = tanh(ln(1 + e^x)) as in `activate`; t' = (1 - t^2) sigmoid(x), and 1 - t^2 = 4 (v + 1) / (v + 2)^2.
            let u = exp(min(x, vec4<f32>(20.0)));
            let v = u * (u + 2.0);
            return v / (v + 2.0) + x * 4.0 * (v + 1.0) / ((v + 2.0) * (v + 2.0)) * sigmoid(x);
        }
        case 4u: { return select(vec4<f32>(0.0), vec4<f32>(1.0), x > vec4<f32>(0.0)); }
        case 5u: {
            let u = exp(-2.0 * abs(x));
            return 4.0 * u / ((1.0 + u) * (1.0 + u));
        }
        case 6u: {
            // x sigmoid(2 z): sigmoid + x sigmoid (1 - sigmoid) 2 z'. Beyond 12 the second term is 0.
            let near = clamp(x, vec4<f32>(-12.0), vec4<f32>(12.0));
            let s = sigmoid(1.59576912 * (x + 0.044715 * x * x * x));
            return s + near * s * (1.0 - s) * 1.59576912 * (1.0 + 0.134145 * near * near);
        }
        case 7u: {
            let s = sigmoid(x);
            return s * (1.0 - s);
        }
        default: { return vec4<f32>(1.0); }
    }
}
