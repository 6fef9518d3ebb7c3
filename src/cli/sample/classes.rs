//! Pictures of classes, or of whatever an unconditional model knows.

use super::Job;
use super::args::{Options, Switch};
use super::model::Model;
use super::reporter::Reporter;
use crate::error::{Error, Result};
use crate::pipelines::{SampleOptions, UNet2DPipeline};
use crate::schedulers::Sampling;
use crate::tensor::HostTensor;

/// Makes the pictures that the options ask for, `[N, C, H, W]` in [0, 1], and completes the options.
pub fn sample(job: &Job<'_>, options: &mut Options, model: &Model) -> Result<HostTensor> {
    let given = |texts: &[String]| !texts.is_empty();
    for (given, option) in [
        (given(&options.prompt), "PROMPT"),
        (given(&options.negative_prompt), "--negative-prompt"),
        (given(&options.prompt_2), "--prompt-2"),
        (given(&options.negative_prompt_2), "--negative-prompt-2"),
        (options.weighting, "--weighting"),
        (options.guidance_rescale.is_some(), "--guidance-rescale"),
        (options.image_guidance_scale.is_some(), "--image-guidance-scale"),
        (options.image.is_some(), "--image"),
        (options.mask.is_some(), "--mask"),
        (options.strength.is_some(), "--strength"),
        (options.noise_level.is_some(), "--noise-level"),
        (options.latents.is_some(), "--latents"),
        (options.denoising_start.is_some(), "--denoising-start"),
        (options.denoising_end.is_some(), "--denoising-end"),
        (options.refiner.is_some(), "--refiner"),
        (options.vae_tiling.is_some(), "--vae-tiling"),
        (options.original_size.is_some(), "--original-size"),
        (options.crop.is_some(), "--crop"),
        (options.target_size.is_some(), "--target-size"),
        (options.aesthetic_score.is_some(), "--aesthetic-score"),
        (options.negative_aesthetic_score.is_some(), "--negative-aesthetic-score"),
        (options.clip_skip.is_some_and(|layers| layers > 0), "--clip-skip"),
        (job.args.save_latents.is_some(), "--save-latents"),
    ] {
        if given {
            return Err(Error::Usage(format!(
                "{option}: {} has no text encoder; it takes --class if it knows classes",
                model.checkpoint.path().display()
            )));
        }
    }
    let guidance_scale = match options.guidance_scale.as_slice() {
        [] => model.defaults.guidance_scale.unwrap_or(1.0),
        [one] => *one,
        _ => return Err(Error::Usage("--guidance-scale: pictures of classes share one; give one number".into())),
    };
    options.guidance_scale = vec![guidance_scale];
    let steps = *options.steps.get_or_insert(model.defaults.num_inference_steps.unwrap_or(50));
    options.use_clipped_model_output = model.clipping(options);
    let pipeline = UNet2DPipeline::load(&model.checkpoint, model.scheduler.clone())?;
    let asked = SampleOptions {
        batch_size: options.batch_size(),
        height: options.height,
        width: options.width,
        sampling: Sampling {
            eta: options.eta.unwrap_or(0.0),
            use_clipped_model_output: options.use_clipped_model_output == Some(Switch::On),
            ..Sampling::steps(steps)
        },
        classes: options.class.clone(),
        null_class: options.null_class,
        guidance_scale,
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
    pipeline.take_notes().iter().for_each(|note| eprintln!("note: {note}"));
    (options.height, options.width) = (Some(images.shape[2]), Some(images.shape[3]));
    Ok(images)
}
