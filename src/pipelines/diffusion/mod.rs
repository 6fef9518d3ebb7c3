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
mod load;
mod loss;
mod memory;
mod options;
mod run;
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
pub use load::{PIXEL_PIPELINES, STABLE_DIFFUSION_PIPELINES};
pub use loss::{Bound, Example, ExampleLoss, Prepared};
pub use memory::{PipelinePlan, Stage};
pub use options::{MaskReduction, SampleOptions};
pub use style::Style;
pub use training::{Noised, TimestepSampling, TrainingProcess, VarianceTraining};
pub use traits::{ClassifierTraits, Kind, Traits};

use std::ops::Range;

use super::Runtime;
use super::autoencoder::{Autoencoder, Tiling};
use super::text::TextEncoders;
use crate::checkpoint::Weights;
use crate::error::{Error, Result};
use crate::overflow::F32Fallback;
use crate::refusal::Refusal;
use crate::schedulers::{Schedule, Scheduler};
use texts::Texts;
use unet::UNet;

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
}
