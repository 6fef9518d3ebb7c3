//! Prompt weights.

use crate::tensor::HostTensor;

/// Each token's vector times its weight, each window rescaled to its original mean.
pub fn emphasis(x: &HostTensor, weights: &HostTensor) -> HostTensor {
    let (window, width) = (x.shape[1] * x.shape[2], x.shape[2]);
    let weighted = |i: usize| f64::from(x.data[i]) * f64::from(weights.data[i / width]);
    let factor = |m: usize| {
        let elements = || m * window..(m + 1) * window;
        elements().map(|i| f64::from(x.data[i])).sum::<f64>() / elements().map(weighted).sum::<f64>()
    };
    let factors: Vec<f64> = (0..x.shape[0]).map(factor).collect();
    HostTensor::from_fn(x.shape.as_slice(), |i| (weighted(i) * factors[i / window]) as f32)
}
