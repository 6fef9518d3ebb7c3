//! A whole picture: made, by a model that paints; of a preset, added up.

use std::time::Instant;

use super::Args;
use super::model::{self, Opened};
use crate::backend::Device;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::places;
use crate::gpu::GpuDevice;
use crate::measure::{Picture, Report};
use crate::models::Preset;
use crate::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use crate::rng::TorchCpu;
use crate::schedulers::{Sampling, Scheduler};

/// Pixels along each side that a latent of the presets stands for.
const SCALE: usize = 8;

/// The time of a picture in this many steps.
pub fn time(args: &Args, gpu: &GpuDevice, report: &Report, steps: usize) -> Result<Picture> {
    match args.preset {
        Some(preset) => added_up(args, gpu, report, preset, steps),
        None => made(args, gpu, steps),
    }
}

/// `steps` steps and the decoder. A preset has no texts, and nothing of random weights is a picture.
fn added_up(args: &Args, gpu: &GpuDevice, report: &Report, preset: Preset, steps: usize) -> Result<Picture> {
    let subject = &report.subject;
    let step = report.step.as_ref().expect("a model was timed").seconds.median();
    let (scale, decode_seconds) = match preset {
        Preset::Ddpm => (1, 0.0),
        Preset::Vae => {
            return Err(Error::Usage(
                "--picture: the decoder alone makes no picture, --preset sd15 and sdxl do".into(),
            ));
        }
        Preset::Sd15 | Preset::Sdxl => {
            let decoder = Opened::preset(Preset::Vae)?;
            let graph = decoder.graph(args, &decoder.sizes(args))?; // at the same latents
            (SCALE, model::time(args, gpu, &decoder, &graph)?.step.seconds.median())
        }
    };
    Ok(Picture {
        measured: false,
        steps,
        size: [scale * subject.height, scale * subject.width],
        before_seconds: 0.0,
        steps_seconds: steps as f64 * step,
        decode_seconds,
    })
}

/// One run of the pipeline at the model's own size, or at the sizes that were given for the U-Net.
fn made(args: &Args, gpu: &GpuDevice, steps: usize) -> Result<Picture> {
    let path = places::find_with(args.model.as_deref(), &args.component)?;
    let checkpoint: Checkpoint = args.unused.open(&path)?;
    let scheduler = Scheduler::new(DiffusionPipeline::scheduler_config(&checkpoint)?)?;
    let pipeline = DiffusionPipeline::load(&checkpoint, scheduler)?;
    let (device, load) = (Device::Gpu(gpu.clone()), args.load_options(gpu)?);
    let runtime = Runtime::new(&device, &load, args.precision.dtype());
    let defaults = pipeline.defaults();
    let scale = pipeline.traits.scale;
    let of_unet = |size: Option<usize>| size.filter(|_| args.component == "unet").map(|size| scale * size);
    let options = SampleOptions {
        batch_size: args.batch_size,
        prompts: if pipeline.traits.kind.has_text() { vec![String::new()] } else { Vec::new() },
        height: of_unet(args.height),
        width: of_unet(args.width),
        sampling: Sampling::steps(steps),
        ..defaults
    };
    let (height, width) = pipeline.size(&options)?;
    let start = Instant::now();
    let mut times = (start, start);
    let mut sources: Vec<TorchCpu> = (0..args.batch_size as u64).map(TorchCpu::new).collect();
    pipeline.sample(&runtime, &options, &mut sources, &mut |mut progress| {
        if progress.done == progress.total {
            progress.wait()?;
            times = (progress.loaded, Instant::now());
        }
        Ok(())
    })?;
    let (loaded, last) = times;
    Ok(Picture {
        measured: true,
        steps,
        size: [height, width],
        before_seconds: (loaded - start).as_secs_f64(),
        steps_seconds: (last - loaded).as_secs_f64(),
        decode_seconds: last.elapsed().as_secs_f64(),
    })
}
