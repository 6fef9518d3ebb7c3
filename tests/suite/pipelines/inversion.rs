//! From pictures to their noise and back, against diffusers' `DDIMInverseScheduler` and `DDIMScheduler`.

use std::path::Path;

use serde_json::{Map, Value};
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, Error, HostTensor};

use crate::common::Fixture;
use crate::device::gpu;

/// The model of a fixture with DDIM, and the options of its run.
fn load(fixture: &Fixture) -> (DiffusionPipeline, SampleOptions) {
    let mut scheduler: Map<String, Value> = fixture.object("scheduler");
    scheduler.insert("_class_name".into(), "DDIMScheduler".into());
    let scheduler = SchedulerConfig::from_json(&Value::Object(scheduler).to_string()).expect("sound");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests/fixtures/unet2d", "weights"].map(|parent| root.join(parent).join(fixture.text("model")));
    let checkpoint = Checkpoint::open(folders.iter().find(|folder| folder.is_dir()).expect("a model")).expect("sound");
    let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(scheduler).expect("sound")).expect("sound");
    let &[_, _, height, width] = fixture.tensor("picture").shape.as_slice() else { panic!("a picture") };
    let options = SampleOptions {
        height: Some(height),
        width: Some(width),
        sampling: Sampling::steps(fixture.text("num_inference_steps").parse().expect("a number")),
        classes: serde_json::from_str(fixture.text("class_labels")).expect("a list"),
        guidance_scale: vec![fixture.text("guidance_scale").parse().expect("a number")],
        ..SampleOptions::default()
    };
    (pipeline, options)
}

fn check(name: &str, device: &Device) {
    let fixture = Fixture::read(&format!("pipelines/inversion/{name}"));
    let (pipeline, options) = load(&fixture);
    let load = LoadOptions::default();
    let runtime = Runtime::new(device, &load, DType::F32);
    let mut steps = 0;
    let noise = pipeline.invert(&runtime, &options, fixture.tensor("picture"), &mut |_| {
        steps += 1;
        Ok(())
    });
    let noise = noise.expect("it has a way back");
    assert_eq!(steps, options.sampling.num_inference_steps);
    // diffusers' own float32 is within 1e-6 of float64.
    compare(&noise, fixture.tensor("noise"), Tolerance::l2(1e-5)).unwrap_or_else(|e| panic!("{name}: noise: {e}"));
    // The source is not asked: a run begins with the noise that it is given.
    let options = SampleOptions { noise: Some(noise), ..options };
    let images = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(1)], &mut |_| Ok(())).expect("samples");
    compare(&images, fixture.tensor("images"), Tolerance::largest(2e-3)).unwrap_or_else(|e| panic!("{name}: {e}"));
}

#[test]
fn device_leads_pictures_to_the_noise_that_diffusers_finds() {
    let device = Device::Gpu(gpu().clone());
    ["zero_snr", "fashion_guidance"].iter().for_each(|name| check(name, &device));
}

#[test]
fn reference_leads_pictures_to_the_noise_that_diffusers_finds() {
    check("zero_snr", &Device::Reference);
}

#[test]
fn what_has_no_way_back_is_refused() {
    let fixture = Fixture::read("pipelines/inversion/zero_snr");
    let (mut pipeline, options) = load(&fixture);
    let load = LoadOptions::default();
    let runtime = Runtime::new(&Device::Reference, &load, DType::F32);
    let picture = fixture.tensor("picture");
    let refused = |pipeline: &DiffusionPipeline, options: &SampleOptions, picture: &HostTensor, part: &str| {
        let error = pipeline.invert(&runtime, options, picture, &mut |_| Ok(())).expect_err(part);
        assert!(error.to_string().contains(part), "{part}: {error}");
    };
    refused(&pipeline, &options, &HostTensor::zeros([1, 3, 8, 8]), "[1, 3, 8, 12]");
    let noisy = SampleOptions { sampling: Sampling { eta: 0.5, ..Sampling::steps(5) }, ..options.clone() };
    refused(&pipeline, &noisy, picture, "leave `eta` out");
    let ends = Sampling { denoising_end: Some(0.5), ..Sampling::steps(5) };
    let (mut sources, zeros) = ([TorchCpu::new(1)], HostTensor::zeros([1, 3, 8, 8]));
    let wrong = SampleOptions { noise: Some(zeros), ..options.clone() };
    let error = pipeline.sample(&runtime, &wrong, &mut sources, &mut |_| Ok(())).expect_err("of another size");
    assert!(matches!(&error, Error::Shape(why) if why.contains("[1, 3, 8, 12]")), "{error}");
    let drawn = pipeline.noise(&options, &mut [TorchCpu::new(4)]).expect("it has a size");
    let [given, own] = [Some(drawn), None].map(|noise| {
        let options = SampleOptions { noise, ..options.clone() };
        pipeline.sample(&runtime, &options, &mut [TorchCpu::new(4)], &mut |_| Ok(())).expect("samples")
    });
    assert_eq!(given, own, "the noise that it would draw");

    let inverse = SchedulerConfig::from_json(r#"{"_class_name": "DDIMInverseScheduler"}"#).expect("sound");
    let inverse = Scheduler::new(inverse).expect("sound");
    let message = inverse.schedule(&ends).expect_err("it takes no noise away").to_string();
    assert!(message.contains("`denoising_end` 0.5"), "{message}");
    let half = inverse.schedule(&Sampling { strength: 0.5, ..Sampling::steps(10) }).expect("a part of the way");
    let timesteps: Vec<f64> = half.steps.iter().map(|step| step.timestep).collect();
    assert_eq!(timesteps, [0.0, 100.0, 200.0, 300.0, 400.0], "as far as image to image begins");
    pipeline.scheduler = inverse;
    refused(&pipeline, &options, picture, "`scheduler` DDIMInverseScheduler");
}
