//! Stable Diffusion: pictures from prompts in the latent space of an autoencoder (Rombach et al. 2022; XL: Podell et
//! al. 2023).
//!
//! One pipeline does what diffusers spreads over a class a task. What a checkpoint is for shows in how many channels
//! its U-Net takes beside the latents ([`Kind`]); what is done with it, in which of picture, mask and latents are given
//! ([`PromptOptions`]).

mod conditioning;
mod memory;
mod options;
mod start;

pub use memory::{PipelinePlan, Stage};
pub use options::PromptOptions;

use super::Runtime;
use super::autoencoder::Autoencoder;
use super::denoise::{DenoiseLoop, DenoiseSpec, Progress, guidance_weights, step_graph};
use super::text::TextEncoders;
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc};
use crate::models::{ConditionClassEmbedding, Model, Sizes, UNet2DConditionModel};
use crate::overflow::F32Fallback;
use crate::rng::NoiseSource;
use crate::schedulers::{Sampling, Schedule, Scheduler, SchedulerClass, SchedulerConfig};
use crate::tensor::HostTensor;
use conditioning::{guidance_scale_embedding, instruction_weights};

/// Pipelines of diffusers whose checkpoints this one runs.
pub const PIPELINES: &[&str] = &[
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
];

/// Pipelines that mend old scheduler configs when they are loaded, as diffusers' do.
const MENDING: &[&str] =
    &["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];

/// What a U-Net was trained to see beside the noisy latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: text to image, image to image, and inpainting by putting back what shall stay.
    Plain,
    /// A mask and the latents of the masked picture.
    Inpaint,
    /// The latents of the picture to edit (instruct-pix2pix, Brooks et al. 2023).
    Edit,
    /// The small picture, noised, with the noise's timestep as class.
    Upscale,
}

/// A Stable Diffusion 1, 2 or XL checkpoint.
pub struct StableDiffusionPipeline {
    /// What the U-Net is for.
    pub kind: Kind,
    text: TextEncoders,
    unet: UNet2DConditionModel,
    unet_weights: Weights,
    unet_fallback: F32Fallback,
    /// The autoencoder.
    pub vae: Autoencoder,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// Enlarging: how the small picture is noised, and up to which timestep.
    low_res: Option<(Scheduler, usize)>,
    /// SDXL takes zeros for a missing negative prompt (`force_zeros_for_empty_prompt`).
    zero_negative: bool,
    /// SDXL's refiner is told how beautiful the picture is, in place of its target size (`requires_aesthetics_score`).
    aesthetic: bool,
}

impl StableDiffusionPipeline {
    /// The scheduler config of a checkpoint as its pipeline uses it. The first Stable Diffusion checkpoints were
    /// published with a `steps_offset` of 0 and with `clip_sample`, which were not meant: diffusers mends both on
    /// loading, and so does this.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn scheduler_config(checkpoint: &Checkpoint) -> Result<SchedulerConfig> {
        let config = SchedulerConfig::from_json(&checkpoint.scheduler_config("scheduler")?.text)?;
        if !checkpoint.pipeline_class().is_some_and(|class| MENDING.contains(&class)) {
            return Ok(config);
        }
        config.for_stable_diffusion()
    }

    /// Loads everything but the weights themselves, which each step of [`StableDiffusionPipeline::sample`] reads when
    /// it needs them.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] for configs, [`Error::Checkpoint`] for weights.
    pub fn load(checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<Self> {
        let component = checkpoint.component("unet")?;
        let unet = UNet2DConditionModel::from_json(&component.config)?;
        let unet_weights = Weights::new(component.tensors, &unet.parameters()?)?;
        let xl = unet.config.text_time.is_some();
        let vae = Autoencoder::load(checkpoint, xl)?;
        let kind = kind(checkpoint, &unet, vae.latent_channels())?;
        let low_res = match kind {
            Kind::Upscale => {
                let config = SchedulerConfig::from_json(&checkpoint.scheduler_config("low_res_scheduler")?.text)?;
                let max = checkpoint.option("max_noise_level").and_then(serde_json::Value::as_u64).unwrap_or(350);
                Some((Scheduler::new(config)?, max as usize))
            }
            _ => None,
        };
        let text = TextEncoders::load(checkpoint, xl)?;
        let flag = |name, default| checkpoint.option(name).and_then(serde_json::Value::as_bool).unwrap_or(default);
        let zero_negative = xl && flag("force_zeros_for_empty_prompt", true);
        let aesthetic = xl && flag("requires_aesthetics_score", false);
        let unet_fallback = F32Fallback::new("U-Net");
        Ok(Self { kind, text, unet, unet_weights, unet_fallback, vae, scheduler, low_res, zero_negative, aesthetic })
    }

    /// What the user should hear about the runs so far, such as that f16 overflowed; each is returned once.
    pub fn take_notes(&self) -> Vec<String> {
        [self.text.take_notes(), self.unet_fallback.take_notes(), self.vae.take_notes()].concat()
    }

    /// Rows and columns of the pictures.
    ///
    /// # Errors
    /// [`Error::Usage`] if they are not multiples of what one latent stands for.
    pub fn size(&self, options: &PromptOptions) -> Result<(usize, usize)> {
        let scale = self.vae.downscale();
        let (height, width) = match (&options.image, &options.latents) {
            (Some(image), _) if self.kind == Kind::Upscale => (image.shape[2] * scale, image.shape[3] * scale),
            (Some(image), _) => (image.shape[2], image.shape[3]),
            (None, Some(latents)) if latents.shape.len() == 4 => (latents.shape[2] * scale, latents.shape[3] * scale),
            _ => {
                let own = self.unet.config.sample_size.unwrap_or((64, 64));
                (options.height.unwrap_or(own.0 * scale), options.width.unwrap_or(own.1 * scale))
            }
        };
        check_size(height, width, scale)?;
        Ok((height, width))
    }

    /// How often the U-Net sees every sample. Distilled models take the guidance scale as an input instead.
    fn branches(&self, options: &PromptOptions) -> usize {
        let guided = options.guidance_scale.iter().any(|s| *s > 1.0) && self.unet.config.time_cond_proj_dim.is_none();
        match self.kind {
            Kind::Edit if guided && options.image_guidance_scale >= 1.0 => 3,
            Kind::Edit => 1,
            _ if guided => 2,
            _ => 1,
        }
    }

    /// The run as the model's own pipeline does it: a latent consistency model does all its steps at any strength, in a
    /// shorter stretch of noise levels.
    fn sampling(&self, options: &PromptOptions) -> Sampling {
        let asked = options.sampling.clone();
        match self.unet.config.time_cond_proj_dim {
            Some(_) if self.scheduler.config.class == SchedulerClass::Lcm => {
                Sampling { distilled_strength: asked.strength, strength: 1.0, ..asked }
            }
            _ => asked,
        }
    }

    /// Number of windows of the text encoder that the prompts fill; more than one is worth telling the user.
    ///
    /// # Errors
    /// As [`TextEncoders::windows`].
    pub fn windows(&self, options: &PromptOptions) -> Result<usize> {
        let second = [&options.prompts_2, &options.negative_prompts, &options.negative_prompts_2];
        let lists = std::iter::once(&options.prompts).chain(second.into_iter().flatten());
        lists.into_iter().try_fold(1, |most, list| Ok(most.max(self.text.windows(list, options.weighting)?)))
    }

    /// Makes pictures `[N, 3, H, W]` in [0, 1]. `sources` holds one noise source for the whole batch or one for each
    /// picture.
    ///
    /// # Errors
    /// [`Error::Usage`], [`Error::Shape`] and [`Error::Limits`] if the options do not fit the model or the
    /// device; [`Error::Device`] if the device is lost; what `observe` returns.
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
        self.check(options)?;
        let batch = options.prompts.len();
        let (height, width) = self.size(options)?;
        let scale = self.vae.downscale();
        let shape = [batch, self.vae.latent_channels(), height / scale, width / scale];
        let schedule = self.scheduler.schedule(&self.sampling(options))?;
        let branches = self.branches(options);
        self.plan(runtime, options)?.check()?;

        // 1. the text, and for guidance its opposite
        let text = self.encode_text(runtime, options, branches)?;

        // 2. noise, or a noised picture; and what the U-Net or the loop is shown of a picture
        let start = self.start(runtime, options, &shape, &schedule, sources)?;

        // 3. every step
        let spec = self.spec(options, &schedule, &shape);
        let graph = self.step_graph(runtime, &spec, text.hidden_states.shape[1])?;
        let mut session = self.unet_fallback.load(runtime.device, &graph, &self.unet_weights, runtime.load)?;
        session.write("encoder_hidden_states", &text.hidden_states)?;
        // A picture with a scale of 1 or less in a batch with others is as it would be alone: not guided.
        let scales: Vec<f64> = options.guidance_scale.iter().cycle().take(batch).copied().collect();
        let guided: Vec<f64> = scales.iter().map(|s| s.max(1.0)).collect();
        match branches {
            1 => {}
            2 => session.write("guidance_weights", &guidance_weights(&guided))?,
            _ => session.write("guidance_weights", &instruction_weights(&guided, options.image_guidance_scale))?,
        }
        if self.unet.config.text_time.is_some() {
            let pooled = text
                .pooled
                .as_ref()
                .ok_or_else(|| Error::Config("the U-Net needs pooled text, the text encoders return none".into()))?;
            session.write("text_embeds", pooled)?;
            session.write("time_ids", &self.time_ids(options, (height, width), branches))?;
        }
        if let Some(dim) = self.unet.config.time_cond_proj_dim {
            session.write("timestep_cond", &guidance_scale_embedding(&scales, dim))?;
        }
        if let Some(condition) = &start.condition {
            session.write("condition", &self.condition(condition, branches)?.channels_last())?;
        }
        if self.kind == Kind::Upscale {
            let labels = vec![options.noise_level as f32; spec.model_batch()];
            session.write("class_labels", &HostTensor { shape: vec![labels.len()], data: labels })?;
        }
        if let Some(kept) = &start.kept {
            session.write("original", &kept.original.channels_last())?;
            session.write("original_noise", &kept.noise.channels_last())?;
            session.write("mask", &kept.mask.channels_last())?;
        }
        DenoiseLoop { session, schedule: &schedule }.run(&start.latents, sources, observe)
    }

    /// One step for latents of `shape` `[N, C, h, w]`.
    fn spec<'a>(&self, options: &PromptOptions, schedule: &'a Schedule, shape: &[usize; 4]) -> DenoiseSpec<'a> {
        let &[batch, channels, height, width] = shape;
        let branches = self.branches(options);
        DenoiseSpec {
            schedule,
            shape: vec![batch, height, width, channels],
            branches,
            rescale: (branches == 2 && options.guidance_rescale > 0.0).then_some((options.guidance_rescale, 1)),
            masked: self.kind == Kind::Plain && options.mask.is_some(),
        }
    }

    fn step_graph(&self, runtime: &Runtime<'_>, spec: &DenoiseSpec<'_>, tokens: usize) -> Result<Graph> {
        let (batch, height, width) = (spec.model_batch(), spec.shape[1], spec.shape[2]);
        let time_ids = match (self.unet.config.text_time, self.aesthetic) {
            (None, _) => 0,
            (Some(_), true) => 5,
            (Some(_), false) => 6,
        };
        let sizes = Sizes { batch, height, width, tokens, time_ids };
        let beside = self.unet.config.in_channels - spec.channels();
        step_graph(spec, runtime.dtype, |m, call| {
            let mut sample = call.sample;
            if beside > 0 {
                let condition = m.graph.input("condition", TensorDesc::f32([batch, height, width, beside]));
                sample = m.graph.concat("sample_and_condition", sample, condition, -1)?;
            }
            let inputs = self.unet.inputs(m.graph, &sizes, sample, call.timestep)?;
            self.unet.build(m, inputs)
        })
    }

    /// What the U-Net is shown beside the latents, for all its branches. Editing has one branch that sees no picture.
    fn condition(&self, condition: &HostTensor, branches: usize) -> Result<HostTensor> {
        let mut data = condition.data.repeat(branches);
        if self.kind == Kind::Edit && branches == 3 {
            data[2 * condition.len()..].fill(0.0);
        }
        let mut shape = condition.shape.clone();
        shape[0] *= branches;
        HostTensor::new(shape, data)
    }
}

/// What a U-Net is for, by the channels it takes.
fn kind(checkpoint: &Checkpoint, unet: &UNet2DConditionModel, latent: usize) -> Result<Kind> {
    let taken = unet.config.in_channels;
    let classes = unet.config.class_embedding;
    let found = match (taken, classes) {
        (n, ConditionClassEmbedding::None) if n == latent => Some(Kind::Plain),
        (n, ConditionClassEmbedding::None) if n == 2 * latent + 1 => Some(Kind::Inpaint),
        (n, ConditionClassEmbedding::None) if n == 2 * latent => Some(Kind::Edit),
        (n, ConditionClassEmbedding::Table(_)) if n == latent + 3 => Some(Kind::Upscale),
        _ => None,
    };
    found.ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: a U-Net that takes {taken} channels for latents of {latent} and the class embedding {classes:?}; there are text to image ({latent} \
             channels), inpainting ({}), editing ({}) and, with a table of classes, enlarging ({})",
            checkpoint.path().display(),
            2 * latent + 1,
            2 * latent,
            latent + 3,
        ))
    })
}

fn check_size(height: usize, width: usize, scale: usize) -> Result<()> {
    let fits = |n: usize| n > 0 && n.is_multiple_of(scale) && n <= 1 << 14;
    if fits(height) && fits(width) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "a picture {height} high and {width} wide: height and width must be multiples of {scale}, at most {}",
        1 << 14
    )))
}
