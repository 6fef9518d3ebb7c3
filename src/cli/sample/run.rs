//! Making the pictures, with progress and previews.

use std::collections::BTreeMap;
use std::io::Write;

use super::reporter::Reporter;
use super::{Args, Failures, Output};
use crate::backend::{Device, LoadOptions};
use crate::checkpoint::safetensors;
use crate::cli::tell;
use crate::error::Result;
use crate::generate::{Event, Models, Notes};
use crate::output::write_atomic;
use crate::pipelines::Runtime;
use crate::request::Resolved;
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
    pub fn run(&self, resolved: &Resolved, models: &Models) -> Result<HostTensor> {
        let dtype = resolved.request.precision.unwrap_or_default().dtype();
        let runtime = Runtime::new(self.device, &self.load, dtype);
        let steps = models.steps(&resolved.options)?;
        let mut reporter = Reporter::new(steps, matches!(self.device, Device::Reference));
        let latents = models.run(&runtime, resolved, &mut |event| {
            let Event::Step(mut step) = event else {
                reporter.settle();
                return Ok(());
            };
            let progress = &mut step.progress;
            reporter.step(progress);
            let due = self.args.preview_every.is_some_and(|every| progress.done.is_multiple_of(every));
            // After one that could not be written there will be no other.
            if due && progress.done < progress.total && !self.failures.any() {
                progress.wait()?;
                reporter.settle();
                let x0 = progress.pred_original_sample()?;
                let preview = step.pipeline.decode(&runtime, &x0)?;
                self.failures.keep(self.output.write_preview(&preview));
                reporter.resume();
            }
            Ok(())
        })?;
        if let Some(path) = &self.args.save_latents {
            let write = |out: &mut dyn Write| safetensors::write(out, &[("latents", &latents)], &BTreeMap::new());
            self.failures.keep(write_atomic(path, write));
        }
        reporter.decode();
        let images = models.decode(&runtime, &latents)?;
        reporter.finish(resolved.options.batch_size);
        let mut notes = Notes::default();
        models.take_notes(&mut notes);
        tell(&mut notes);
        Ok(images)
    }
}
