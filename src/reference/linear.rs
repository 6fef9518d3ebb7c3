//! Matrix product with a weight matrix.

use crate::parallel::*;

use super::products::Weights;
use crate::tensor::HostTensor;

/// Rows of `x` that one task takes: few enough to share the work, enough to use each weight loaded several times.
const ROWS: usize = 16;

/// `y[m, n] = f(Σ_k x[m, k] · weight[n, k] + bias[n]) + residual[m, n]`, sums in f64.
pub fn linear(
    x: &HostTensor,
    weight: &HostTensor,
    bias: Option<&HostTensor>,
    residual: Option<&HostTensor>,
    activation: Option<fn(f64) -> f64>,
) -> HostTensor {
    let (n, k) = (weight.shape[0], weight.shape[1]);
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("x has at least one dimension") = n;
    let weights = Weights::new(&weight.data, n, k);
    let mut y = HostTensor::zeros(shape);
    y.data.par_chunks_mut(ROWS * n).zip(x.data.par_chunks(ROWS * k)).enumerate().for_each(|(task, (out, rows))| {
        weights.products(rows, |row, column, sum| {
            let sum = sum + bias.map_or(0.0, |b| f64::from(b.data[column]));
            let value = activation.map_or(sum, |f| f(sum));
            let i = row * n + column;
            out[i] = (value + residual.map_or(0.0, |r| f64::from(r.data[task * ROWS * n + i]))) as f32;
        });
    });
    y
}
