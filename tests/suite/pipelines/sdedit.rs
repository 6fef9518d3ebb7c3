//! SDEdit with models on pixels: a picture noised a part of the way and made again, against PyTorch with diffusers'
//! models and schedulers.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// The accuracy that the project promises after all steps, in [0, 1].
const MAX_ABS: f64 = 2e-3;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn check(device: &Device) {
    let file = Tensors::open(fixtures().join("sdedit.safetensors")).expect("the fixture is there");
    let cases: Value = serde_json::from_str(&file.metadata()["cases"]).expect("JSON");
    for (name, case) in cases.as_object().expect("cases by name") {
        let checkpoint = Checkpoint::open(fixtures().join(case["model"].as_str().expect("a path"))).expect("opens");
        let config = SchedulerConfig::from_json(&case["scheduler"].to_string()).expect("sound");
        let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(config).expect("sound")).expect("loads");
        let [image, made] = ["image", "made"].map(|of| file.read_f32(&format!("{name}.{of}")).expect("it is there"));
        let options = SampleOptions {
            classes: case["class"].as_u64().into_iter().map(|class| class as usize).collect(),
            height: Some(image.shape[2]),
            width: Some(image.shape[3]),
            sampling: Sampling {
                strength: case["strength"].as_f64().expect("a number"),
                ..Sampling::steps(case["steps"].as_u64().expect("a number") as usize)
            },
            image: Some(image),
            ..SampleOptions::default()
        };
        let load = LoadOptions::default();
        let runtime = Runtime::new(device, &load, DType::F32);
        let mut sources = [TorchCpu::new(case["seed"].as_u64().expect("a number"))];
        let found = pipeline.sample(&runtime, &options, &mut sources, &mut |_| Ok(())).expect(name);
        compare(&found, &made, Tolerance::largest(MAX_ABS)).unwrap_or_else(|e| panic!("{name}: {e}"));

        // With less strength the picture stays nearer to what it was.
        let again = |strength| {
            let sampling = Sampling { strength, ..options.sampling.clone() };
            let options = SampleOptions { sampling, ..options.clone() };
            let found = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(9)], &mut |_| Ok(())).expect(name);
            let given = options.image.as_ref().expect("it is given").data.iter().map(|v| 0.5 * v + 0.5);
            found.data.iter().zip(given).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
        };
        let (little, much) = (again(0.2), again(0.9));
        assert!(little < much, "{name}: {little} off at strength 0.2, {much} at 0.9");
    }
}

#[test]
fn device_makes_the_pictures_torch_makes() {
    check(&Device::Gpu(gpu().clone()));
}

#[test]
fn reference_makes_the_pictures_torch_makes() {
    check(&Device::Reference);
}

#[test]
fn a_picture_of_other_channels_is_refused() {
    let checkpoint = Checkpoint::open(fixtures().join("unet2d/pipeline")).expect("opens");
    let config = SchedulerConfig::from_json(r#"{"_class_name": "DDIMScheduler"}"#).expect("sound");
    let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(config).expect("sound")).expect("loads");
    let options = SampleOptions {
        image: Some(HostTensor::zeros([1, 1, 8, 12])),
        sampling: Sampling { strength: 0.5, ..Sampling::steps(4) },
        ..SampleOptions::default()
    };
    let load = LoadOptions::default();
    let runtime = Runtime::new(&Device::Reference, &load, DType::F32);
    let error = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(0)], &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("`image`") && error.contains("[1, 3, 8, 12]"), "{error}");
}
