//! Pictures of a prompt.

use std::path::Path;

use super::args::Args;
use super::report_device;
use super::reporter::Reporter;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::image_io::{Range, read, resize_lanczos};
use crate::pipelines::{PromptOptions, Runtime, StableDiffusionPipeline};
use crate::rng::TorchCpu;
use crate::schedulers::{Sampling, Scheduler};
use crate::tensor::HostTensor;

/// Makes the pictures that `args` asks for, `[N, 3, H, W]` in [0, 1].
pub(super) fn from_text(args: &Args, checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<HostTensor> {
    if !args.class.is_empty() {
        return Err(Error::Usage(format!("--class: {} takes a prompt", checkpoint.path().display())));
    }
    if args.batch_size == 0 || args.batch_size > 1 << 10 {
        return Err(Error::Usage(format!("--batch-size {}: expected 1 to {}", args.batch_size, 1 << 10)));
    }
    let pipeline = StableDiffusionPipeline::load(checkpoint, scheduler)?;
    let repeat = |text: &str| vec![text.to_owned(); args.batch_size];
    let strength = if args.image.is_some() { args.strength } else { 1.0 };
    let options = PromptOptions {
        prompts: repeat(args.prompt.as_deref().unwrap_or_default()),
        negative_prompts: args.negative_prompt.as_deref().map(repeat),
        height: args.height,
        width: args.width,
        sampling: Sampling { eta: args.eta, strength, ..Sampling::steps(args.steps) },
        guidance_scale: vec![args.guidance_scale.unwrap_or(7.5)],
        clip_skip: args.clip_skip,
        image: args.image.as_deref().map(|path| picture(path, args)).transpose()?,
        ..PromptOptions::default()
    };
    let windows = pipeline.windows(&options)?;
    if windows > 1 {
        eprintln!(
            "note: the prompt is longer than the text encoder's window; it is read in {windows} windows side by side"
        );
    }
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

/// The picture of `--image`, resized to `--width` and `--height` if given, as `[1, 3, H, W]` in [−1, 1].
fn picture(path: &Path, args: &Args) -> Result<HostTensor> {
    let mut picture = read(path, 3)?;
    let (width, height) = (args.width.unwrap_or(picture.width), args.height.unwrap_or(picture.height));
    if (width, height) != (picture.width, picture.height) {
        if width == 0 || height == 0 || width.max(height) > 1 << 14 {
            return Err(Error::Usage(format!("--width {width} --height {height}: expected 1 to {} each", 1 << 14)));
        }
        picture = resize_lanczos(&picture, width, height);
    }
    Ok(picture.to_tensor(Range::MinusOneToOne))
}
