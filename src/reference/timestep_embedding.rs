//! Sines and cosines of a timestep.

use crate::tensor::HostTensor;

/// `y[n, j] = sin(angle)` or `cos(angle)` with `angle = scale · (timestep[n] · frequencies[j mod half])`; an odd last
/// column is 0.
///
/// The angle is rounded to f32 as in torch: beyond 512 rad its last place is worth 6e-5 rad, far more than the sine's
/// own rounding.
///
/// Each number of `timestep [rows, ..]` gives `columns` columns; the cosines come first or last.
pub fn timestep_embedding(
    timestep: &HostTensor,
    frequencies: &HostTensor,
    columns: usize,
    cosines_first: bool,
    scale: f64,
) -> HostTensor {
    let half = frequencies.len();
    let rows = timestep.shape[0];
    HostTensor::from_fn([rows, timestep.len() / rows * columns], |i| {
        let (n, j) = (i / columns, i % columns);
        if j >= 2 * half {
            return 0.0;
        }
        let angle = f64::from(scale as f32 * (timestep.data[n] * frequencies.data[j % half]));
        let cosine = (j < half) == cosines_first;
        (if cosine { angle.cos() } else { angle.sin() }) as f32
    })
}
