//! What the U-Net is told beside the picture: text, SDXL's numbers about the picture, a distilled model's guidance
//! scale.

use super::{Kind, PromptOptions, Runtime, StableDiffusionPipeline};
use crate::error::Result;
use crate::pipelines::text::TextConditioning;
use crate::tensor::HostTensor;

impl StableDiffusionPipeline {
    /// The text for each branch of the prediction: the prompts alone; the negative ones, then the prompts; or for
    /// editing the prompts, then the negative ones twice.
    pub(super) fn encode_text(
        &self,
        runtime: &Runtime<'_>,
        options: &PromptOptions,
        branches: usize,
    ) -> Result<TextConditioning> {
        let count = self.windows(options)?;
        let weighting = options.weighting;
        let prompts: [&[String]; 2] = [&options.prompts, options.prompts_2.as_ref().unwrap_or(&options.prompts)];
        let positive = self.text.encode(runtime, &prompts, weighting, count, options.clip_skip)?;
        if branches == 1 {
            return Ok(positive);
        }
        let negative = match &options.negative_prompts {
            None if self.zero_negative && options.negative_prompts_2.is_none() => positive.zeroed(),
            given => {
                let empty = vec![String::new(); options.prompts.len()];
                let first = given.as_ref().unwrap_or(&empty);
                let prompts: [&[String]; 2] = [first, options.negative_prompts_2.as_ref().unwrap_or(first)];
                // diffusers skips layers for the prompt alone.
                self.text.encode(runtime, &prompts, weighting, count, 0)?
            }
        };
        match self.kind {
            Kind::Edit => TextConditioning::join(&[&positive, &negative, &negative]),
            _ => TextConditioning::join(&[&negative, &positive]),
        }
    }

    /// SDXL's numbers about a picture of `size`, for each sample of each branch: original height and width, top and
    /// left of the crop, then target height and width, or for the refiner how beautiful the picture is.
    pub(super) fn time_ids(&self, options: &PromptOptions, size: (usize, usize), branches: usize) -> HostTensor {
        let batch = options.prompts.len();
        let (original, target) = (options.original_size.unwrap_or(size), options.target_size.unwrap_or(size));
        let place = [original.0, original.1, options.crop.0, options.crop.1].map(|v| v as f32);
        let (positive, negative) = options.aesthetic_scores;
        let mut data = Vec::new();
        for branch in 0..branches {
            let score = if branch + 1 == branches { positive } else { negative };
            let rest = if self.aesthetic { vec![score as f32] } else { vec![target.0 as f32, target.1 as f32] };
            data.extend([place.as_slice(), &rest].concat().repeat(batch));
        }
        let rows = branches * batch;
        HostTensor { shape: vec![rows, data.len() / rows], data }
    }
}

/// The weights of editing's three branches (instruction and picture; picture alone; neither) for each of N pictures:
/// with the scales s of the instruction and i of the picture ε = ε₃ + i·(ε₂ − ε₃) + s·(ε₁ − ε₂), Brooks et al. 2023,
/// eq. 3.
pub(super) fn instruction_weights(scales: &[f64], image_scale: f64) -> HostTensor {
    let rows = [|s: f64, _: f64| s, |s: f64, i: f64| i - s, |_: f64, i: f64| 1.0 - i];
    let data = rows.iter().flat_map(|row| scales.iter().map(move |s| row(*s, image_scale) as f32)).collect();
    HostTensor { shape: vec![3, scales.len()], data }
}

/// A distilled model's embedding of the guidance scale (Meng et al. 2023), with w one less: sines then cosines of
/// 1000·w at falling frequencies.
pub(super) fn guidance_scale_embedding(scales: &[f64], dim: usize) -> HostTensor {
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
