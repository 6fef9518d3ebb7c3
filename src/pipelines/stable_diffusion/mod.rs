//! Stable Diffusion: text to picture in the latent space of an autoencoder (Rombach et al. 2022; XL: Podell et al. 2023).

mod options;

pub use options::PromptOptions;

use super::Runtime;
use super::autoencoder::Autoencoder;
use super::denoise::{DenoiseLoop, DenoiseSpec, Progress, step_graph};
use super::text::{TextConditioning, TextEncoders};
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc};
use crate::models::{ConditionClassEmbedding, Sizes, UNet2DConditionModel};
use crate::rng::{NoiseSource, randn_tensor};
use crate::schedulers::{Schedule, Scheduler};
use crate::tensor::HostTensor;

/// A Stable Diffusion 1, 2 or XL checkpoint.
pub struct StableDiffusionPipeline {
    text: TextEncoders,
    unet: UNet2DConditionModel,
    unet_weights: Weights,
    /// The autoencoder.
    pub vae: Autoencoder,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// SDXL takes zeros for a missing negative prompt (`force_zeros_for_empty_prompt`).
    zero_negative: bool,
}

/// Pipelines of diffusers whose checkpoints this one runs.
pub const PIPELINES: &[&str] =
    &["StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline"];

impl StableDiffusionPipeline {
    /// Loads everything but the weights themselves, which each step of [`StableDiffusionPipeline::sample`] reads when it needs them.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] for configs, [`Error::Checkpoint`] for weights.
    pub fn load(checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<Self> {
        let component = checkpoint.component("unet")?;
        let unet = UNet2DConditionModel::from_json(&component.config)?;
        let unet_weights = Weights::new(component.tensors, &crate::models::Model::parameters(&unet)?)?;
        let vae = Autoencoder::load(checkpoint, unet.config.text_time.is_some())?;
        let (latent, taken) = (vae.latent_channels(), unet.config.in_channels);
        if taken != latent {
            return Err(Error::Unsupported(format!(
                "{}: a U-Net that takes {taken} channels for latents of {latent} (inpainting, editing, upscaling)",
                checkpoint.path().display()
            )));
        }
        if unet.config.class_embedding != ConditionClassEmbedding::None {
            return Err(Error::Unsupported(format!(
                "{}: a U-Net with class labels in a text-to-image pipeline",
                checkpoint.path().display()
            )));
        }
        let text = TextEncoders::load(checkpoint, unet.config.text_time.is_some())?;
        let zero_negative = unet.config.text_time.is_some()
            && checkpoint.option("force_zeros_for_empty_prompt").and_then(serde_json::Value::as_bool).unwrap_or(true);
        Ok(Self { text, unet, unet_weights, vae, scheduler, zero_negative })
    }

    /// Rows and columns of the pictures.
    ///
    /// # Errors
    /// [`Error::Usage`] if they are not multiples of what one latent stands for.
    pub fn size(&self, options: &PromptOptions) -> Result<(usize, usize)> {
        let scale = self.vae.downscale();
        if let Some(image) = &options.image {
            return check_size(image.shape[2], image.shape[3], scale);
        }
        let own = self.unet.config.sample_size.unwrap_or((64, 64));
        check_size(options.height.unwrap_or(own.0 * scale), options.width.unwrap_or(own.1 * scale), scale)
    }

    /// Whether the U-Net sees every sample twice. Distilled models take the scale as an input instead.
    fn guided(&self, options: &PromptOptions) -> bool {
        options.guidance_scale.iter().any(|s| *s > 1.0) && self.unet.config.time_cond_proj_dim.is_none()
    }

    /// Number of windows of the text encoder that the prompts fill; more than one is worth telling the user.
    ///
    /// # Errors
    /// As [`TextEncoders::windows`].
    pub fn windows(&self, options: &PromptOptions) -> Result<usize> {
        let lists = [Some(&options.prompts), options.prompts_2.as_ref(), options.negative_prompts.as_ref()];
        lists.into_iter().flatten().try_fold(1, |most, list| Ok(most.max(self.text.windows(list)?)))
    }

    /// Makes pictures `[N, 3, H, W]` in [0, 1]. `sources` holds one noise source for the whole batch or one for each picture.
    ///
    /// # Errors
    /// [`Error::Usage`], [`Error::Shape`] and [`Error::Limits`] if the options do not fit the model or the device; [`Error::Device`] if the device is
    /// lost; what `observe` returns.
    pub fn sample<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &PromptOptions,
        sources: &mut [S],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let latents = self.sample_latents(runtime, options, sources, observe)?;
        self.vae.decode(runtime, &latents)
    }

    /// As [`StableDiffusionPipeline::sample`], but returns the latents `[N, C, h, w]` that the U-Net works on.
    ///
    /// # Errors
    /// As [`StableDiffusionPipeline::sample`].
    pub fn sample_latents<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &PromptOptions,
        sources: &mut [S],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let batch = options.prompts.len();
        if batch == 0 {
            return Err(Error::Usage("there is no prompt".into()));
        }
        if options.negative_prompts.iter().chain(&options.prompts_2).any(|list| list.len() != batch) {
            return Err(Error::Usage(format!("{batch} prompts need as many negative and second prompts")));
        }
        let scales = &options.guidance_scale;
        if let Some(scale) = scales.iter().find(|s| !s.is_finite()) {
            return Err(Error::Usage(format!("--guidance-scale {scale}: expected a finite number")));
        }
        if scales.len() != 1 && scales.len() != batch {
            return Err(Error::Usage(format!(
                "--guidance-scale: {} numbers for {batch} pictures; give one, or one for each",
                scales.len()
            )));
        }
        let (height, width) = self.size(options)?;
        let scale = self.vae.downscale();
        let shape = [batch, self.vae.latent_channels(), height / scale, width / scale];
        let schedule = self.scheduler.schedule(&options.sampling)?;

        // 1. the text, and for guidance its opposite
        let guided = self.guided(options);
        let text = self.encode_text(runtime, options, guided)?;

        // 2. noise, or a noised picture
        let start = match &options.image {
            None => {
                let mut noise = randn_tensor(sources, &shape);
                noise.data.iter_mut().for_each(|v| *v *= schedule.init_noise_sigma as f32);
                noise
            }
            Some(image) => self.noised_picture(runtime, image, &shape, &schedule, sources)?,
        };

        // 3. every step
        let mut session = runtime.device.load(
            self.step_graph(runtime, &schedule, &shape, guided, &text)?,
            &self.unet_weights,
            runtime.load,
        )?;
        session.write("encoder_hidden_states", &text.hidden_states)?;
        if guided {
            session.write(
                "guidance_scale",
                &HostTensor {
                    shape: vec![batch],
                    data: scales.iter().cycle().take(batch).map(|s| *s as f32).collect(),
                },
            )?;
        }
        if self.unet.config.text_time.is_some() {
            let pooled = text
                .pooled
                .as_ref()
                .ok_or_else(|| Error::Config("the U-Net needs pooled text, the text encoders return none".into()))?;
            session.write("text_embeds", pooled)?;
            session.write("time_ids", &time_ids(options, (height, width), text.hidden_states.shape[0]))?;
        }
        if let Some(dim) = self.unet.config.time_cond_proj_dim {
            session.write("timestep_cond", &guidance_scale_embedding(scales, dim, batch))?;
        }
        DenoiseLoop { session, schedule: &schedule }.run(&start, sources, observe)
    }

    /// The prompts, with the negative ones before them if `guided`.
    fn encode_text(&self, runtime: &Runtime<'_>, options: &PromptOptions, guided: bool) -> Result<TextConditioning> {
        let count = self.windows(options)?;
        let second = options.prompts_2.as_ref().unwrap_or(&options.prompts);
        let prompts: [&[String]; 2] = [&options.prompts, second];
        let positive = self.text.encode(runtime, &prompts, count, options.clip_skip)?;
        if !guided {
            return Ok(positive);
        }
        let negative = match &options.negative_prompts {
            None if self.zero_negative => positive.zeroed(),
            given => {
                let empty = vec![String::new(); options.prompts.len()];
                // diffusers skips layers for the prompt alone.
                self.text.encode(runtime, &[given.as_ref().unwrap_or(&empty)], count, 0)?
            }
        };
        let both = |a: &HostTensor, b: &HostTensor| -> Result<HostTensor> {
            let mut shape = a.shape.clone();
            shape[0] += b.shape[0];
            HostTensor::new(shape, [a.data.as_slice(), b.data.as_slice()].concat())
        };
        Ok(TextConditioning {
            hidden_states: both(&negative.hidden_states, &positive.hidden_states)?,
            pooled: match (&negative.pooled, &positive.pooled) {
                (Some(n), Some(p)) => Some(both(n, p)?),
                _ => None,
            },
        })
    }

    fn step_graph(
        &self,
        runtime: &Runtime<'_>,
        schedule: &Schedule,
        shape: &[usize; 4],
        guided: bool,
        text: &TextConditioning,
    ) -> Result<Graph> {
        let &[batch, channels, height, width] = shape;
        let spec = DenoiseSpec { schedule, batch, height, width, channels, guidance: guided };
        let tokens = text.hidden_states.shape[1];
        let time_ids = if self.unet.config.text_time.is_some() { 6 } else { 0 };
        let sizes = Sizes { batch: spec.model_batch(), height, width, tokens, time_ids };
        step_graph(&spec, runtime.dtype, |m, call| {
            let inputs = self.unet.inputs(m.graph, &sizes, call.sample, call.timestep)?;
            self.unet.build(m, inputs)
        })
    }

    /// A picture's latents, noised to the level of the first step: what image-to-image starts from.
    fn noised_picture<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        image: &HostTensor,
        shape: &[usize; 4],
        schedule: &Schedule,
        sources: &mut [S],
    ) -> Result<HostTensor> {
        let one = [1, shape[1], shape[2], shape[3]];
        // diffusers draws the picture's sample first, then the noise.
        let draw = self.vae.draw(&mut sources[0], &one);
        let latents = self.vae.encode(runtime, image, &draw)?;
        let noise = randn_tensor(sources, shape);
        let repeated = HostTensor::new(*shape, latents.data.repeat(shape[0]))?;

        let noising = schedule.steps[0].add_noise;
        let mut graph = Graph::new();
        let original = graph.input("original", TensorDesc::f32(shape.to_vec()));
        let eps = graph.input("noise", TensorDesc::f32(shape.to_vec()));
        let k = graph.input("coefficients", TensorDesc::f32([shape[0], 2]));
        let noisy = graph.add_noise("add_noise", original, eps, k)?;
        graph.output("noisy", noisy);
        let mut session = runtime.device.load(graph, &std::collections::HashMap::new(), runtime.load)?;
        session.write("original", &repeated)?;
        session.write("noise", &noise)?;
        session.write(
            "coefficients",
            &HostTensor::new([shape[0], 2], [noising.signal as f32, noising.noise as f32].repeat(shape[0]))?,
        )?;
        session.run()?;
        session.read("noisy")
    }
}

fn check_size(height: usize, width: usize, scale: usize) -> Result<(usize, usize)> {
    if height == 0
        || width == 0
        || !height.is_multiple_of(scale)
        || !width.is_multiple_of(scale)
        || height.max(width) > 1 << 14
    {
        return Err(Error::Usage(format!(
            "a picture {height} high and {width} wide: height and width must be multiples of {scale}, at most {}",
            1 << 14
        )));
    }
    Ok((height, width))
}

/// SDXL's numbers about a picture, for each of `batch` samples: original height and width, top and left of the crop, target height and width.
fn time_ids(options: &PromptOptions, size: (usize, usize), batch: usize) -> HostTensor {
    let (original, target) = (options.original_size.unwrap_or(size), options.target_size.unwrap_or(size));
    let ids = [original.0, original.1, options.crop.0, options.crop.1, target.0, target.1].map(|v| v as f32);
    HostTensor { shape: vec![batch, 6], data: ids.repeat(batch) }
}

/// A distilled model's embedding of the guidance scale w (Meng et al. 2023): sines then cosines of 1000·w at falling frequencies.
fn guidance_scale_embedding(scales: &[f64], dim: usize, batch: usize) -> HostTensor {
    let half = dim / 2;
    let mut data = Vec::with_capacity(batch * dim);
    for scale in scales.iter().cycle().take(batch) {
        let w = scale - 1.0;
        let angle = |i: usize| 1000.0 * w * (-(10_000f64.ln()) * i as f64 / (half as f64 - 1.0)).exp();
        data.extend((0..half).map(|i| angle(i).sin() as f32).chain((0..half).map(|i| angle(i).cos() as f32)));
        data.resize(data.len().next_multiple_of(dim), 0.0); // an odd dim ends with a zero
    }
    HostTensor { shape: vec![batch, dim], data }
}
