//! Pictures of a prompt.

use std::collections::BTreeMap;
use std::path::Path;

use super::args::Options;
use super::asked::{Traits, complete, prompt_options, refuse};
use super::model::Model;
use super::reporter::Reporter;
use super::{Job, Models};
use crate::checkpoint::safetensors;
use crate::error::{Error, Result};
use crate::output::write_atomic;
use crate::pipelines::{PromptOptions, StableDiffusionPipeline};
use crate::rng::NoiseSource;
use crate::schedulers::Sampling;
use crate::tensor::HostTensor;

/// Makes the pictures that the options ask for, `[N, 3, H, W]` in [0, 1], and completes the options.
pub fn sample(job: &Job<'_>, options: &mut Options, models: &Models) -> Result<HostTensor> {
    let (model, refiner) = (&models.model, models.refiner.as_ref());
    let pictures = options.pictures();
    if pictures == 0 || pictures > 1 << 10 {
        return Err(Error::Usage(format!(
            "--batch-size {}: {pictures} pictures, expected 1 to {}",
            options.batch_size(),
            1 << 10
        )));
    }
    let mut pipeline = StableDiffusionPipeline::load(&model.checkpoint, model.scheduler.clone())?;
    pipeline.vae.tiling = options.tiling();
    let traits = Traits::new(pipeline.kind, model, refiner)?;
    refuse(options, &traits, model.checkpoint.path())?;
    complete(options, &traits, model);
    let asked = prompt_options(options)?;
    let resizable = |error: Error| match error {
        Error::Usage(text) if options.image.is_some() => {
            Error::Usage(format!("{text}; --width and --height resize the picture of --image"))
        }
        other => other,
    };
    let (height, width) = pipeline.size(&asked).map_err(resizable)?;
    let windows = pipeline.windows(&asked)?;
    if windows > 1 {
        eprintln!(
            "note: the prompt is longer than the text encoder's window; it is read in {windows} windows side by side"
        );
    }

    let mut sources = options.noise_sources();
    let mut reporter = Reporter::new();
    let (latents, pipeline) = match refiner {
        None => (run(job, options, &pipeline, &asked, &mut sources, &mut reporter)?, pipeline),
        Some(refiner) => {
            let mut second = open_refiner(refiner)?;
            second.vae.tiling = options.tiling();
            let latents = run(job, options, &pipeline, &asked, &mut sources, &mut reporter)?;
            pipeline.take_notes().iter().for_each(|note| eprintln!("note: {note}"));
            drop(pipeline);
            let rest = PromptOptions {
                sampling: Sampling {
                    strength: 1.0,
                    denoising_start: options.denoising_end,
                    denoising_end: None,
                    ..asked.sampling.clone()
                },
                latents: Some(latents),
                image: None,
                mask: None,
                ..asked
            };
            (run(job, options, &second, &rest, &mut sources, &mut reporter)?, second)
        }
    };
    if let Some(path) = &job.args.save_latents {
        write_atomic(path, |out| safetensors::write(out, &[("latents", &latents)], &BTreeMap::new()))?;
    }
    let images = pipeline.vae.decode(&job.runtime(options), &latents)?;
    reporter.finish(pictures);
    pipeline.take_notes().iter().for_each(|note| eprintln!("note: {note}"));
    if options.image.is_none() && options.latents.is_none() {
        (options.height, options.width) = (Some(height), Some(width));
    }
    Ok(images)
}

/// The latents after all steps of one model.
fn run(
    job: &Job<'_>,
    options: &Options,
    pipeline: &StableDiffusionPipeline,
    asked: &PromptOptions,
    sources: &mut [Box<dyn NoiseSource>],
    reporter: &mut Reporter,
) -> Result<HostTensor> {
    let runtime = job.runtime(options);
    pipeline.sample_latents(&runtime, asked, sources, &mut |mut progress| {
        reporter.step(&progress);
        if job.previews(progress.done, progress.total) {
            let x0 = progress.pred_original_sample()?;
            job.output.write_preview(&pipeline.vae.decode(&runtime, &x0)?)?;
        }
        Ok(())
    })
}

fn open_refiner(refiner: &Model) -> Result<StableDiffusionPipeline> {
    let path: &Path = refiner.checkpoint.path();
    let unet = refiner.checkpoint.component_config("unet")?;
    if !refiner.text || unet.value["addition_embed_type"] != "text_time" {
        return Err(Error::Usage(format!("--refiner {}: expected a Stable Diffusion XL model", path.display())));
    }
    StableDiffusionPipeline::load(&refiner.checkpoint, refiner.scheduler.clone())
}
