//! Scaled dot-product attention.

use crate::parallel::*;

use crate::tensor::HostTensor;

/// What attention takes besides queries, keys, values and heads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions<'a> {
    /// Number of key and value heads, each shared by heads / kv_heads neighbouring heads.
    pub kv_heads: usize,
    /// Query t sees only the keys s ≤ t.
    pub causal: bool,
    /// Factor on the dot products.
    pub scale: f64,
    /// Added to the scores; its shape broadcasts to `[N, heads, T, S]`.
    pub bias: Option<&'a HostTensor>,
    /// `[N or 1, S]`, 0 for keys that no query sees.
    pub mask: Option<&'a HostTensor>,
}

/// `y[n, t, h, ·] = Σ_s p[t, s] · v[n, s, g, ·]`,
/// `p[t, ·] = softmax_s(scale · q[n, t, h, ·] · k[n, s, g, ·] + bias[n, h, t, s])` over the keys that t sees, in f64,
/// for `q [N, .., heads · D]`, `k` and `v [N, .., kv_heads · D]`, g = h · kv_heads / heads. A query that sees no key
/// gets zeros.
pub fn attention(
    q: &HostTensor,
    k: &HostTensor,
    v: &HostTensor,
    heads: usize,
    options: &AttentionOptions<'_>,
) -> HostTensor {
    let images = q.shape[0];
    let channels = q.shape[q.shape.len() - 1];
    let k_channels = k.shape[k.shape.len() - 1];
    let (queries, keys) = (q.len() / images / channels, k.len() / images / k_channels);
    let head_dim = channels / heads;
    // Keys as [N, K, S], so that the scores of one query advance together through contiguous memory.
    let mut transposed = vec![0.0f64; k.len()];
    transposed.par_chunks_mut(keys).enumerate().for_each(|(row, out)| {
        let (n, c) = (row / k_channels, row % k_channels);
        out.iter_mut().enumerate().for_each(|(s, out)| *out = f64::from(k.data[(n * keys + s) * k_channels + c]));
    });
    let mut y = HostTensor::zeros(q.shape.clone());
    y.data.par_chunks_mut(head_dim).enumerate().for_each(|(row, out)| {
        let (n, t, h) = (row / heads / queries, row / heads % queries, row % heads);
        let g = h * options.kv_heads / heads;
        let seen = if options.causal { t + 1 } else { keys };
        let mut scores = vec![0.0; seen];
        for (d, q) in q.data[row * head_dim..][..head_dim].iter().enumerate() {
            let q = f64::from(*q) * options.scale;
            let k = &transposed[(n * k_channels + g * head_dim + d) * keys..][..seen];
            scores.iter_mut().zip(k).for_each(|(score, k)| *score += q * k);
        }
        if let Some(bias) = options.bias {
            scores.iter_mut().enumerate().for_each(|(s, score)| *score += broadcast_at(bias, [n, h, t, s]));
        }
        if let Some(mask) = options.mask {
            let row = if mask.shape[0] == 1 { 0 } else { n };
            let hidden = |s: usize| mask.data[row * keys + s] == 0.0;
            scores.iter_mut().enumerate().filter(|(s, _)| hidden(*s)).for_each(|(_, score)| *score = f64::NEG_INFINITY);
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            return; // y is zero already
        }
        scores.iter_mut().for_each(|score| *score = (*score - max).exp());
        let sum: f64 = scores.iter().sum();
        let mut sums = vec![0.0; head_dim];
        for (s, p) in scores.iter().enumerate() {
            let v = &v.data[(n * keys + s) * k_channels + g * head_dim..][..head_dim];
            sums.iter_mut().zip(v).for_each(|(sum, v)| *sum += p * f64::from(*v));
        }
        out.iter_mut().zip(sums).for_each(|(out, total)| *out = (total / sum) as f32);
    });
    y
}

/// Single elements of [`attention`], by their flat index.
pub fn attention_at(
    q: &HostTensor,
    k: &HostTensor,
    v: &HostTensor,
    heads: usize,
    options: &AttentionOptions<'_>,
    elements: &[usize],
) -> Vec<f32> {
    let images = q.shape[0];
    let (channels, k_channels) = (q.shape[q.shape.len() - 1], k.shape[k.shape.len() - 1]);
    let (queries, keys) = (q.len() / images / channels, k.len() / images / k_channels);
    let head_dim = channels / heads;
    let element = |element: usize| {
        let (row, d) = (element / head_dim, element % head_dim);
        let (n, t, h) = (row / heads / queries, row / heads % queries, row % heads);
        let first = h * options.kv_heads / heads * head_dim; // channel of the head of keys and values
        let query = &q.data[row * head_dim..][..head_dim];
        let score = |s: usize| {
            if let Some(mask) = options.mask
                && mask.data[if mask.shape[0] == 1 { s } else { n * keys + s }] == 0.0
            {
                return f64::NEG_INFINITY;
            }
            let key = &k.data[(n * keys + s) * k_channels + first..][..head_dim];
            let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            options.scale * dot + options.bias.map_or(0.0, |bias| broadcast_at(bias, [n, h, t, s]))
        };
        let scores: Vec<f64> = (0..if options.causal { t + 1 } else { keys }).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            return 0.0;
        }
        let (mut total, mut sum) = (0.0, 0.0);
        for (s, score) in scores.iter().enumerate() {
            let p = (score - max).exp();
            sum += p;
            total += p * f64::from(v.data[(n * keys + s) * k_channels + first + d]);
        }
        (total / sum) as f32
    };
    let mut found = vec![0.0; elements.len()];
    found.par_chunks_mut(1).zip(elements.par_chunks(1)).for_each(|(found, at)| found[0] = element(at[0]));
    found
}

/// The element of a tensor that belongs to `index` of the shape it broadcasts to.
fn broadcast_at(x: &HostTensor, index: [usize; 4]) -> f64 {
    let skipped = index.len() - x.shape.len();
    let at = x.shape.iter().zip(&index[skipped..]).fold(0, |at, (size, i)| at * size + i.min(&(size - 1)));
    f64::from(x.data[at])
}

/// Columns `start .. start + len` of the last dimension.
pub(crate) fn slice_columns(x: &HostTensor, start: usize, len: usize) -> HostTensor {
    let channels = x.shape[x.shape.len() - 1];
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("attention's inputs have channels") = len;
    let data = x.data.chunks_exact(channels).flat_map(|row| &row[start..start + len]).copied().collect();
    HostTensor { shape, data }
}
