//! Where a picture looks at a text: the weights of cross-attention, for those who want to see them (Hertz et al. 2022,
//! "Prompt-to-Prompt"; Tang et al. 2022, "What the DAAM").

use crate::error::Result;
use crate::graph::{Graph, NodeKind};
use crate::ops::Op;
use crate::ops::attention::Packing;
use crate::parallel::*;
use crate::session::Session;
use crate::tensor::HostTensor;

/// Places of a layer at most: the coarse layers say what is where, and are small enough to be read after every step.
const MOST_PLACES: usize = 32 * 32;

/// The layers of a step's graph whose attention over the text can be seen.
#[derive(Clone, Debug, Default)]
pub struct CrossAttention {
    layers: Vec<Layer>,
    /// The sample, of those that the model sees in one call, that is looked at.
    row: usize,
}

#[derive(Clone, Debug)]
struct Layer {
    queries: String,
    keys: String,
    heads: usize,
    scale: Option<f64>,
}

impl CrossAttention {
    /// Makes outputs of the queries and keys of a graph's attention over `tokens` tokens of text, to look at them for
    /// the sample `row`.
    pub(super) fn expose(graph: &mut Graph, tokens: usize, row: usize) -> Self {
        let mut layers = Vec::new();
        let mut outputs = Vec::new();
        for node in graph.nodes() {
            let NodeKind::Op(Op::Attention(attention), inputs) = &node.kind else { continue };
            let (Packing::Separate, [Some(q), Some(k), ..]) = (attention.packing, inputs.as_slice()) else { continue };
            let (queries, keys) = (graph.desc(*q), graph.desc(*k));
            let places: usize = queries.shape[1..queries.shape.len() - 1].iter().product();
            // Self-attention looks at a picture's own places.
            let over_text = node.name.ends_with(".attn2.attention") && keys.shape[1..].first() == Some(&tokens);
            if !over_text || queries.shape.len() != 4 || places > MOST_PLACES || attention.kv_heads.is_some() {
                continue;
            }
            let layer = Layer {
                queries: format!("{}.q", node.name),
                keys: format!("{}.k", node.name),
                heads: attention.heads,
                scale: attention.scale,
            };
            outputs.extend([(layer.queries.clone(), *q), (layer.keys.clone(), *k)]);
            layers.push(layer);
        }
        outputs.into_iter().for_each(|(name, value)| graph.output(name, value));
        Self { layers, row }
    }

    /// How much each place of the picture looks at each token in the last step: `[tokens, h, w]`, 1 in sum over the
    /// tokens; the mean of all heads and layers, those of fewer places enlarged by repeating. `None` if no layer is
    /// exposed.
    pub(super) fn read(&self, session: &mut dyn Session) -> Result<Option<HostTensor>> {
        let mut maps = Vec::new();
        for layer in &self.layers {
            let (q, k) = (session.read(&layer.queries)?, session.read(&layer.keys)?);
            maps.push(weights(&q, &k, self.row, layer.heads, layer.scale));
        }
        Ok(mean(&maps))
    }
}

/// Softmax over the keys `k [N, S, C]` for every place of the queries `q [N, h, w, C]` in row `row`, the mean of all
/// heads: `[S, h, w]`.
fn weights(q: &HostTensor, k: &HostTensor, row: usize, heads: usize, scale: Option<f64>) -> HostTensor {
    let (height, width, channels, tokens) = (q.shape[1], q.shape[2], q.shape[3], k.shape[1]);
    let (places, head_dim) = (height * width, channels / heads);
    let scale = scale.unwrap_or(1.0 / (head_dim as f64).sqrt()) as f32;
    let queries = &q.data[row * places * channels..][..places * channels];
    let keys = &k.data[row * tokens * channels..][..tokens * channels];
    let mut of_places = vec![0.0; places * tokens];
    of_places.par_chunks_mut(tokens).enumerate().for_each(|(place, sums)| {
        let query = &queries[place * channels..][..channels];
        for head in 0..heads {
            let part = |all: &[f32], at: usize| -> Vec<f32> { all[at + head * head_dim..][..head_dim].to_vec() };
            let query = part(query, 0);
            let dot = |key: Vec<f32>| query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>() * scale;
            let scores: Vec<f32> = (0..tokens).map(|token| dot(part(keys, token * channels))).collect();
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
            let share = 1.0 / (powers.iter().sum::<f32>() * heads as f32);
            sums.iter_mut().zip(&powers).for_each(|(sum, power)| *sum += power * share);
        }
    });
    HostTensor::from_fn([tokens, height, width], |i| of_places[i % places * tokens + i / places])
}

/// The mean of maps `[S, h, w]`, in the size of the largest.
fn mean(maps: &[HostTensor]) -> Option<HostTensor> {
    let largest = maps.iter().max_by_key(|map| map.len())?;
    let &[tokens, height, width] = largest.shape.as_slice() else { unreachable!("maps have three dimensions") };
    Some(HostTensor::from_fn([tokens, height, width], |i| {
        let (token, y, x) = (i / (height * width), i / width % height, i % width);
        let at = |map: &HostTensor| {
            let (h, w) = (map.shape[1], map.shape[2]);
            map.data[(token * h + y * h / height) * w + x * w / width]
        };
        maps.iter().map(at).sum::<f32>() / maps.len() as f32
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{AttentionOptions, attention};

    #[test]
    fn weights_are_what_attention_multiplies_values_with() {
        let (tokens, heads, head_dim) = (5, 3, 4);
        let channels = heads * head_dim;
        let draw = |seed: usize| move |i: usize| ((i * 37 + seed * 11) % 23) as f32 / 7.0 - 1.5;
        let q = HostTensor::from_fn([2, 2, 3, channels], draw(1));
        let k = HostTensor::from_fn([2, tokens, channels], draw(2));
        let found = weights(&q, &k, 1, heads, Some(0.7));
        assert_eq!(found.shape, [tokens, 2, 3]);
        let options = AttentionOptions { kv_heads: heads, causal: false, scale: 0.7, bias: None, mask: None };
        for token in 0..tokens {
            // Values that are 1 for one token give its weight.
            let v = HostTensor::from_fn([2, tokens, channels], |i| f32::from(u8::from(i / channels % tokens == token)));
            let y = attention(&q, &k, &v, heads, &options);
            for place in 0..6 {
                let of_heads = (0..heads).map(|head| y.data[(6 + place) * channels + head * head_dim]);
                let expected = of_heads.sum::<f32>() / heads as f32;
                let found = found.data[token * 6 + place];
                assert!((found - expected).abs() < 1e-6, "token {token}, place {place}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn smaller_maps_are_enlarged() {
        let small = HostTensor::new([1, 1, 2], vec![1.0, 3.0]).unwrap();
        let large = HostTensor::from_fn([1, 2, 4], |i| i as f32);
        let mean = mean(&[small, large]).unwrap();
        assert_eq!(mean.shape, [1, 2, 4]);
        assert_eq!(mean.data, [0.5, 1.0, 2.5, 3.0, 2.5, 3.0, 4.5, 5.0]);
        assert!(super::mean(&[]).is_none());
    }
}
