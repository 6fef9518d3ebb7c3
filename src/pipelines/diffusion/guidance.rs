//! Guidance: under how many conditions the U-Net sees each picture, and how its predictions are combined.

use super::options::each;
use super::traits::Kind;
use super::{DiffusionPipeline, SampleOptions};
use crate::pipelines::guidance_weights;
use crate::tensor::HostTensor;

/// The branches of a run.
pub(super) struct Guidance {
    /// 1 without guidance; 2 without and with the condition; 3 for editing.
    pub branches: usize,
    /// Inputs of the step's graph, by name: `guidance_weights` `[branches, N]` if there are several branches,
    /// `timestep_cond` `[N, D]` if the model takes the scale itself.
    pub inputs: Vec<(&'static str, HostTensor)>,
}

impl DiffusionPipeline {
    /// The guidance that `options` describe. Distilled models take the scale as an input, and need no second branch.
    pub(super) fn guidance(&self, options: &SampleOptions) -> Guidance {
        let scales = each(&options.guidance_scale, options.batch_size);
        if let Some(dim) = self.unet.time_cond_proj_dim() {
            return Guidance { branches: 1, inputs: vec![("timestep_cond", guidance_scale_embedding(&scales, dim))] };
        }
        // A picture without guidance in a batch with others comes out as it would alone.
        let guides = |scale: f64| self.traits.guides(scale);
        let scales: Vec<f64> = scales.into_iter().map(|scale| if guides(scale) { scale } else { 1.0 }).collect();
        let asked = self.traits.kind.has_text() || self.traits.classes.is_some() && !options.classes.is_empty();
        let (branches, weights) = match self.traits.kind {
            _ if !asked || !scales.iter().any(|scale| guides(*scale)) => return Guidance::none(),
            Kind::Edit if options.image_guidance_scale < 1.0 => return Guidance::none(),
            Kind::Edit => (3, instruction_weights(&scales, options.image_guidance_scale)),
            _ => (2, guidance_weights(&scales)),
        };
        Guidance { branches, inputs: vec![("guidance_weights", weights)] }
    }
}

impl Guidance {
    fn none() -> Self {
        Self { branches: 1, inputs: Vec::new() }
    }
}

/// The weights of editing's three branches (instruction and picture; picture alone; neither) for each of N pictures:
/// with the scales s of the instruction and i of the picture ε = ε₃ + i·(ε₂ − ε₃) + s·(ε₁ − ε₂), Brooks et al. 2023,
/// eq. 3.
fn instruction_weights(scales: &[f64], image_scale: f64) -> HostTensor {
    let rows = [|s: f64, _: f64| s, |s: f64, i: f64| i - s, |_: f64, i: f64| 1.0 - i];
    let data = rows.iter().flat_map(|row| scales.iter().map(move |s| row(*s, image_scale) as f32)).collect();
    HostTensor { shape: vec![3, scales.len()], data }
}

/// A distilled model's embedding of the guidance scale (Meng et al. 2023), with w one less: sines then cosines of
/// 1000·w at falling frequencies.
fn guidance_scale_embedding(scales: &[f64], dim: usize) -> HostTensor {
    let half = dim / 2;
    let mut data = Vec::with_capacity(scales.len() * dim);
    for scale in scales {
        let w = scale - 1.0;
        let angle = |i: usize| 1000.0 * w * (-(10_000f64.ln()) * i as f64 / (half as f64 - 1.0)).exp();
        data.extend((0..half).map(|i| angle(i).sin() as f32).chain((0..half).map(|i| angle(i).cos() as f32)));
        data.resize(data.len().next_multiple_of(dim), 0.0); // an odd dim ends with a zero
    }
    HostTensor { shape: vec![scales.len(), dim], data }
}
