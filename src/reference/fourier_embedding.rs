//! Sines and cosines of a noise level at random frequencies.

use std::f64::consts::TAU;

use crate::tensor::HostTensor;

/// `y[n, j] = sin(angle)` or `cos(angle)` with `angle = 2π · f(timestep[n]) · weight[j mod half]`, f the logarithm or
/// the identity; the cosines come first or last.
pub fn fourier_embedding(
    timestep: &HostTensor,
    weight: &HostTensor,
    logarithm: bool,
    cosines_first: bool,
) -> HostTensor {
    let half = weight.len();
    HostTensor::from_fn([timestep.len(), 2 * half], |i| {
        let (n, j) = (i / (2 * half), i % (2 * half));
        let t = f64::from(timestep.data[n]);
        let angle = TAU * if logarithm { t.ln() } else { t } * f64::from(weight.data[j % half]);
        let cosine = (j < half) == cosines_first;
        (if cosine { angle.cos() } else { angle.sin() }) as f32
    })
}
