//! Normalisation, and the modulation that follows it.

use crate::parallel::*;

use crate::tensor::HostTensor;

/// Rows that one task sums.
const BLOCK: usize = 256;

/// `value · gamma[c] + beta[c]`
fn affine(value: f64, c: usize, gamma: Option<&HostTensor>, beta: Option<&HostTensor>) -> f32 {
    let scaled = gamma.map_or(value, |gamma| value * f64::from(gamma.data[c]));
    beta.map_or(scaled, |beta| scaled + f64::from(beta.data[c])) as f32
}

/// `y = (x − mean) / √(variance + eps) · gamma + beta` for `x [N, .., C]`; mean and biased variance, in f64, over the
/// positions and the channels of each group.
pub fn group_norm(
    x: &HostTensor,
    gamma: Option<&HostTensor>,
    beta: Option<&HostTensor>,
    groups: usize,
    eps: f64,
) -> HostTensor {
    let channels = x.shape[x.shape.len() - 1];
    let image = x.len() / x.shape[0];
    let per_group = channels / groups;
    let count = (image / groups) as f64;
    let mut y = HostTensor::zeros(x.shape.clone());
    for (x, y) in x.data.chunks_exact(image).zip(y.data.chunks_exact_mut(image)) {
        // Σ f(value, channel) over each group. Blocks of rows are summed in parallel and then in order, so that every
        // run gives the same bits.
        let group_sums = |f: &(dyn Fn(f64, usize) -> f64 + Sync)| -> Vec<f64> {
            let block_sums = x.par_chunks(BLOCK * channels).map(|block| {
                let mut sums = vec![0.0; channels];
                for row in block.chunks_exact(channels) {
                    sums.iter_mut().zip(row).enumerate().for_each(|(c, (sum, v))| *sum += f(f64::from(*v), c));
                }
                sums
            });
            let mut totals = vec![0.0; groups];
            for sums in block_sums.collect::<Vec<_>>() {
                sums.iter().enumerate().for_each(|(c, sum)| totals[c / per_group] += sum);
            }
            totals
        };
        let mean: Vec<f64> = group_sums(&|v, _| v).iter().map(|sum| sum / count).collect();
        let squares = group_sums(&|v, c| (v - mean[c / per_group]).powi(2));
        let deviation: Vec<f64> = squares.iter().map(|sum| (sum / count + eps).sqrt()).collect();
        y.par_chunks_mut(channels).zip(x.par_chunks(channels)).for_each(|(y, x)| {
            for c in 0..channels {
                let g = c / per_group;
                y[c] = affine((f64::from(x[c]) - mean[g]) / deviation[g], c, gamma, beta);
            }
        });
    }
    y
}

/// `y = (x − mean) / √(variance + eps) · gamma + beta`; mean and biased variance of each row of the last dimension, in
/// f64.
pub fn layer_norm(x: &HostTensor, gamma: Option<&HostTensor>, beta: Option<&HostTensor>, eps: f64) -> HostTensor {
    rows(x, gamma, beta, eps, |row| row.iter().map(|v| f64::from(*v)).sum::<f64>() / row.len() as f64)
}

/// `y = x / √(mean of x² + eps) · gamma + beta` over each row of the last dimension, in f64.
pub fn rms_norm(x: &HostTensor, gamma: Option<&HostTensor>, beta: Option<&HostTensor>, eps: f64) -> HostTensor {
    rows(x, gamma, beta, eps, |_| 0.0)
}

/// Each row minus its `center`, divided by the root mean square of the difference.
fn rows(
    x: &HostTensor,
    gamma: Option<&HostTensor>,
    beta: Option<&HostTensor>,
    eps: f64,
    center: impl Fn(&[f32]) -> f64 + Sync,
) -> HostTensor {
    let channels = x.shape[x.shape.len() - 1];
    let mut y = HostTensor::zeros(x.shape.clone());
    y.data.par_chunks_mut(channels).zip(x.data.par_chunks(channels)).for_each(|(y, x)| {
        let center = center(x);
        let variance = x.iter().map(|v| (f64::from(*v) - center).powi(2)).sum::<f64>() / channels as f64;
        let deviation = (variance + eps).sqrt();
        for c in 0..channels {
            y[c] = affine((f64::from(x[c]) - center) / deviation, c, gamma, beta);
        }
    });
    y
}

/// `y = x · (1 + scale) + shift` for `x [N, .., C]`. A row of `by` consists of parts of C columns; `scale` and `shift`
/// say which to use. `by` has one row per row of `x`, or fewer, each for an equal share of consecutive rows of `x`.
pub fn modulate(x: &HostTensor, by: &HostTensor, scale: usize, shift: Option<usize>) -> HostTensor {
    let channels = x.shape[x.shape.len() - 1];
    let columns = by.shape[by.shape.len() - 1];
    let span = (x.len() / channels) / (by.len() / columns);
    let mut y = x.clone();
    for (row, y) in y.data.chunks_exact_mut(channels).enumerate() {
        let by = &by.data[row / span * columns..][..columns];
        for (c, v) in y.iter_mut().enumerate() {
            let shift = shift.map_or(0.0, |part| f64::from(by[part * channels + c]));
            *v = (f64::from(*v) * (1.0 + f64::from(by[scale * channels + c])) + shift) as f32;
        }
    }
    y
}
