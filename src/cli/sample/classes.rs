//! Pictures of classes, or of whatever an unconditional model knows.

use super::Job;
use super::args::Options;
use super::model::Model;
use super::reporter::Reporter;
use crate::error::{Error, Result};
use crate::pipelines::{SampleOptions, UNet2DPipeline};
use crate::schedulers::Sampling;
use crate::tensor::HostTensor;

/// Makes the pictures that the options ask for, `[N, C, H, W]` in [0, 1], and completes the options.
pub fn sample(job: &Job<'_>, options: &mut Options, model: &Model) -> Result<HostTensor> {
    for (given, option) in [
        (options.prompt.is_some(), "PROMPT"),
        (options.negative_prompt.is_some(), "--negative-prompt"),
        (options.image.is_some(), "--image"),
        (options.strength.is_some(), "--strength"),
        (options.latents.is_some(), "--latents"),
        (job.args.save_latents.is_some(), "--save-latents"),
        (options.clip_skip() > 0, "--clip-skip"),
    ] {
        if given {
            return Err(Error::Usage(format!(
                "{option}: {} has no text encoder; it takes --class if it knows classes",
                model.checkpoint.path().display()
            )));
        }
    }
    options.guidance_scale.get_or_insert(1.0);
    let pipeline = UNet2DPipeline::load(&model.checkpoint, model.scheduler.clone())?;
    let asked = SampleOptions {
        batch_size: options.batch_size(),
        height: options.height,
        width: options.width,
        sampling: Sampling { eta: options.eta(), ..Sampling::steps(options.steps()) },
        classes: options.class.clone(),
        null_class: options.null_class,
        guidance_scale: options.guidance_scale.unwrap_or(1.0),
    };
    let mut reporter = Reporter::new();
    let images =
        pipeline.sample(&job.runtime(options), &asked, &mut options.noise_sources(), &mut |mut progress| {
            reporter.step(&progress);
            if job.previews(progress.done, progress.total) {
                let mut x0 = progress.pred_original_sample()?;
                x0.data.iter_mut().for_each(|v| *v = *v / 2.0 + 0.5);
                job.output.write_preview(&x0)?;
            }
            Ok(())
        })?;
    reporter.finish(options.batch_size());
    (options.height, options.width) = (Some(images.shape[2]), Some(images.shape[3]));
    Ok(images)
}
