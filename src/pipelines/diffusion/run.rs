//! Runs: the condition, what the run starts from, every step, and the pictures.

use super::start::Start;
use super::{DiffusionPipeline, Kind, SampleOptions, style};
use crate::error::Result;
use crate::graph::{Graph, WeightSource, WeightSources};
use crate::models::Sizes;
use crate::parallel;
use crate::pipelines::Runtime;
use crate::pipelines::activations::Activations;
use crate::pipelines::attention::CrossAttention;
use crate::pipelines::autoencoder::Half;
use crate::pipelines::classifier::CLASSIFIER;
use crate::pipelines::denoise::{DenoiseLoop, DenoiseSpec, Progress, Shown, step_graph};
use crate::refusal::Refusal;
use crate::rng::NoiseSource;
use crate::schedulers::{Frame, Schedule};
use crate::tensor::{DType, HostTensor};
use crate::trace;

impl DiffusionPipeline {
    /// Makes pictures `[N, C, H, W]` in [0, 1]. `sources` holds one noise source for the whole batch or one for each
    /// picture.
    ///
    /// # Errors
    /// Of [`crate::Error`]: `Refused`, `Usage`, `Shape` and `Limits` if the options do not fit the model or the device;
    /// `Device` if the device is lost; `Cancelled` if the run was asked to stop; what `observe` returns.
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
    pub(super) fn run<S: NoiseSource>(
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
    pub(super) fn run_each<S: NoiseSource>(
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
    /// As [`crate::pipelines::Autoencoder::decode`].
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
    pub(super) fn spec<'a>(
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
    pub(super) fn sizes(&self, batch: usize, (height, width): (usize, usize), tokens: usize) -> Sizes {
        let time_ids = match (self.unet.has_text_time(), self.traits.aesthetic) {
            (false, _) => 0,
            (true, true) => 5,
            (true, false) => 6,
        };
        Sizes { batch, height, width, tokens, time_ids }
    }

    /// The graph of one step on `tokens` tokens, and what it shows of itself.
    pub(super) fn graph_of_step(
        &self,
        runtime: &Runtime<'_>,
        spec: &DenoiseSpec<'_>,
        tokens: usize,
    ) -> Result<(Graph, Shown)> {
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
