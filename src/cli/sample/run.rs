//! Making the pictures: one pipeline, or one and its refiner.

use std::collections::BTreeMap;
use std::io::Write;

use super::reporter::Reporter;
use super::{Args, Failures, Models, Output};
use crate::backend::{Device, LoadOptions};
use crate::checkpoint::safetensors;
use crate::cli::say;
use crate::error::Result;
use crate::output::write_atomic;
use crate::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use crate::request::Resolved;
use crate::rng::NoiseSource;
use crate::schedulers::Sampling;
use crate::tensor::HostTensor;

/// What a run needs besides the models and the request.
pub struct Job<'a> {
    pub args: &'a Args,
    pub device: &'a Device,
    pub load: LoadOptions,
    pub output: &'a Output,
    /// What could not be written beside the pictures.
    pub failures: &'a Failures,
}

impl Job<'_> {
    /// Makes the requested pictures, `[N, C, H, W]` in [0, 1].
    pub fn run(&self, resolved: &Resolved, models: Models) -> Result<HostTensor> {
        let options = &resolved.options;
        let dtype = resolved.request.precision.unwrap_or_default().dtype();
        let runtime = Runtime::new(self.device, &self.load, dtype);
        let mut pipeline = models.model.pipeline;
        let windows = pipeline.windows(options)?;
        if windows > 1 {
            say(format_args!(
                "note: the prompt is longer than the text encoder's window; it is read in {windows} windows side by \
                side"
            ));
        }

        let mut sources = resolved.noise_sources();
        let mut steps = pipeline.steps(options)?;
        if let Some(refiner) = &models.refiner {
            steps += refiner.pipeline.steps(&rest(options))?;
        }
        let mut reporter = Reporter::new(steps, matches!(self.device, Device::Reference));
        let mut latents = self.steps(&runtime, &pipeline, options, &mut sources, &mut reporter)?;
        if let Some(refiner) = models.refiner {
            say_notes(&pipeline);
            pipeline = refiner.pipeline; // the first model is freed
            let rest = SampleOptions { latents: Some(latents), ..rest(options) };
            latents = self.steps(&runtime, &pipeline, &rest, &mut sources, &mut reporter)?;
        }
        if let Some(path) = &self.args.save_latents {
            let write = |out: &mut dyn Write| safetensors::write(out, &[("latents", &latents)], &BTreeMap::new());
            self.failures.keep(write_atomic(path, write));
        }
        reporter.decode();
        let images = pipeline.decode(&runtime, &latents)?;
        reporter.finish(options.batch_size);
        say_notes(&pipeline);
        Ok(images)
    }

    /// What the U-Net has made after all steps of one model.
    fn steps(
        &self,
        runtime: &Runtime<'_>,
        pipeline: &DiffusionPipeline,
        options: &SampleOptions,
        sources: &mut [Box<dyn NoiseSource>],
        reporter: &mut Reporter,
    ) -> Result<HostTensor> {
        let latents = pipeline.sample_latents(runtime, options, sources, &mut |mut progress| {
            reporter.step(&progress);
            let due = self.args.preview_every.is_some_and(|every| progress.done.is_multiple_of(every));
            // After one that could not be written there will be no other.
            if due && progress.done < progress.total && !self.failures.any() {
                progress.wait()?;
                reporter.settle();
                let x0 = progress.pred_original_sample()?;
                let preview = pipeline.decode(runtime, &x0)?;
                self.failures.keep(self.output.write_preview(&preview));
                reporter.resume();
            }
            Ok(())
        })?;
        reporter.settle();
        Ok(latents)
    }
}

/// The refiner's options, but for the latents, in which the first model ended.
fn rest(options: &SampleOptions) -> SampleOptions {
    SampleOptions {
        sampling: Sampling {
            strength: 1.0,
            denoising_start: options.sampling.denoising_end,
            denoising_end: None,
            ..options.sampling.clone()
        },
        image: None,
        mask: None,
        // The latents have a size.
        height: None,
        width: None,
        ..options.clone()
    }
}

fn say_notes(pipeline: &DiffusionPipeline) {
    pipeline.take_notes().iter().for_each(|note| say(format_args!("note: {note}")));
}
