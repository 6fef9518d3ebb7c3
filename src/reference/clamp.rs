//! Clamping to a range.

use crate::tensor::HostTensor;

/// `y = min(max(x, low), high)`
pub fn clamp(x: &HostTensor, low: f64, high: f64) -> HostTensor {
    let data = x.data.iter().map(|v| v.clamp(low as f32, high as f32)).collect();
    HostTensor { shape: x.shape.clone(), data }
}
