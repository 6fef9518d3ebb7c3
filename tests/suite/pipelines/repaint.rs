//! RePaint: whole runs against diffusers' `RePaintPipeline`.

use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::one;
use crate::device::gpu;

/// The accuracy that the project promises after all steps, in [0, 1].
const MAX_ABS: f64 = 2e-3;

/// Of the sample after each step. Measured: 1.3e-6 at most.
const RELATIVE_L2: f64 = 1e-4;

const RUNS: [&str; 3] = ["eta", "jumps", "no_jumps"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn open(name: &str) -> (DiffusionPipeline, SampleOptions, TorchCpu, Tensors) {
    let file = Tensors::open(fixtures().join(format!("repaint/{name}.safetensors"))).expect("the fixture is there");
    let meta = file.metadata().clone();
    let number = |key: &str| meta[key].parse::<f64>().expect("a number");
    let scheduler = Scheduler::new(SchedulerConfig::from_json(&meta["scheduler"]).expect("sound")).expect("sound");
    let checkpoint = Checkpoint::open(fixtures().join("unet2d").join(&meta["model"])).expect("opens");
    let options = SampleOptions {
        sampling: Sampling {
            eta: number("eta"),
            jump_length: number("jump_length") as usize,
            jump_n_sample: number("jump_n_sample") as usize,
            ..Sampling::steps(number("num_inference_steps") as usize)
        },
        image: Some(file.read_f32("image").expect("sound")),
        mask: Some(file.read_f32("mask").expect("sound")),
        ..SampleOptions::default()
    };
    let pipeline = DiffusionPipeline::load(&checkpoint, scheduler).expect("loads");
    (pipeline, options, TorchCpu::new(number("seed") as u64), file)
}

fn check(name: &str, device: &Device) {
    let (pipeline, options, source, file) = open(name);
    let trajectory = file.read_f32("trajectory").expect("sound");
    let load = LoadOptions::default();
    let runtime = Runtime::new(device, &load, DType::F32);
    let mut done = 0;
    let images = pipeline.sample(&runtime, &options, &mut [source], &mut |mut progress| {
        let sample = progress.sample()?;
        let truth = trajectory.data[done * sample.len()..][..sample.len()].to_vec();
        compare(&sample, &HostTensor::new(sample.shape.clone(), truth)?, Tolerance::l2(RELATIVE_L2))
            .unwrap_or_else(|e| panic!("{name}, call {done}: {e}"));
        done += 1;
        Ok(())
    });
    assert_eq!(done, trajectory.shape[0], "{name}: every call of the model is compared");
    compare(&images.expect(name), &file.read_f32("images").expect("sound"), Tolerance::largest(MAX_ABS))
        .unwrap_or_else(|e| panic!("{name} on {}: {e}", device.describe()));
}

#[test]
fn device_makes_the_pictures_diffusers_makes() {
    RUNS.iter().for_each(|name| check(name, &Device::Gpu(gpu().clone())));
}

#[test]
fn reference_makes_the_pictures_diffusers_makes() {
    RUNS.iter().for_each(|name| check(name, &Device::Reference));
}

/// Outside the mask the picture comes out as it went in; of several pictures each has its own seed.
#[test]
fn what_is_not_painted_over_stays() {
    let (pipeline, options, _, _) = open("no_jumps");
    let options = SampleOptions { batch_size: 2, ..options };
    let load = LoadOptions::default();
    let runtime = Runtime::new(&Device::Reference, &load, DType::F32);
    let mut sources = [TorchCpu::new(2), TorchCpu::new(3)];
    let made = pipeline.sample(&runtime, &options, &mut sources, &mut |_| Ok(())).expect("samples");
    let (image, mask) = (options.image.as_ref().expect("given"), options.mask.as_ref().expect("given"));
    let [first, second] = [0, 1].map(|i| one(&made, i));
    let mut painted = 0;
    for (i, original) in image.data.iter().enumerate() {
        if mask.data[i % mask.len()] < 0.5 {
            assert!((first.data[i] - (original / 2.0 + 0.5)).abs() < 1e-6);
            assert_eq!(first.data[i], second.data[i]);
        } else {
            painted += usize::from(first.data[i] != second.data[i]);
        }
    }
    assert!(painted > 30, "only {painted} numbers differ by the seed");
    // The first of several is what it is alone.
    let alone = SampleOptions { batch_size: 1, ..options };
    let alone = pipeline.sample(&runtime, &alone, &mut [TorchCpu::new(2)], &mut |_| Ok(())).expect("samples");
    compare(&alone, &first, Tolerance::largest(1e-4)).expect("the same");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (pipeline, options, _, _) = open("jumps");
    let load = LoadOptions::default();
    let runtime = Runtime::new(&Device::Reference, &load, DType::F32);
    let refused = |options: SampleOptions| {
        let made = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(0)], &mut |_| Ok(()));
        made.expect_err("it does not fit").to_string()
    };
    let sampling = |change: fn(&mut Sampling)| {
        let mut options = options.clone();
        change(&mut options.sampling);
        options
    };
    for (options, part) in [
        (SampleOptions { mask: None, ..options.clone() }, "`mask`"),
        (SampleOptions { image: None, mask: None, ..options.clone() }, "`image`"),
        (SampleOptions { mask: Some(HostTensor::zeros([1, 1, 4, 12])), ..options.clone() }, "must be of one size"),
        (SampleOptions { image: Some(HostTensor::zeros([1, 1, 8, 12])), ..options.clone() }, "expected [1, 3, 8, 12]"),
        (sampling(|s| s.jump_length = 0), "`jump_length` 0"),
        (sampling(|s| s.jump_n_sample = 0), "`jump_n_sample` 0"),
        (sampling(|s| s.eta = 3.0), "`eta` 3"),
        (sampling(|s| s.num_inference_steps = 1001), "1 to 1000 steps"),
        (sampling(|s| s.timesteps = Some(vec![5, 0])), "its own noise levels"),
    ] {
        let message = refused(options);
        assert!(message.contains(part), "{message}");
    }
}
