//! Pictures of a prompt.

use std::collections::BTreeMap;
use std::path::Path;

use super::Job;
use super::args::Options;
use super::model::Model;
use super::reporter::Reporter;
use crate::checkpoint::{Tensors, safetensors};
use crate::error::{Error, Result};
use crate::image_io::{Range, read, resize_lanczos};
use crate::output::write_atomic;
use crate::pipelines::{PromptOptions, StableDiffusionPipeline};
use crate::schedulers::Sampling;
use crate::tensor::HostTensor;

/// Makes the pictures that the options ask for, `[N, 3, H, W]` in [0, 1], and completes the options.
pub fn sample(job: &Job<'_>, options: &mut Options, model: &Model) -> Result<HostTensor> {
    let batch = options.batch_size();
    if !options.class.is_empty() {
        return Err(Error::Usage(format!("--class: {} takes a prompt", model.checkpoint.path().display())));
    }
    if batch == 0 || batch > 1 << 10 {
        return Err(Error::Usage(format!("--batch-size {batch}: expected 1 to {}", 1 << 10)));
    }
    if options.strength.is_some() && options.image.is_none() {
        return Err(Error::Usage("--strength: it says how much of a picture is changed; give one with --image".into()));
    }
    options.guidance_scale.get_or_insert(7.5);
    let pipeline = StableDiffusionPipeline::load(&model.checkpoint, model.scheduler.clone())?;
    let repeat = |text: &str| vec![text.to_owned(); batch];
    let asked = PromptOptions {
        prompts: repeat(options.prompt.as_deref().unwrap_or_default()),
        negative_prompts: options.negative_prompt.as_deref().map(repeat),
        height: options.height,
        width: options.width,
        sampling: Sampling {
            eta: options.eta(),
            strength: options.strength.unwrap_or(1.0),
            ..Sampling::steps(options.steps())
        },
        guidance_scale: options.guidance_scale.into_iter().collect(),
        clip_skip: options.clip_skip(),
        image: options.image.as_deref().map(|path| picture(path, options)).transpose()?,
        latents: options.latents.as_deref().map(read_latents).transpose()?,
        ..PromptOptions::default()
    };
    let windows = pipeline.windows(&asked)?;
    if windows > 1 {
        eprintln!(
            "note: the prompt is longer than the text encoder's window; it is read in {windows} windows side by side"
        );
    }
    let runtime = job.runtime(options);
    let mut reporter = Reporter::new();
    let latents = pipeline.sample_latents(&runtime, &asked, &mut options.noise_sources(), &mut |mut progress| {
        reporter.step(&progress);
        if job.previews(progress.done, progress.total) {
            let x0 = progress.pred_original_sample()?;
            job.output.write_preview(&pipeline.vae.decode(&runtime, &x0)?)?;
        }
        Ok(())
    })?;
    if let Some(path) = &job.args.save_latents {
        write_atomic(path, |out| safetensors::write(out, &[("latents", &latents)], &BTreeMap::new()))?;
    }
    let images = pipeline.vae.decode(&runtime, &latents)?;
    reporter.finish(batch);
    if options.image.is_none() && options.latents.is_none() {
        (options.height, options.width) = (Some(images.shape[2]), Some(images.shape[3]));
    }
    Ok(images)
}

/// The picture of `--image`, resized to `--width` and `--height` if given, as `[1, 3, H, W]` in [−1, 1].
fn picture(path: &Path, options: &Options) -> Result<HostTensor> {
    let mut picture = read(path, 3)?;
    let (width, height) = (options.width.unwrap_or(picture.width), options.height.unwrap_or(picture.height));
    if (width, height) != (picture.width, picture.height) {
        if width == 0 || height == 0 || width.max(height) > 1 << 14 {
            return Err(Error::Usage(format!("--width {width} --height {height}: expected 1 to {} each", 1 << 14)));
        }
        picture = resize_lanczos(&picture, width, height);
    }
    Ok(picture.to_tensor(Range::MinusOneToOne))
}

/// The tensor `latents` of a file.
fn read_latents(path: &Path) -> Result<HostTensor> {
    let file = Tensors::open(path)?;
    if file.info("latents").is_none() {
        let names: Vec<_> = file.names().take(5).collect();
        return Err(Error::Usage(format!(
            "--latents {}: expected a tensor `latents`, as --save-latents writes it; found {}",
            path.display(),
            names.join(", ")
        )));
    }
    file.read_f32("latents")
}
