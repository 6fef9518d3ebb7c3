//! The denoising loop written out by hand: one call of the U-Net per step on the device, and the scheduler's update on
//! the host. The pipelines do the same with the update in the graph, so that nothing leaves the device between steps.
//!
//!     cargo run --release --example scheduler_loop

use std::path::Path;

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::image_io::{Picture, grid, write_png};
use unmist::models::{LoadedModel, NamedTensors, prepare};
use unmist::rng::{NoiseSource, StepNoise, TorchCpu};
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::{DType, HostTensor, Result};

fn main() -> Result<()> {
    draw(20, Path::new("clothes.png"))
}

/// Draws a shirt, a boot and a bag of Fashion-MNIST.
pub fn draw(steps: usize, output: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open("weights/ddpm-fashion-32")?;
    let unet = LoadedModel::open(&checkpoint, "unet")?;
    // Any scheduler that diffusers has; fields missing from its config default as they do there.
    let config = r#"{"_class_name": "DDIMScheduler"}"#;
    let scheduler = Scheduler::new(SchedulerConfig::from_json(config)?)?;
    let schedule = scheduler.schedule(&Sampling::steps(steps))?;

    let mut source = [TorchCpu::new(0)];
    let mut sample = source[0].randn(&[3, 1, 32, 32]);
    sample.data.iter_mut().for_each(|x| *x *= schedule.init_noise_sigma as f32);

    // The inputs say which sizes the graph is built for.
    let inputs = NamedTensors::from([
        ("sample".to_owned(), sample.clone()),
        ("timestep".to_owned(), HostTensor::new([1], vec![0.0])?),
        ("class_labels".to_owned(), HostTensor::new([3], vec![0.0, 9.0, 8.0])?),
    ]);
    let (graph, inputs) = prepare(unet.model.as_ref(), inputs, DType::F32)?;
    let mut session = Device::open("auto")?.load(graph, &unet.weights, &LoadOptions::default())?;
    session.write("class_labels", &inputs["class_labels"])?;

    let mut memory = vec![HostTensor::zeros(sample.shape.as_slice()); schedule.memory_slots];
    let mut noise = StepNoise::new(&mut source);
    for step in &schedule.steps {
        // Graphs keep channels last; everything outside is [N, C, H, W], as in PyTorch.
        let scaled = HostTensor::from_fn(sample.shape.as_slice(), |i| step.input_scale as f32 * sample.data[i]);
        session.write("sample", &scaled.channels_last())?;
        session.write("timestep", &HostTensor::new([3], vec![step.timestep as f32; 3])?)?;
        session.run()?;
        let model_output = session.read("sample")?.channels_first();
        let drawn = noise.draw(step.draw, &sample.shape);
        (sample, _) = step.apply(&sample, &model_output, drawn.as_ref(), &mut memory)?;
    }

    sample.data.iter_mut().for_each(|x| *x = (*x / 2.0 + 0.5).clamp(0.0, 1.0));
    write_png(output, &grid(&Picture::from_tensor(&sample)?, Some(3))?, &[])
}
