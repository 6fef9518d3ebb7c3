//! Pictures from noise, with a U-Net and a scheduler (Ho et al. 2020; Song et al. 2020); from prompts, in the latent
//! space of an autoencoder (Rombach et al. 2022; XL: Podell et al. 2023).
//!
//! One pipeline does what diffusers spreads over one class for each task: encode the condition, draw what the run
//! starts from, do every step, decode. A U-Net on pixels has no text encoder and no autoencoder, and its condition is a
//! class. The channels that a checkpoint's U-Net takes besides the latents say what it is for ([`Kind`]); the task
//! follows from which of picture, mask and latents are given ([`SampleOptions`]).

mod anomaly;
mod classifier;
mod conditioning;
mod edit;
mod fits;
mod guidance;
mod invert;
mod likelihood;
mod loss;
mod memory;
mod options;
mod start;
mod style;
mod texts;
mod training;
mod traits;
mod unet;

pub use anomaly::{NoiseShape, squared_difference};
pub use classifier::Classifier;
pub use edit::{EditMask, thresholded};
pub use fits::{changes, check as check_fits, check_scheduler};
pub use likelihood::Likelihood;
pub use loss::{Bound, Example, ExampleLoss, Prepared};
pub use memory::{PipelinePlan, Stage};
pub use options::{MaskReduction, SampleOptions};
pub use style::Style;
pub use training::{Noised, TimestepSampling, TrainingProcess, VarianceTraining};
pub use traits::{ClassifierTraits, Kind, Traits};

use std::ops::Range;

use super::Runtime;
use super::activations::Activations;
use super::attention::CrossAttention;
use super::autoencoder::{Autoencoder, Half, Tiling};
use super::classifier::CLASSIFIER;
use super::denoise::{DenoiseLoop, DenoiseSpec, Progress, Shown, step_graph};
use super::text::TextEncoders;
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::{Error, Result};
use crate::graph::{Graph, WeightSource, WeightSources};
use crate::models::{ClassEmbedding, ConditionClassEmbedding, Sizes};
use crate::overflow::F32Fallback;
use crate::parallel;
use crate::refusal::Refusal;
use crate::rng::NoiseSource;
use crate::schedulers::{Frame, Schedule, Scheduler, SchedulerClass, SchedulerConfig};
use crate::tensor::{DType, HostTensor};
use crate::trace;
use start::Start;
use texts::Texts;
use unet::UNet;

/// Pipelines of diffusers without text whose checkpoints this one runs.
pub const PIXEL_PIPELINES: &[&str] = &[
    "DDPMPipeline",
    "DDIMPipeline",
    "ScoreSdeVePipeline",
    "ScoreSdeVpPipeline",
    "KarrasVePipeline",
    "ConsistencyModelPipeline",
    "RePaintPipeline",
    LDM,
    LDM_SUPER_RESOLUTION,
];

/// The pipeline whose U-Net is one on pixels that works on latents.
const LDM: &str = "LDMPipeline";

/// Such a pipeline whose U-Net sees a small picture, too.
const LDM_SUPER_RESOLUTION: &str = "LDMSuperResolutionPipeline";

/// Text to image before Stable Diffusion, with a text encoder of its own.
const LDM_TEXT: &str = "LDMTextToImagePipeline";

/// Pipelines of diffusers with text whose checkpoints this one runs.
pub const STABLE_DIFFUSION_PIPELINES: &[&str] = &[
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
    LDM_TEXT,
];

/// Pipelines that correct old scheduler configs when they are loaded, as diffusers' do.
const MENDING: &[&str] =
    &["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];

/// A U-Net, its scheduler, and for latents its text encoders and autoencoder.
pub struct DiffusionPipeline {
    /// What decides which options fit the model.
    pub traits: Traits,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// The autoencoder, of a model that works on latents.
    pub vae: Option<Autoencoder>,
    text: Option<TextEncoders>,
    unet: UNet,
    unet_weights: Weights,
    unet_fallback: F32Fallback,
    /// Enlarging: how the small picture is noised.
    low_res: Option<Scheduler>,
    /// SDXL takes zeros for a missing negative prompt (`force_zeros_for_empty_prompt`).
    zero_negative: bool,
    /// What leads to a class besides the U-Net's own.
    classifier: Option<Classifier>,
}

impl DiffusionPipeline {
    /// The scheduler config of a checkpoint as its pipeline uses it. The first Stable Diffusion checkpoints were
    /// published with a `steps_offset` of 0 and with `clip_sample`, by mistake: diffusers corrects both on
    /// loading, and so does this.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn scheduler_config(checkpoint: &Checkpoint) -> Result<SchedulerConfig> {
        Self::mended(SchedulerConfig::read(&checkpoint.scheduler_config("scheduler")?)?, checkpoint)
    }

    /// As [`DiffusionPipeline::scheduler_config`], for a run with another scheduler: of one that the engine does not
    /// know, what it says of the model's training ([`SchedulerConfig::training`]).
    ///
    /// # Errors
    /// As [`SchedulerConfig::training`].
    pub fn training_config(checkpoint: &Checkpoint) -> Result<SchedulerConfig> {
        Self::mended(SchedulerConfig::training(&checkpoint.scheduler_config("scheduler")?)?, checkpoint)
    }

    fn mended(config: SchedulerConfig, checkpoint: &Checkpoint) -> Result<SchedulerConfig> {
        if !checkpoint.pipeline_class().is_some_and(|class| MENDING.contains(&class)) {
            return Ok(config);
        }
        config.for_stable_diffusion()
    }

    /// Checks that a checkpoint is one that this pipeline runs; a bare component may be.
    ///
    /// # Errors
    /// [`Error::Unsupported`] listing those that there are.
    pub fn check_class(checkpoint: &Checkpoint) -> Result<()> {
        match checkpoint.pipeline_class() {
            Some(class) if !PIXEL_PIPELINES.contains(&class) && !STABLE_DIFFUSION_PIPELINES.contains(&class) => {
                Err(Error::Unsupported(format!(
                    "{}: a {class}; there are {} and {}",
                    checkpoint.path().display(),
                    PIXEL_PIPELINES.join(", "),
                    STABLE_DIFFUSION_PIPELINES.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// Loads everything but the weights themselves, which each step of [`DiffusionPipeline::sample`] reads when it
    /// needs them.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] for configs, [`Error::Checkpoint`] for weights.
    pub fn load(checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<Self> {
        Self::check_class(checkpoint)?;
        let component = checkpoint.component("unet")?;
        let unet = UNet::new(checkpoint, &component)?;
        let unet_weights = Weights::of(&component, &unet.as_model().parameters()?)?;
        let xl = unet.has_text_time();
        let mut text = None;
        let vae = autoencoder(checkpoint, &unet, xl)?;
        let kind = kind(checkpoint, &unet, vae.as_ref())?;
        let low_res = match kind {
            Kind::Upscale => {
                let config = SchedulerConfig::read(&checkpoint.scheduler_config("low_res_scheduler")?)?;
                Some(Scheduler::new(config)?)
            }
            _ => None,
        };
        if let UNet::Latents(_) = unet {
            text = Some(TextEncoders::load(checkpoint, xl)?);
        }
        let flag = |name, default| checkpoint.option(name).and_then(serde_json::Value::as_bool).unwrap_or(default);
        let scale = vae.as_ref().map_or(1, Autoencoder::downscale);
        let (classes, multiple) = match &unet {
            UNet::Latents(_) => (None, scale),
            UNet::Pixels(model) => {
                let classes = match model.config.class_embedding {
                    ClassEmbedding::Table(rows) => Some(rows),
                    _ => None,
                };
                (classes, scale << model.config.halvings().min(24))
            }
        };
        let traits = Traits {
            kind,
            xl,
            aesthetic: xl && flag("requires_aesthetics_score", false),
            consistency: scheduler.config.class.frame() == Frame::Consistency
                || checkpoint.pipeline_class().is_some_and(|class| class.starts_with("LatentConsistency")),
            distilled: unet.time_cond_proj_dim().is_some(),
            steps: match scheduler.config.class {
                SchedulerClass::ScoreSdeVe => Some(2000),
                SchedulerClass::ScoreSdeVp => Some(1000),
                _ => None,
            },
            max_noise_level: (kind == Kind::Upscale).then(|| {
                let max = checkpoint.option("max_noise_level").and_then(serde_json::Value::as_u64);
                max.map_or(350, |max| max as usize)
            }),
            classes,
            ldm_text: checkpoint.pipeline_class() == Some(LDM_TEXT),
            classifier: None,
            own_size: unet.sample_size().map(|(height, width)| (height * scale, width * scale)),
            multiple,
            scale,
        };
        let zero_negative = xl && flag("force_zeros_for_empty_prompt", true);
        let unet_fallback = F32Fallback::new("U-Net");
        Ok(Self {
            traits,
            scheduler,
            vae,
            text,
            unet,
            unet_weights,
            unet_fallback,
            low_res,
            zero_negative,
            classifier: None,
        })
    }

    /// Options that suit the model, for one picture without a prompt or class.
    pub fn defaults(&self) -> SampleOptions {
        self.traits.defaults()
    }

    /// Sets whether the autoencoder works in tiles; a model on pixels has none.
    pub fn set_tiling(&mut self, tiling: Tiling) {
        self.vae.iter_mut().for_each(|vae| vae.tiling = tiling);
    }

    /// Notes about the runs so far for the user, such as that f16 overflowed; each is returned once.
    pub fn take_notes(&self) -> Vec<String> {
        let text = self.text.iter().flat_map(TextEncoders::take_notes);
        let vae = self.vae.iter().flat_map(Autoencoder::take_notes);
        text.chain(self.unet_fallback.take_notes()).chain(vae).collect()
    }

    /// Rows and columns of the pictures.
    ///
    /// # Errors
    /// As [`Traits::size`].
    pub fn size(&self, options: &SampleOptions) -> Result<(usize, usize)> {
        Ok(self.traits.size(options)?)
    }

    /// Channels of the pictures: 3, or 1 of a model on grey pixels.
    pub fn picture_channels(&self) -> usize {
        if self.vae.is_none() && self.unet.in_channels() == 1 { 1 } else { 3 }
    }

    /// Channels of what the U-Net denoises: those of a picture, or of latents.
    pub fn sample_channels(&self) -> usize {
        self.vae.as_ref().map_or(self.unet.in_channels(), Autoencoder::latent_channels)
    }

    /// The shape of what the U-Net works on, `[N, C, h, w]`.
    fn latent_shape(&self, options: &SampleOptions) -> Result<[usize; 4]> {
        let (height, width) = self.size(options)?;
        Ok([options.batch_size, self.sample_channels(), height / self.traits.scale, width / self.traits.scale])
    }

    /// The autoencoder, for tasks of models that have one.
    fn autoencoder(&self) -> Result<&Autoencoder> {
        self.vae.as_ref().ok_or_else(|| Error::Unsupported("a model on pixels has no latents".into()))
    }

    /// Checks that `options` make sense for this model.
    fn check(&self, options: &SampleOptions) -> Result<()> {
        let given = |field: &str| if field == "classifier" { self.classifier.is_some() } else { options.given(field) };
        check_fits(&self.traits, &given)?;
        check_scheduler(&self.traits, self.scheduler.config.class, &|field| options.given(field))?;
        self.traits.check(options)?;
        self.classifier_guidance()?;
        if self.text.is_some() && options.prompts.is_empty() {
            return Err(Refusal::of("prompt", "there is none; an empty text is one").into());
        }
        Ok(())
    }

    /// How many steps a run takes: what `num_inference_steps` becomes by strength, a part of the steps, or a scheduler
    /// that asks the model twice a step.
    ///
    /// # Errors
    /// As [`Scheduler::schedule`]. [`DiffusionPipeline::sample`] checks the other options.
    pub fn steps(&self, options: &SampleOptions) -> Result<usize> {
        Ok(self.schedule(options)?.steps.len())
    }

    /// Works out the run.
    fn schedule(&self, options: &SampleOptions) -> Result<Schedule> {
        self.scheduler.schedule(&self.traits.sampling(options, self.scheduler.config.class))
    }

    /// Number of windows of the text encoder that the longest of a run's texts fills, so that all of them take as many;
    /// more than one is worth telling the user.
    ///
    /// # Errors
    /// As [`TextEncoders::windows`]; for prompts that change, as [`DiffusionPipeline::steps`].
    pub fn windows(&self, options: &SampleOptions) -> Result<usize> {
        self.text.as_ref().map_or(Ok(1), |text| self.windows_of(text, &self.texts(options)?, options.weighting))
    }

    fn windows_of(&self, encoders: &TextEncoders, texts: &Texts, weighting: bool) -> Result<usize> {
        let texts: Vec<String> = texts.positive.iter().chain(&texts.negative).flatten().cloned().collect();
        encoders.windows(&texts, weighting)
    }

    /// The words of a prompt, and which of the tokens that the U-Net sees belong to each; none of a prompt that fills
    /// more than one window of the text encoder, and none without text.
    ///
    /// # Errors
    /// As [`TextEncoders::windows`].
    pub fn words(&self, prompt: &str) -> Result<Vec<(String, Range<usize>)>> {
        self.text.as_ref().map_or(Ok(vec![]), |text| text.words(prompt))
    }

    /// Tokens of text that the U-Net sees for each picture; 0 without text.
    fn tokens(&self, options: &SampleOptions) -> Result<usize> {
        self.text.as_ref().map_or(Ok(0), |text| Ok(self.windows(options)? * text.window()))
    }

    /// Makes pictures `[N, C, H, W]` in [0, 1]. `sources` holds one noise source for the whole batch or one for each
    /// picture.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Usage`], [`Error::Shape`] and [`Error::Limits`] if the options do not fit the model
    /// or the device; [`Error::Device`] if the device is lost; [`Error::Cancelled`] if the run was asked to stop;
    /// what `observe` returns.
    pub fn sample<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        sources: &mut [S],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let latents = self.sample_latents(runtime, options, sources, observe)?;
        self.decode(runtime, &latents)
    }

    /// As [`DiffusionPipeline::sample`], but returns what the U-Net works on, `[N, C, h, w]`.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::sample`].
    pub fn sample_latents<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        sources: &mut [S],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        self.check(options)?;
        let shape = self.latent_shape(options)?;
        let schedule = self.schedule(options)?;
        let start = |sources: &mut [S]| self.start(runtime, options, &shape, &schedule, sources);
        self.run(runtime, options, &schedule, sources, start, observe)
    }

    /// Every step of `schedule` from what `start` returns.
    fn run<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        schedule: &Schedule,
        sources: &mut [S],
        start: impl FnOnce(&mut [S]) -> Result<Start>,
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let spec = self.spec(options, schedule, &self.latent_shape(options)?)?;
        let starts = |sources: &mut [S]| Ok(vec![start(sources)?]);
        Ok(self.run_each(runtime, options, &spec, sources, starts, observe)?.swap_remove(0))
    }

    /// Every step of the schedule of `spec` from each of what `starts` returns, one after the other.
    fn run_each<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        spec: &DenoiseSpec<'_>,
        sources: &mut [S],
        starts: impl FnOnce(&mut [S]) -> Result<Vec<Start>>,
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<Vec<HostTensor>> {
        if spec.schedule.adaptive.is_some() && runtime.dtype == DType::F16 {
            let why = "expected f32: RK45 tells the error of a step from differences that f16 rounds away";
            return Err(Refusal::of_value("precision", "f16", why).into());
        }
        let shape = self.latent_shape(options)?;
        let span = trace::span("memory of all stages");
        self.plan(runtime, options)?.check()?;
        drop(span);
        let (graph, shown) = self.graph_of_step(runtime, spec, self.tokens(options)?)?;
        // What comes last is compiled while what comes first runs.
        let compile = || -> Result<()> {
            runtime.device.compile(&graph, runtime.load)?;
            let [_, _, height, width] = shape;
            self.vae.as_ref().map_or(Ok(()), |vae| vae.compile(runtime, Half::Decoder, height, width))
        };
        parallel::meanwhile(compile, || {
            // 1. the condition: text or class, and for guidance its opposite
            let span = trace::span("encode the condition");
            let mut condition = self.encode_condition(runtime, options)?;
            if let Some(factors) = self.classifier_factors(options, spec.schedule)? {
                condition.text = factors; // models on pixels have no text
            }
            drop(span);
            runtime.check_cancelled()?;

            // 2. noise, or a noised picture; and what the U-Net or the loop sees of a picture
            let span = trace::span("noise to start from");
            let starts = starts(sources)?;
            drop(span);
            runtime.check_cancelled()?;

            // 3. every step
            let classifier = self.classifier.as_ref().map(|c| (CLASSIFIER, &c.weights as &dyn WeightSource));
            let weights = WeightSources { own: &self.unet_weights, others: classifier.into_iter().collect() };
            let mut session = self.unet_fallback.load(runtime.device, &graph, &weights, runtime.load)?;
            for (name, tensor) in &condition.constant {
                session.write(name, tensor)?;
            }
            let (schedule, shown, cancel) = (spec.schedule, &shown, runtime.cancel);
            let mut made = Vec::new();
            for start in starts {
                for (name, tensor) in &start.inputs {
                    session.write(name, tensor)?;
                }
                let changing = vec![condition.text.clone(), start.changing];
                let mut steps = DenoiseLoop { session, schedule, changing, shown, cancel };
                made.push(steps.run(&start.latents, sources, observe)?);
                session = steps.session;
            }
            Ok(made)
        })
    }

    /// Pictures `[N, C, H, W]` in [0, 1] of what the U-Net works on.
    ///
    /// # Errors
    /// As [`Autoencoder::decode`].
    pub fn decode(&self, runtime: &Runtime<'_>, latents: &HostTensor) -> Result<HostTensor> {
        let _span = trace::span("decode");
        if let Some(vae) = &self.vae {
            return vae.decode(runtime, latents);
        }
        let mut images = latents.clone();
        // From [−1, 1]; models of the score have been shown pictures from 0 to 1.
        let (scale, mean) = if self.scheduler.config.class.frame() == Frame::Score { (1.0, 0.0) } else { (0.5, 0.5) };
        images.data.iter_mut().for_each(|v| *v = (*v * scale + mean).clamp(0.0, 1.0));
        Ok(images)
    }

    /// One step for latents of `shape` `[N, C, h, w]`.
    fn spec<'a>(
        &'a self,
        options: &SampleOptions,
        schedule: &'a Schedule,
        shape: &[usize; 4],
    ) -> Result<DenoiseSpec<'a>> {
        let &[batch, channels, height, width] = shape;
        let branches = self.guidance(options).branches;
        Ok(DenoiseSpec {
            schedule,
            shape: vec![batch, height, width, channels],
            branches,
            rescale: (branches == 2 && options.guidance_rescale > 0.0).then_some((options.guidance_rescale, 1)),
            masked: matches!(self.traits.kind, Kind::Pixels | Kind::Plain) && options.mask.is_some(),
            lends_self_attention: false,
            classifier: self.classifier_guidance()?,
        })
    }

    /// The sizes of a call of the U-Net on rows and columns of latents.
    fn sizes(&self, batch: usize, (height, width): (usize, usize), tokens: usize) -> Sizes {
        let time_ids = match (self.unet.has_text_time(), self.traits.aesthetic) {
            (false, _) => 0,
            (true, true) => 5,
            (true, false) => 6,
        };
        Sizes { batch, height, width, tokens, time_ids }
    }

    /// The graph of one step on `tokens` tokens, and what it shows of itself.
    fn graph_of_step(&self, runtime: &Runtime<'_>, spec: &DenoiseSpec<'_>, tokens: usize) -> Result<(Graph, Shown)> {
        let sizes = self.sizes(spec.model_batch(), (spec.shape[1], spec.shape[2]), tokens);
        let mut graph = step_graph(spec, runtime.dtype, |m, call| self.unet.build(m, &sizes, call))?;
        if spec.lends_self_attention {
            graph = style::lend_self_attention(&graph, spec.model_batch())?;
        }
        let mut shown = Shown::default();
        if runtime.activations {
            shown.activations = Activations::expose(&mut graph);
        }
        if !runtime.attention || self.text.is_none() {
            return Ok((graph, shown));
        }
        // The first picture's prompt: the branch of the prompts is the last one, but for editing the first.
        let row = if self.traits.kind == Kind::Edit { 0 } else { (spec.branches - 1) * spec.batch() };
        shown.attention = CrossAttention::expose(&mut graph, tokens, row);
        Ok((graph, shown))
    }
}

/// The autoencoder of a model on latents: `vae`, or `vqvae` in the first latent diffusion models.
fn autoencoder(checkpoint: &Checkpoint, unet: &UNet, xl: bool) -> Result<Option<Autoencoder>> {
    let first = checkpoint.pipeline_class().filter(|class| [LDM, LDM_SUPER_RESOLUTION, LDM_TEXT].contains(class));
    let Some(class) = first else {
        let latents = matches!(unet, UNet::Latents(_));
        return latents.then(|| Autoencoder::load(checkpoint, "vae", xl)).transpose();
    };
    // They call their components otherwise, and so would not look at these.
    for field in ["vae", "text_encoder", "text_encoder_2"] {
        if checkpoint.component_names().iter().any(|name| name == field) {
            let why = format!("the folder of a {class} has an autoencoder and texts of its own, `vqvae` and `bert`");
            return Err(Refusal::of(field, why).into());
        }
    }
    let vqvae = Autoencoder::load(checkpoint, "vqvae", false)?;
    // That pipeline does not look at the factor.
    Ok(Some(if class == LDM_SUPER_RESOLUTION { vqvae.unscaled() } else { vqvae }))
}

/// What a U-Net is for, by the channels it takes.
fn kind(checkpoint: &Checkpoint, unet: &UNet, vae: Option<&Autoencoder>) -> Result<Kind> {
    let Some(latent) = vae.map(Autoencoder::latent_channels) else { return Ok(Kind::Pixels) };
    let (taken, classes) = (unet.in_channels(), unet.condition_classes());
    if let UNet::Pixels(_) = unet {
        let small = checkpoint.pipeline_class() == Some(LDM_SUPER_RESOLUTION);
        let (expected, kind) = if small { (latent + 3, Kind::SuperResolution) } else { (latent, Kind::Pixels) };
        if taken == expected {
            return Ok(kind);
        }
        let file = checkpoint.path().display();
        let beside = if small { " and the small picture 3" } else { "" };
        return Err(Error::Config(format!("{file}: the U-Net takes {taken} channels, latents have {latent}{beside}")));
    }
    let found = match (taken, classes) {
        (n, ConditionClassEmbedding::None) if n == latent => Some(Kind::Plain),
        (n, ConditionClassEmbedding::None) if n == 2 * latent + 1 => Some(Kind::Inpaint),
        (n, ConditionClassEmbedding::None) if n == 2 * latent => Some(Kind::Edit),
        (n, ConditionClassEmbedding::Table(_)) if n == latent + 3 => Some(Kind::Upscale),
        _ => None,
    };
    found.ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: a U-Net that takes {taken} channels for latents of {latent} and the class embedding {classes:?}; \
            there are text to image ({latent} channels), inpainting ({}), editing ({}) and, with a table of classes, \
            enlarging ({})",
            checkpoint.path().display(),
            2 * latent + 1,
            2 * latent,
            latent + 3,
        ))
    })
}
