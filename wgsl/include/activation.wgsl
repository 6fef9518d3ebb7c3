// Activation functions, chosen by the constant ACTIVATION:
// 0 silu, 1 gelu (exact), 2 quick_gelu, 3 mish, 4 relu, 5 tanh, 6 gelu by tanh, 7 sigmoid, 99 none.
const ACTIVATION: u32 = 99u;

// 1 / (1 + e^-x). For x far below zero e^-x overflows to infinity and the quotient is 0, as it should be.
fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-x));
}

// erfc(x) for x >= 0: an exponential times a degree-9 fit in t = 1 / (1 + x/2), in the style of W. J. Cody, relative
// error below 1.2e-7 (Numerical Recipes, section 6.2, erfcc). Fits of erf bound only the absolute error (Abramowitz and
// Stegun 7.1.28: 3e-7 for |x| <= 4, 7.1.26: 1.5e-7); with erfc, gelu keeps its relative accuracy for negative x.
fn erfc_positive(x: vec4<f32>) -> vec4<f32> {
    let t = 1.0 / (1.0 + 0.5 * x);
    var p = vec4<f32>(0.17087277);
    p = p * t - 0.82215223;
    p = p * t + 1.48851587;
    p = p * t - 1.13520398;
    p = p * t + 0.27886807;
    p = p * t - 0.18628806;
    p = p * t + 0.09678418;
    p = p * t + 0.37409196;
    p = p * t + 1.00002368;
    p = p * t - 1.26551223;
    return t * exp(p - x * x);
}

// Phi(x) = erfc(-x / sqrt(2)) / 2, the standard normal distribution function.
fn normal_cdf(x: vec4<f32>) -> vec4<f32> {
    let half_tail = 0.5 * erfc_positive(abs(x) * 0.70710678);
    return select(half_tail, 1.0 - half_tail, x > vec4<f32>(0.0));
}

fn activate(x: vec4<f32>) -> vec4<f32> {
    switch ACTIVATION {
        case 0u: { return x * sigmoid(x); }
        case 1u: { return x * normal_cdf(x); }
        case 2u: { return x * sigmoid(1.702 * x); }
        case 3u: {
            // tanh(ln(1 + e^x)) = (u^2 + 2u) / (u^2 + 2u + 2) with u = e^x; above 20 it is 1 to the last bit.
            let u = exp(min(x, vec4<f32>(20.0)));
            let v = u * (u + 2.0);
            return x * v / (v + 2.0);
        }
        case 4u: { return max(x, vec4<f32>(0.0)); }
        case 5u: {
            // The built-in tanh may divide infinity by infinity; e^(-2|x|) stays between 0 and 1.
            let u = exp(-2.0 * abs(x));
            return sign(x) * (1.0 - u) / (1.0 + u);
        }
        // x/2 (1 + tanh(z)) = x sigmoid(2 z), with z = sqrt(2/pi) (x + 0.044715 x^3).
        case 6u: { return x * sigmoid(1.59576912 * (x + 0.044715 * x * x * x)); }
        case 7u: { return sigmoid(x); }
        default: { return x; }
    }
}
