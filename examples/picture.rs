//! A picture from a prompt, with the small Stable Diffusion in `weights/`.
//!
//!     cargo run --release --example picture

use std::path::Path;

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::image_io::{Picture, write_png};
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler};
use unmist::{DType, Result};

fn main() -> Result<()> {
    draw("a 3d red apple, blue background", 25, Path::new("apple.png"))
}

/// Draws `prompt` in `steps` steps.
pub fn draw(prompt: &str, steps: usize, output: &Path) -> Result<()> {
    // A folder as diffusers lays it out, or a single .safetensors file of the original code.
    let checkpoint = Checkpoint::open("weights/emoji-64")?;
    let scheduler = Scheduler::new(DiffusionPipeline::scheduler_config(&checkpoint)?)?;
    let pipeline = DiffusionPipeline::load(&checkpoint, scheduler)?;

    // The best graphics adapter, or the CPU reference where there is none.
    let device = Device::open("auto")?;
    println!("on {}", device.describe());
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);

    let options = SampleOptions {
        prompts: vec![prompt.into()],
        sampling: Sampling::steps(steps),
        guidance_scale: vec![4.0],
        ..pipeline.defaults()
    };
    // The same seed gives the same picture as diffusers.
    let mut noise = [TorchCpu::new(0)];
    let images = pipeline.sample(&runtime, &options, &mut noise, &mut |progress| {
        println!("step {} of {}", progress.done, progress.total);
        Ok(())
    })?;
    let pictures = Picture::from_tensor(&images)?; // [N, C, H, W] in [0, 1] → bytes
    write_png(output, &pictures[0], &[])
}
