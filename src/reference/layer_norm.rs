//! Normalisation of each row.

use crate::parallel::*;

use crate::tensor::HostTensor;

/// `y = (x − mean) / √(variance + eps) · gamma + beta`; mean and biased variance of each row of the last dimension, in
/// f64.
pub fn layer_norm(x: &HostTensor, gamma: &HostTensor, beta: &HostTensor, eps: f64) -> HostTensor {
    let channels = gamma.len();
    let mut y = HostTensor::zeros(x.shape.clone());
    y.data.par_chunks_mut(channels).zip(x.data.par_chunks(channels)).for_each(|(y, x)| {
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / channels as f64;
        let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / channels as f64;
        let deviation = (variance + eps).sqrt();
        for c in 0..channels {
            let normal = (f64::from(x[c]) - mean) / deviation;
            y[c] = (normal * f64::from(gamma.data[c]) + f64::from(beta.data[c])) as f32;
        }
    });
    y
}
