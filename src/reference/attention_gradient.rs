//! What attention passes back, in f64.

use crate::tensor::HostTensor;

/// Which input of an attention a gradient belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionSide {
    /// The queries.
    Query,
    /// The keys.
    Key,
    /// The values.
    Value,
}

/// One head of a tensor `[N, positions, heads · D]`.
struct Heads<'a> {
    tensor: &'a HostTensor,
    heads: usize,
}

impl Heads<'_> {
    fn channels(&self) -> usize {
        self.tensor.shape[self.tensor.shape.len() - 1]
    }

    fn positions(&self) -> usize {
        self.tensor.len() / self.channels() / self.tensor.shape[0]
    }

    fn row(&self, image: usize, position: usize, head: usize) -> &[f32] {
        let d = self.channels() / self.heads;
        &self.tensor.data[(image * self.positions() + position) * self.channels() + head * d..][..d]
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Of each query and head: `L = ln Σ_s exp(scale · q · k_s)` over the keys that it sees, and `D = dy · attended`;
/// `[N, T, heads, 2]`.
pub fn attention_statistics(
    [q, k, attended, dy]: [&HostTensor; 4],
    heads: usize,
    scale: f64,
    causal: bool,
) -> HostTensor {
    let [q, k, attended, dy] = [q, k, attended, dy].map(|tensor| Heads { tensor, heads });
    let (images, queries) = (q.tensor.shape[0], q.positions());
    let mut data = Vec::new();
    for row in 0..images * queries * heads {
        let (image, t, head) = (row / heads / queries, row / heads % queries, row % heads);
        let seen = if causal { t + 1 } else { k.positions() };
        let scores: Vec<f64> = (0..seen).map(|s| scale * dot(q.row(image, t, head), k.row(image, s, head))).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + scores.iter().map(|score| (score - max).exp()).sum::<f64>().ln();
        data.extend([log_sum as f32, dot(dy.row(image, t, head), attended.row(image, t, head)) as f32]);
    }
    HostTensor { shape: vec![images, queries, heads, 2], data }
}

/// With `w = exp(scale · q_t · k_s − L_t)` and `u = scale · w · (dy_t · v_s − D_t)` of `statistics`:
/// `dq_t = Σ_s u k_s`, `dk_s = Σ_t u q_t`, `dv_s = Σ_t w dy_t`.
pub fn attention_gradient(
    side: AttentionSide,
    [q, k, v, dy]: [&HostTensor; 4],
    statistics: &HostTensor,
    heads: usize,
    scale: f64,
    causal: bool,
) -> HostTensor {
    let [q, k, v, dy] = [q, k, v, dy].map(|tensor| Heads { tensor, heads });
    let own = match side {
        AttentionSide::Query => &q,
        AttentionSide::Key => &k,
        AttentionSide::Value => &v,
    };
    let (images, d) = (q.tensor.shape[0], q.channels() / heads);
    let (queries, keys) = (q.positions(), k.positions());
    let mut sums = vec![0.0f64; own.tensor.len()];
    for row in 0..images * queries * heads {
        let (image, t, head) = (row / heads / queries, row / heads % queries, row % heads);
        let [log_sum, product] = [0, 1].map(|i| f64::from(statistics.data[2 * row + i]));
        for s in 0..if causal { t + 1 } else { keys } {
            let (q, k, dy) = (q.row(image, t, head), k.row(image, s, head), dy.row(image, t, head));
            let w = (scale * dot(q, k) - log_sum).exp();
            let u = scale * w * (dot(dy, v.row(image, s, head)) - product);
            let (position, positions, factor, other) = match side {
                AttentionSide::Query => (t, queries, u, k),
                AttentionSide::Key => (s, keys, u, q),
                AttentionSide::Value => (s, keys, w, dy),
            };
            let first = ((image * positions + position) * heads + head) * d;
            sums[first..first + d].iter_mut().zip(other).for_each(|(sum, v)| *sum += factor * f64::from(*v));
        }
    }
    HostTensor { shape: own.tensor.shape.clone(), data: sums.into_iter().map(|v| v as f32).collect() }
}
