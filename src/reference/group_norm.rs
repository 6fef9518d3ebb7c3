//! Normalisation over groups of channels.

use crate::parallel::*;

use crate::tensor::HostTensor;

/// Rows that one task sums.
const BLOCK: usize = 256;

/// `y = f((x − mean) / √(variance + eps) · gamma + beta)` for `x [N, .., C]`; mean and biased variance, in f64, over
/// the positions and the channels of each group.
pub fn group_norm(
    x: &HostTensor,
    gamma: &HostTensor,
    beta: &HostTensor,
    groups: usize,
    eps: f64,
    activation: Option<fn(f64) -> f64>,
) -> HostTensor {
    let channels = gamma.len();
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
                let normal = (f64::from(x[c]) - mean[g]) / deviation[g];
                let value = normal * f64::from(gamma.data[c]) + f64::from(beta.data[c]);
                y[c] = activation.map_or(value, |f| f(value)) as f32;
            }
        });
    }
    y
}
