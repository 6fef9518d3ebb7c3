//! Previews of a picture in the making: after every fourth step, what the model thinks the picture will be.
//!
//!     cargo run --release --example previews

use std::path::Path;

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::image_io::{Picture, grid, write_png};
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler};
use unmist::{DType, Result};

fn main() -> Result<()> {
    let shown = draw(20, 4, Path::new("previews.png"))?;
    println!("previews.png: {shown} pictures, from noise to a fox");
    Ok(())
}

/// Draws a fox in `steps` steps and writes all previews side by side, the finished picture last; returns how many.
pub fn draw(steps: usize, every: usize, output: &Path) -> Result<usize> {
    let checkpoint = Checkpoint::open("weights/emoji-64")?;
    let scheduler = Scheduler::new(DiffusionPipeline::scheduler_config(&checkpoint)?)?;
    let pipeline = DiffusionPipeline::load(&checkpoint, scheduler)?;
    let device = Device::open("auto")?;
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let options = SampleOptions {
        prompts: vec!["flat fox, green background".into()],
        sampling: Sampling::steps(steps),
        guidance_scale: vec![4.0],
        ..pipeline.defaults()
    };

    let mut pictures = Vec::new();
    let images = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(1)], &mut |mut progress| {
        if progress.done % every == 0 && progress.done < progress.total {
            // The estimate of the clean latents, which the decoder turns into pixels just like the final latents.
            let latents = progress.pred_original_sample()?;
            pictures.extend(Picture::from_tensor(&pipeline.decode(&runtime, &latents)?)?);
        }
        Ok(()) // an error here would end the run
    })?;
    pictures.extend(Picture::from_tensor(&images)?);
    write_png(output, &grid(&pictures, Some(pictures.len()))?, &[])?;
    Ok(pictures.len())
}
