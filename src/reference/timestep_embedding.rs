//! Sines and cosines of a timestep.

use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::tensor::HostTensor;

/// `y[n, j] = sin(angle)` or `cos(angle)` with `angle = scale · (timestep[n] · frequencies[j mod half])`, an odd last
/// column 0.
///
/// The angle is rounded to f32 as in torch: beyond 512 rad its last place is worth 6e-5 rad, far more than the sine's
/// own rounding.
pub fn timestep_embedding(timestep: &HostTensor, frequencies: &HostTensor, op: &TimestepEmbedding) -> HostTensor {
    let half = frequencies.len();
    let rows = timestep.shape[0];
    HostTensor::from_fn([rows, timestep.len() / rows * op.dim], |i| {
        let (n, j) = (i / op.dim, i % op.dim);
        if j >= 2 * half {
            return 0.0;
        }
        let angle = f64::from(op.scale as f32 * (timestep.data[n] * frequencies.data[j % half]));
        let cosine = (j < half) == op.flip_sin_to_cos;
        (if cosine { angle.cos() } else { angle.sin() }) as f32
    })
}
