//! What the U-Net sees besides the picture: text or class, SDXL's numbers about the picture, a distilled model's
//! guidance scale.

use super::options::each;
use super::unet::UNet;
use super::{DiffusionPipeline, Kind, Runtime, SampleOptions};
use crate::error::{Error, Result};
use crate::models::ClassEmbedding;
use crate::pipelines::text::{TextConditioning, TextEncoders};
use crate::tensor::HostTensor;

/// Inputs of the step's graph, by name, that stay the same in every step.
pub(super) type Condition = Vec<(&'static str, HostTensor)>;

impl DiffusionPipeline {
    /// Encodes the condition in `options` for each branch of the prediction.
    pub(super) fn encode_condition(&self, runtime: &Runtime<'_>, options: &SampleOptions) -> Result<Condition> {
        let guidance = self.guidance(options);
        let (branches, mut inputs) = (guidance.branches, guidance.inputs);
        if let Some(encoders) = &self.text {
            let text = self.encode_text(encoders, runtime, options, branches)?;
            if self.unet.has_text_time() {
                let missing = || Error::Config("the U-Net needs pooled text, but the text encoders return none".into());
                inputs.push(("text_embeds", text.pooled.ok_or_else(missing)?));
                inputs.push(("time_ids", self.time_ids(options, branches)?));
            }
            inputs.push(("encoder_hidden_states", text.hidden_states));
        }
        inputs.extend(self.class_labels(options, branches)?.map(|labels| ("class_labels", labels)));
        Ok(inputs)
    }

    /// The class of each sample of each branch ("no class" first), or for enlarging how noisy the small picture is;
    /// `None` if the U-Net takes neither.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the U-Net takes labels of another kind than numbers of classes.
    fn class_labels(&self, options: &SampleOptions, branches: usize) -> Result<Option<HostTensor>> {
        let labels = |labels: Vec<usize>| {
            let data: Vec<f32> = labels.into_iter().map(|label| label as f32).collect();
            Ok(Some(HostTensor { shape: vec![data.len()], data }))
        };
        let batch = options.batch_size;
        let rows = match &self.unet {
            UNet::Latents(_) if self.traits.kind == Kind::Upscale => {
                return labels(vec![options.noise_level; branches * batch]);
            }
            UNet::Latents(_) => return Ok(None),
            UNet::Pixels(model) => match model.config.class_embedding {
                ClassEmbedding::None => return Ok(None),
                ClassEmbedding::Table(rows) => rows,
                ClassEmbedding::Timestep | ClassEmbedding::Identity => {
                    return Err(Error::Unsupported(
                        "sampling from a model whose class_embed_type is timestep or identity: only a single pass of \
                        the U-Net takes such labels"
                            .into(),
                    ));
                }
            },
        };
        let null = options.null_class.unwrap_or(rows - 1);
        let none = vec![null; batch];
        let asked = if options.classes.is_empty() { none.clone() } else { each(&options.classes, batch) };
        labels(if branches == 2 { [none, asked].concat() } else { asked })
    }

    /// The text for each branch of the prediction: the prompts alone; the negative ones, then the prompts; or, for
    /// editing, the prompts and then the negative ones twice.
    fn encode_text(
        &self,
        encoders: &TextEncoders,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        branches: usize,
    ) -> Result<TextConditioning> {
        let (count, batch, weighting) = (self.windows(options)?, options.batch_size, options.weighting);
        // One list for each encoder; the second repeats the first unless it was given.
        let lists = |first: &[String], second: &[String]| {
            [each(first, batch), each(if second.is_empty() { first } else { second }, batch)]
        };
        let encode = |[first, second]: &[Vec<String>; 2], clip_skip: usize| {
            encoders.encode(runtime, &[first, second], weighting, count, clip_skip)
        };
        let positive = encode(&lists(&options.prompts, &options.prompts_2), options.clip_skip)?;
        if branches == 1 {
            return Ok(positive);
        }
        let (first, second) = (&options.negative_prompts, &options.negative_prompts_2);
        let negative = if first.is_empty() && second.is_empty() && self.zero_negative {
            positive.zeroed()
        } else {
            let empty = [String::new()];
            // diffusers skips layers for the prompt alone.
            encode(&lists(if first.is_empty() { &empty } else { first }, second), 0)?
        };
        match self.traits.kind {
            Kind::Edit => TextConditioning::join(&[&positive, &negative, &negative]),
            _ => TextConditioning::join(&[&negative, &positive]),
        }
    }

    /// SDXL's numbers about a picture, for each sample of each branch: original height and width, top and left of the
    /// crop, then target height and width, or for the refiner an aesthetic score.
    fn time_ids(&self, options: &SampleOptions, branches: usize) -> Result<HostTensor> {
        let size = self.size(options)?;
        let (original, target) = (options.original_size.unwrap_or(size), options.target_size.unwrap_or(size));
        let place = [original.0, original.1, options.crop.0, options.crop.1].map(|v| v as f32);
        let (positive, negative) = options.aesthetic_scores;
        let mut data = Vec::new();
        for branch in 0..branches {
            let score = if branch + 1 == branches { positive } else { negative };
            let rest = if self.traits.aesthetic { vec![score as f32] } else { vec![target.0 as f32, target.1 as f32] };
            data.extend([place.as_slice(), &rest].concat().repeat(options.batch_size));
        }
        let rows = branches * options.batch_size;
        HostTensor::new([rows, data.len() / rows], data)
    }
}
