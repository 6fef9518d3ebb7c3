//! Activation functions.

use crate::ops::activation::ActivationKind;
use crate::tensor::HostTensor;

/// `y = f(x)`, elementwise.
pub fn activation(x: &HostTensor, kind: ActivationKind) -> HostTensor {
    HostTensor { shape: x.shape.clone(), data: x.data.iter().map(|&v| activate(f64::from(v), kind) as f32).collect() }
}

/// One value in f64.
pub(crate) fn activate(x: f64, kind: ActivationKind) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        ActivationKind::Silu => x * sigmoid(x),
        ActivationKind::Gelu => x * 0.5 * erfc(-x / std::f64::consts::SQRT_2),
        ActivationKind::QuickGelu => x * sigmoid(1.702 * x),
        ActivationKind::Mish => x * x.exp().ln_1p().min(f64::MAX).tanh(),
        ActivationKind::Relu => x.max(0.0),
        ActivationKind::Tanh => x.tanh(),
    }
}

/// Complementary error function: the Maclaurin series of erf near zero, the continued fraction of erfc (Abramowitz and
/// Stegun 7.1.14) beyond.
fn erfc(x: f64) -> f64 {
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
