//! Pictures of classes, or of whatever an unconditional model knows.

use super::args::Args;
use super::report_device;
use super::reporter::Reporter;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::pipelines::{Runtime, SampleOptions, UNet2DPipeline};
use crate::rng::TorchCpu;
use crate::schedulers::{Sampling, Scheduler};
use crate::tensor::HostTensor;

/// Makes the pictures that `args` asks for, `[N, C, H, W]` in [0, 1].
pub(super) fn from_classes(args: &Args, checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<HostTensor> {
    for (given, option) in [
        (args.prompt.is_some(), "PROMPT"),
        (args.negative_prompt.is_some(), "--negative-prompt"),
        (args.image.is_some(), "--image"),
        (args.clip_skip > 0, "--clip-skip"),
    ] {
        if given {
            return Err(Error::Usage(format!(
                "{option}: {} has no text encoder; it takes --class if it knows classes",
                checkpoint.path().display()
            )));
        }
    }
    let pipeline = UNet2DPipeline::load(checkpoint, scheduler)?;
    let options = SampleOptions {
        batch_size: args.batch_size,
        height: args.height,
        width: args.width,
        sampling: Sampling { eta: args.eta, ..Sampling::steps(args.steps) },
        classes: args.class.clone(),
        null_class: args.null_class,
        guidance_scale: args.guidance_scale.unwrap_or(1.0),
    };
    let device = args.device.open()?;
    report_device(&device);
    let mut sources: Vec<_> = args.seed.iter().map(|s| TorchCpu::new(*s)).collect();
    let mut reporter = Reporter::new();
    let load = args.device.load_options()?;
    let runtime = Runtime { device: &device, load: &load, dtype: args.precision.dtype() };
    let images = pipeline.sample(&runtime, &options, &mut sources, &mut |progress| {
        reporter.step(&progress);
        Ok(())
    })?;
    reporter.finish(args.batch_size);
    Ok(images)
}
