//! Scaled dot-product attention.

use crate::parallel::*;

use crate::tensor::HostTensor;

/// `y[n, t, h, ·] = Σ_s p[t, s] · v[n, s, h, ·]`, `p[t, ·] = softmax_s(scale · q[n, t, h, ·] · k[n, s, h, ·])`, in f64,
/// for `q [N, .., C]`, `k` and `v [N, .., C]`, C = heads · D. With `causal`, query t sees the keys s ≤ t only.
pub fn attention(q: &HostTensor, k: &HostTensor, v: &HostTensor, heads: usize, causal: bool, scale: f64) -> HostTensor {
    let images = q.shape[0];
    let channels = q.shape[q.shape.len() - 1];
    let (queries, keys) = (q.len() / images / channels, k.len() / images / channels);
    let head_dim = channels / heads;
    // Keys as [N, C, S], so that the scores of one query advance together through contiguous memory.
    let mut transposed = vec![0.0f64; k.len()];
    transposed.par_chunks_mut(keys).enumerate().for_each(|(row, out)| {
        let (n, c) = (row / channels, row % channels);
        out.iter_mut().enumerate().for_each(|(s, out)| *out = f64::from(k.data[(n * keys + s) * channels + c]));
    });
    let mut y = HostTensor::zeros(q.shape.clone());
    y.data.par_chunks_mut(head_dim).enumerate().for_each(|(row, out)| {
        let (n, t, h) = (row / heads / queries, row / heads % queries, row % heads);
        let seen = if causal { t + 1 } else { keys };
        let mut scores = vec![0.0; seen];
        for (d, q) in q.data[row * head_dim..][..head_dim].iter().enumerate() {
            let q = f64::from(*q) * scale;
            let k = &transposed[(n * channels + h * head_dim + d) * keys..][..seen];
            scores.iter_mut().zip(k).for_each(|(score, k)| *score += q * k);
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        scores.iter_mut().for_each(|score| *score = (*score - max).exp());
        let sum: f64 = scores.iter().sum();
        let mut sums = vec![0.0; head_dim];
        for (s, p) in scores.iter().enumerate() {
            let v = &v.data[(n * keys + s) * channels + h * head_dim..][..head_dim];
            sums.iter_mut().zip(v).for_each(|(sum, v)| *sum += p * f64::from(*v));
        }
        out.iter_mut().zip(sums).for_each(|(out, total)| *out = (total / sum) as f32);
    });
    y
}

/// Columns `start .. start + len` of the last dimension.
pub(crate) fn slice_columns(x: &HostTensor, start: usize, len: usize) -> HostTensor {
    let channels = x.shape[x.shape.len() - 1];
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("attention's inputs have channels") = len;
    let data = x.data.chunks_exact(channels).flat_map(|row| &row[start..start + len]).copied().collect();
    HostTensor { shape, data }
}
