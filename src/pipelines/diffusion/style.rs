//! A picture in another style: image to image (SDEdit, Meng et al. 2021, arXiv:2108.01073) that keeps the layout of
//! the original by its self-attention (Plug-and-Play, Tumanyan et al. 2022, arXiv:2211.12572, section 4.1).
//!
//! Two pictures are made side by side: the original again, from the noise that DDIM's way back finds for it, and the
//! styled one. In the first steps, self-attention in the up blocks of the second compares the queries and keys of the
//! first, so that each place gathers its values from where the original's place does. Plug-and-Play also takes over
//! features of residual blocks; this does not.

use super::start::Start;
use super::{DiffusionPipeline, Runtime, SampleOptions};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, gather_rows};
use crate::ops::Op;
use crate::pipelines::Progress;
use crate::pipelines::denoise::{Changing, SELF_ATTENTION_ROWS};
use crate::refusal::Refusal;
use crate::rng::NoiseSource;
use crate::tensor::HostTensor;

/// How a picture is styled, besides what a run's options say.
#[derive(Clone, Debug, PartialEq)]
pub struct Style {
    /// What the picture shows; may be empty.
    pub source: String,
    /// The share of the steps, from the noisiest on, whose self-attention is the original's, 0 to 1.
    pub attention_share: f64,
    /// Begins with the picture noised, as image to image does, in place of the noise that it is made of.
    pub fresh_noise: bool,
}

impl DiffusionPipeline {
    /// The picture of `options` made again, and in the style of their prompt: latents `[2, C, h, w]`. The first is
    /// made under the prompt of `style` without guidance. With fresh noise, `sources` draw as image to image does.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::check_editable`] and [`DiffusionPipeline::sample`]; [`Error::Usage`] for a share that is
    /// none; [`Error::Unsupported`] if the U-Net has no self-attention in its up blocks.
    pub fn restyle<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        style: &Style,
        sources: &mut [S],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        self.check_editable(options)?;
        self.check(options)?;
        if options.mask.is_some() {
            return Err(Refusal::of("mask", "the whole picture gets the style").into());
        }
        let share = style.attention_share;
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::Usage(format!("a share of {share} of the steps; expected a number from 0 to 1")));
        }
        let image = options.image.as_ref().expect("check_editable has seen it");
        let (prompts, guidance_scale) = (vec![style.source.clone()], vec![1.0]);
        let original = SampleOptions { prompts, guidance_scale, ..options.clone() };
        let inverted = self.invert(runtime, &original, image, observe)?;

        let both = &SampleOptions {
            batch_size: 2,
            prompts: [original.prompts, options.prompts.clone()].concat(),
            guidance_scale: [original.guidance_scale, options.guidance_scale.clone()].concat(),
            noise: None,
            ..options.clone()
        };
        self.check(both)?;
        let schedule = self.schedule(both)?;
        let mut spec = self.spec(both, &schedule, &self.latent_shape(both)?)?;
        spec.lends_self_attention = true;
        let steps = schedule.steps.len();
        let lent = (share * steps as f64).round_ties_even() as usize;
        let starts = |sources: &mut [S]| {
            let second = match style.fresh_noise {
                false => inverted.clone(),
                true => self.start(runtime, options, &self.latent_shape(options)?, &schedule, sources)?.latents,
            };
            let changing = Changing {
                values: [true, false].map(|lends| vec![(SELF_ATTENTION_ROWS, rows(spec.branches, lends))]).to_vec(),
                of_calls: (0..steps).map(|step| usize::from(step >= lent)).collect(),
            };
            Ok(vec![Start { changing, ..Start::plain(HostTensor::concat(&[&inverted, &second], 0)?) }])
        };
        Ok(self.run_each(runtime, both, &spec, sources, starts, observe)?.swap_remove(0))
    }
}

/// For each picture of each branch, whose queries and keys it has: its own, or, for the second, those of the first
/// under its prompt, which is in the last branch.
fn rows(branches: usize, lends: bool) -> HostTensor {
    let first = 2 * (branches - 1);
    HostTensor::from_fn([2 * branches], |row| if lends && row % 2 == 1 { first as f32 } else { row as f32 })
}

/// A step's graph whose self-attention in up blocks takes queries and keys from the samples that
/// [`SELF_ATTENTION_ROWS`] names.
///
/// # Errors
/// [`Error::Unsupported`] if there is none.
pub(super) fn lend_self_attention(graph: &Graph, model_batch: usize) -> Result<Graph> {
    let queries_and_keys = |graph: &Graph, node: &Node| -> &'static [usize] {
        let inputs: Vec<_> = node.inputs().collect();
        let of_up_blocks = node.name.starts_with("up_blocks.") && node.name.ends_with(".attn1.attention");
        // Where `only_cross_attention` is set, its keys are the text's.
        let own = |graph: &Graph| inputs.len() >= 2 && graph.shape(inputs[0]) == graph.shape(inputs[1]);
        if of_up_blocks && matches!(node.op(), Some(Op::Attention(_))) && own(graph) { &[0, 1] } else { &[] }
    };
    let (graph, count) = gather_rows(graph, SELF_ATTENTION_ROWS, model_batch, queries_and_keys)?;
    match count {
        0 => Err(Error::Unsupported("a U-Net without self-attention in its up blocks keeps no layout".into())),
        _ => Ok(graph),
    }
}
