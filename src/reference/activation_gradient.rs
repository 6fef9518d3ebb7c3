//! Derivatives of the activation functions, and what gated activations pass back.

use super::activation::{activation_function, erfc, sigmoid};
use crate::tensor::HostTensor;

/// `dx = dy · f'(x)`, elementwise.
pub fn activation_gradient(x: &HostTensor, dy: &HostTensor, derivative: fn(f64) -> f64) -> HostTensor {
    let product = |(x, dy): (&f32, &f32)| (f64::from(*dy) * derivative(f64::from(*x))) as f32;
    HostTensor { shape: x.shape.clone(), data: x.data.iter().zip(&dy.data).map(product).collect() }
}

/// For `y = a · f(b)`, a and b the halves of each row of `x`: `da = dy · f(b)` beside `db = dy · a · f'(b)`.
pub fn gated_gradient(x: &HostTensor, dy: &HostTensor, f: fn(f64) -> f64, derivative: fn(f64) -> f64) -> HostTensor {
    let c = dy.shape[dy.shape.len() - 1];
    let mut dx = HostTensor::zeros(x.shape.clone());
    for ((dx, x), dy) in dx.data.chunks_exact_mut(2 * c).zip(x.data.chunks_exact(2 * c)).zip(dy.data.chunks_exact(c)) {
        for i in 0..c {
            let (a, b, dy) = (f64::from(x[i]), f64::from(x[c + i]), f64::from(dy[i]));
            dx[i] = (dy * f(b)) as f32;
            dx[c + i] = (dy * a * derivative(b)) as f32;
        }
    }
    dx
}

/// The derivative of the function that configs call `name`.
pub fn activation_derivative(name: &str) -> Option<fn(f64) -> f64> {
    activation_function(name)?;
    Some(match name {
        "silu" => |x| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
        "gelu" => |x| {
            let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            0.5 * erfc(-x / std::f64::consts::SQRT_2) + x * density
        },
        "quick_gelu" => |x| sigmoid(1.702 * x) * (1.0 + 1.702 * x * (1.0 - sigmoid(1.702 * x))),
        "mish" => |x| {
            let t = x.exp().ln_1p().min(f64::MAX).tanh();
            t + x * (1.0 - t * t) * sigmoid(x)
        },
        "relu" => |x| if x > 0.0 { 1.0 } else { 0.0 },
        "tanh" => |x| 1.0 - x.tanh().powi(2),
        "gelu_pytorch_tanh" => |x| {
            let factor = (2.0 / std::f64::consts::PI).sqrt();
            let t = (factor * (x + 0.044715 * x.powi(3))).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * factor * (1.0 + 3.0 * 0.044715 * x * x)
        },
        "sigmoid" => |x| sigmoid(x) * (1.0 - sigmoid(x)),
        _ => return None,
    })
}
