//! Pictures noised and made again, against PyTorch with diffusers' models and schedulers.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::image_io::{Range, read};
use unmist::pipelines::{DiffusionPipeline, NoiseShape, Runtime, SampleOptions, squared_difference};
use unmist::rng::{Simplex, TorchCpu};
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// The accuracy that the project promises after all steps, in [0, 1]; pictures here span [−1, 1].
const MAX_ABS: f64 = 2.0 * 2e-3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn fixture() -> Tensors {
    Tensors::open(root().join("tests/fixtures/anomaly.safetensors")).expect("the fixture is there")
}

#[test]
fn simplex_noise_is_that_of_the_script() {
    let file = fixture();
    let truth = file.read_f32("simplex").expect("it is there");
    for (i, t) in [0.0, 250.0].into_iter().enumerate() {
        let found = Simplex::new(&mut TorchCpu::new(i as u64)).octaves(9, 13, t);
        let truth = &truth.data[i * found.len()..][..found.len()];
        let most = found.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 1e-6, "{t}: {most}");
    }
}

fn check(name: &str, device: &Device) {
    let file = fixture();
    let cases: Value = serde_json::from_str(&file.metadata()["cases"]).expect("JSON");
    let case = &cases[name];
    let number = |key: &str| case[key].as_u64().expect("a number") as usize;
    let model = case["model"].as_str().expect("a name");
    let shipped = root().join("weights").join(model);
    let own = root().join("tests/fixtures/unet2d").join(model);
    let checkpoint = Checkpoint::open(if shipped.is_dir() { shipped } else { own }).expect("the model is there");
    let config = SchedulerConfig::from_json(&case["scheduler"].to_string()).expect("sound");
    let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(config).expect("sound")).expect("loads");
    let options = SampleOptions { sampling: Sampling::steps(number("steps")), ..SampleOptions::default() };
    let noise = if case["noise"] == "simplex" { NoiseShape::Simplex } else { NoiseShape::Gaussian };
    let load = LoadOptions::default();
    let runtime = Runtime::new(device, &load, DType::F32);
    let [made, map] = ["made", "map"].map(|of| file.read_f32(&format!("{name}.{of}")).expect("it is there"));
    let repeats = number("repeats");
    for (i, path) in case["pictures"].as_array().expect("a list").iter().enumerate() {
        let path = root().join("tests/fixtures/loss").join(path.as_str().expect("a path"));
        let picture = read(path, pipeline.sample_channels()).expect("a picture").to_tensor(Range::MinusOneToOne);
        let together = HostTensor::concat(&vec![&picture; repeats], 0).expect("of one size");
        let mut sources: Vec<_> = (0..repeats).map(|i| TorchCpu::new((number("seed") + i) as u64)).collect();
        let at = (number("timestep"), noise);
        let found = pipeline.reconstruct(&runtime, &options, &together, at, &mut sources, &mut |_| Ok(()));
        let found = found.expect("runs");
        let truth = HostTensor { data: made.data[i * found.len()..][..found.len()].to_vec(), ..found.clone() };
        compare(&found, &truth, Tolerance::largest(MAX_ABS)).unwrap_or_else(|e| panic!("{name}, {i}: {e}"));

        let plane = picture.len() / picture.shape[1];
        let rows = found.data.chunks_exact(picture.len());
        let maps: Vec<_> = rows
            .map(|row| squared_difference(&picture, &HostTensor { data: row.to_vec(), ..picture.clone() }))
            .collect();
        for (pixel, truth) in map.data[i * plane..][..plane].iter().enumerate() {
            let mean = maps.iter().map(|map| map[pixel]).sum::<f64>() / repeats as f64;
            // Of a difference of 2 at most, whose error counts twice.
            assert!((mean - f64::from(*truth)).abs() < 4.0 * MAX_ABS, "{name}, {i}, {pixel}: {mean}, {truth}");
        }
    }
}

#[test]
fn ddpm_is_diffusers() {
    check("ddpm", &Device::Gpu(gpu().clone()));
}

#[test]
fn ddim_with_simplex_noise_is_diffusers() {
    check("ddim", &Device::Gpu(gpu().clone()));
}

#[test]
fn colours_are_noised_alike() {
    check("colour", &Device::Gpu(gpu().clone()));
    check("colour", &Device::Reference);
}
