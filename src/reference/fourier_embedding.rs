//! Sines and cosines of a noise level at random frequencies.

use std::f64::consts::TAU;

use crate::ops::fourier_embedding::FourierEmbedding;
use crate::tensor::HostTensor;

/// `y[n, j] = sin(angle)` or `cos(angle)` with `angle = 2π · f(timestep[n]) · weight[j mod half]`, f the logarithm or
/// nothing.
pub fn fourier_embedding(timestep: &HostTensor, weight: &HostTensor, op: &FourierEmbedding) -> HostTensor {
    let half = weight.len();
    HostTensor::from_fn([timestep.len(), 2 * half], |i| {
        let (n, j) = (i / (2 * half), i % (2 * half));
        let t = f64::from(timestep.data[n]);
        let angle = TAU * if op.log { t.ln() } else { t } * f64::from(weight.data[j % half]);
        let cosine = (j < half) == op.flip_sin_to_cos;
        (if cosine { angle.cos() } else { angle.sin() }) as f32
    })
}
