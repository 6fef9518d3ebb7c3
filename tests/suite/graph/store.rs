//! Planned once, loaded once: what a second picture costs, and what a cancelled run leaves behind.

use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::gpu::{Checks, GpuDevice, select_adapter};
use unmist::pipelines::{Cancel, DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler};
use unmist::{DType, Error};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/emoji-64")
}

fn load(checkpoint: &Checkpoint) -> DiffusionPipeline {
    let config = DiffusionPipeline::scheduler_config(checkpoint).expect("sound");
    DiffusionPipeline::load(checkpoint, Scheduler::new(config).expect("sound")).expect("loads")
}

/// A separate device, so that other tests do not count.
fn device() -> GpuDevice {
    let selector = std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into());
    let (_, adapter) = select_adapter(&selector).expect("names an adapter").expect("there is an adapter");
    GpuDevice::open(adapter, Checks::Off).expect("the adapter opens")
}

fn options(size: usize) -> SampleOptions {
    SampleOptions {
        prompts: vec!["a red apple".into()],
        height: Some(size),
        width: Some(size),
        sampling: Sampling::steps(2),
        guidance_scale: vec![3.0],
        ..SampleOptions::default()
    }
}

#[test]
fn each_stage_is_planned_once_and_a_second_picture_uploads_nothing() {
    let gpu = device();
    let device = Device::Gpu(gpu.clone());
    let load_options = LoadOptions::default();
    let runtime = Runtime::new(&device, &load_options, DType::F32);
    let pipeline = load(&Checkpoint::open(shipped()).expect("the model is there"));
    let sample = |size: usize, seed: u64| {
        pipeline.sample(&runtime, &options(size), &mut [TorchCpu::new(seed)], &mut |_| Ok(())).expect("samples")
    };

    let first = sample(64, 1);
    assert_eq!(gpu.programs_planned(), 3, "text encoder, U-Net and decoder");
    let after_first = gpu.store().stats();
    assert!(after_first.uploaded_bytes > 10 << 20, "{after_first:?}");

    assert_ne!(sample(64, 2), first);
    assert_eq!(gpu.programs_planned(), 3, "the same size again");
    assert_eq!(gpu.store().stats().uploaded_bytes, after_first.uploaded_bytes);

    // Another size: other programs for U-Net and decoder, the same parameters.
    sample(80, 1);
    assert_eq!(gpu.programs_planned(), 5);
    assert_eq!(gpu.store().stats().uploaded_bytes, after_first.uploaded_bytes);
    assert_eq!(sample(64, 1), first, "and the first picture is unchanged");

    // The weights are only kept while there is room: a run that needs it gets it.
    let all = gpu.store().stats();
    assert_eq!(all.used_bytes, 0);
    assert!(gpu.store().evict_unused());
    assert_eq!(gpu.store().stats().bytes, 0);
    assert_eq!(sample(64, 1), first);
}

#[test]
fn parameters_are_told_apart_by_what_they_hold() {
    let gpu = device();
    let device = Device::Gpu(gpu.clone());
    let load_options = LoadOptions::default();
    let runtime = Runtime::new(&device, &load_options, DType::F32);
    let sample = |folder: &Path| {
        let pipeline = load(&Checkpoint::open(folder).expect("the model is there"));
        pipeline.sample(&runtime, &options(64), &mut [TorchCpu::new(1)], &mut |_| Ok(())).expect("samples")
    };
    let first = sample(&shipped());
    let uploaded = || gpu.store().stats().uploaded_bytes;
    let once = uploaded();
    assert_eq!(sample(&shipped()), first);
    assert_eq!(uploaded(), once, "the files are the same when opened again");

    // A copy is another file; a few changed numbers in it make another picture.
    let folder = tempfile::tempdir().expect("a folder");
    crate::commands::usage::copy(&shipped(), folder.path());
    let file = folder.path().join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&file).expect("is there");
    let data = bytes.len() - 4096;
    bytes[data..].iter_mut().for_each(|byte| *byte &= 0x0f);
    std::fs::write(&file, bytes).expect("writes");
    assert_ne!(sample(folder.path()), first);
    assert!(uploaded() > once);
}

#[test]
fn a_run_stops_when_it_is_asked_to() {
    let gpu = device();
    for device in [Device::Gpu(gpu.clone()), Device::Reference] {
        let (load_options, cancel) = (LoadOptions::default(), Cancel::default());
        let runtime = Runtime::new(&device, &load_options, DType::F32).with_cancel(&cancel);
        let pipeline = load(&Checkpoint::open(shipped()).expect("the model is there"));
        let options = SampleOptions { sampling: Sampling::steps(20), ..options(64) };
        let mut steps = 0;
        let from_elsewhere = cancel.clone();
        let result = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(1)], &mut |_| {
            steps += 1;
            if steps == 2 {
                std::thread::scope(|scope| {
                    scope.spawn(|| from_elsewhere.cancel());
                });
            }
            Ok(())
        });
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert_eq!(steps, 2);
        let result = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(1)], &mut |_| panic!("no step"));
        assert!(matches!(result, Err(Error::Cancelled)), "before the first step");
    }
    assert_eq!(gpu.store().stats().used_bytes, 0, "cancelled runs hold nothing");
}
