//! Multiplication and addition of constants.

use crate::tensor::HostTensor;

/// `y = factor · x + offset`
pub fn scale(x: &HostTensor, factor: f64, offset: f64) -> HostTensor {
    let data = x.data.iter().map(|&v| (factor * f64::from(v) + offset) as f32).collect();
    HostTensor { shape: x.shape.clone(), data }
}
