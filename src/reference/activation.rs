//! Activation functions.

use crate::tensor::HostTensor;

/// `y = f(x)`, elementwise.
pub fn activation(x: &HostTensor, f: fn(f64) -> f64) -> HostTensor {
    HostTensor { shape: x.shape.clone(), data: x.data.iter().map(|&v| f(f64::from(v)) as f32).collect() }
}

/// The function that configs call `name`.
pub fn activation_function(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "silu" => |x| x * sigmoid(x),
        "gelu" => |x| x * 0.5 * erfc(-x / std::f64::consts::SQRT_2),
        "quick_gelu" => |x| x * sigmoid(1.702 * x),
        "mish" => |x| x * x.exp().ln_1p().min(f64::MAX).tanh(),
        "relu" => |x| x.max(0.0),
        "tanh" => f64::tanh,
        "gelu_pytorch_tanh" => |x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        },
        "sigmoid" => sigmoid,
        _ => return None,
    })
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Complementary error function: the Maclaurin series of erf near zero, the continued fraction of erfc (Abramowitz and
/// Stegun 7.1.14) beyond.
pub(super) fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.5 {
        // erf(x) = 2/sqrt(pi) sum_n (-1)^n x^(2n+1) / (n! (2n+1))
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            let next = term / f64::from(2 * n + 1);
            sum += next;
            if next.abs() < 1e-17 * sum.abs() {
                break;
            }
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    // erfc(x) = e^(-x^2)/sqrt(pi) * 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + ...))))
    let tail = (1..=60).rev().fold(x, |f, n| x + f64::from(n) / 2.0 / f);
    (-x * x).exp() / (tail * std::f64::consts::PI.sqrt())
}
