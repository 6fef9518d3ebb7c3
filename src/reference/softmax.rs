//! Softmax of each row.

use crate::parallel::*;

use crate::tensor::HostTensor;

/// `y = eˣ / Σ eˣ` over each row of the last dimension, in f64.
pub fn softmax(x: &HostTensor) -> HostTensor {
    let channels = x.shape[x.shape.len() - 1];
    let mut y = HostTensor::zeros(x.shape.clone());
    y.data.par_chunks_mut(channels).zip(x.data.par_chunks(channels)).for_each(|(y, x)| {
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = x.iter().map(|v| (f64::from(*v) - f64::from(max)).exp()).collect();
        let sum: f64 = powers.iter().sum();
        y.iter_mut().zip(powers).for_each(|(y, power)| *y = (power / sum) as f32);
    });
    y
}
