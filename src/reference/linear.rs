//! Matrix product with a weight matrix.

use rayon::prelude::*;

use super::activate;
use crate::ops::activation::ActivationKind;
use crate::tensor::HostTensor;

/// `y[m, n] = f(Σ_k x[m, k] · weight[n, k] + bias[n]) + residual[m, n]`, sums in f64.
pub fn linear(
    x: &HostTensor,
    weight: &HostTensor,
    bias: Option<&HostTensor>,
    residual: Option<&HostTensor>,
    activation: Option<ActivationKind>,
) -> HostTensor {
    let (n, k) = (weight.shape[0], weight.shape[1]);
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("x has at least one dimension") = n;
    // One column of weights after another, so that the sums of all outputs of a row advance together through contiguous memory.
    let mut columns = vec![0.0f64; n * k];
    for (row, w) in weight.data.chunks_exact(k).enumerate() {
        w.iter().enumerate().for_each(|(col, v)| columns[col * n + row] = f64::from(*v));
    }
    let mut y = HostTensor::zeros(shape);
    y.data.par_chunks_mut(n).enumerate().for_each(|(m, out)| {
        let mut sums = bias.map_or(vec![0.0; n], |b| b.data.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
        for (xv, column) in x.data[m * k..][..k].iter().zip(columns.chunks_exact(n)) {
            let xv = f64::from(*xv);
            sums.iter_mut().zip(column).for_each(|(sum, w)| *sum += xv * w);
        }
        for (i, sum) in sums.into_iter().enumerate() {
            let value = activation.map_or(sum, |kind| activate(sum, kind));
            out[i] = (value + residual.map_or(0.0, |r| f64::from(r.data[m * n + i]))) as f32;
        }
    });
    y
}
