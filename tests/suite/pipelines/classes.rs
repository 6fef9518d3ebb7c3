//! Whole DDPM and DDIM runs against diffusers' pipelines: the same seed gives the same picture.

use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::{distance, one};
use crate::device::gpu;

/// The accuracy that the project promises after all steps, in [0, 1].
const MAX_ABS: f64 = 2e-3;

const RUNS: [&str; 10] = [
    "ddim",
    "ddim_eta",
    "ddim_generator_per_image",
    "ddim_v_prediction_zero_snr",
    "ddpm_fixed_large_thresholding",
    "ddpm_fixed_small",
    "ddpm_learned_range",
    "ddpm_one_image",
    "fashion_ddim_guidance",
    "fashion_ddpm",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

struct Run {
    pipeline: DiffusionPipeline,
    options: SampleOptions,
    seeds: Vec<u64>,
    file: Tensors,
}

impl Run {
    fn load(name: &str) -> Self {
        let file = Tensors::open(root().join(format!("tests/fixtures/pipelines/{name}.safetensors")))
            .expect("the fixture is there");
        let meta = file.metadata().clone();
        let number = |key: &str, default: f64| meta.get(key).map_or(default, |v| v.parse().expect("a number"));
        let list =
            |key: &str| -> Vec<u64> { meta.get(key).map_or(Vec::new(), |v| serde_json::from_str(v).expect("a list")) };
        let model = &meta["model"];
        let folder = if model == "ddpm-fashion-32" {
            root().join("tests/fixtures/pipelines").join(model)
        } else {
            root().join("tests/fixtures/unet2d").join(model)
        };
        let folder = if folder.is_dir() { folder } else { root().join("weights").join(model) };
        let scheduler = Scheduler::new(SchedulerConfig::from_json(&meta["scheduler"]).expect("sound")).expect("sound");
        let pipeline = Checkpoint::open(folder)
            .and_then(|f| DiffusionPipeline::load(&f, scheduler))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let shape = file.info("images").expect("the fixture has images").shape.to_vec();
        let mut seeds = list("seeds");
        if seeds.is_empty() {
            seeds.push(meta["seed"].parse().expect("a number"));
        }
        let options = SampleOptions {
            batch_size: shape[0],
            height: Some(shape[2]),
            width: Some(shape[3]),
            sampling: Sampling {
                eta: number("eta", 0.0),
                use_clipped_model_output: meta.get("use_clipped_model_output").is_some_and(|v| v == "true"),
                ..Sampling::steps(number("num_inference_steps", 0.0) as usize)
            },
            classes: list("class_labels").into_iter().map(|c| c as usize).collect(),
            guidance_scale: vec![number("guidance_scale", 1.0)],
            ..SampleOptions::default()
        };
        Self { pipeline, options, seeds, file }
    }

    fn sample(&self, device: &Device, observe: &mut dyn FnMut(usize, HostTensor)) -> HostTensor {
        let mut sources: Vec<_> = self.seeds.iter().map(|s| TorchCpu::new(*s)).collect();
        let watch = self.file.info("trajectory").is_some();
        self.pipeline
            .sample(
                &Runtime::new(device, &LoadOptions::default(), DType::F32),
                &self.options,
                &mut sources,
                &mut |mut progress| {
                    if watch {
                        observe(progress.done - 1, progress.sample()?);
                    }
                    Ok(())
                },
            )
            .expect("samples")
    }
}

fn check(name: &str, device: &Device) {
    let run = Run::load(name);
    let trajectory = run.file.info("trajectory").map(|_| run.file.read_f32("trajectory").expect("sound"));
    let mut steps_seen = 0;
    let images = run.sample(device, &mut |step, sample| {
        let truth = trajectory.as_ref().expect("only called with one");
        let data = truth.data[step * sample.len()..][..sample.len()].to_vec();
        let expected = HostTensor { shape: sample.shape.clone(), data };
        // The sample spans [-1, 1], twice the picture's range.
        compare(&sample, &expected, Tolerance::largest(2.0 * MAX_ABS))
            .unwrap_or_else(|e| panic!("{name}, step {step}: {e}"));
        steps_seen += 1;
    });
    if let Some(truth) = &trajectory {
        assert_eq!(steps_seen, truth.shape[0], "{name}: every step is compared");
    }
    let truth = run.file.read_f32("images").expect("sound");
    compare(&images, &truth, Tolerance::largest(MAX_ABS))
        .unwrap_or_else(|e| panic!("{name} on {}, after all steps: {e}", device.describe()));
}

#[test]
fn the_list_of_runs_is_complete() {
    let mut found: Vec<_> = std::fs::read_dir(root().join("tests/fixtures/pipelines"))
        .expect("fixtures are there")
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".safetensors")?.to_owned()))
        .collect();
    found.sort();
    assert_eq!(found, RUNS);
}

#[test]
fn device_makes_the_pictures_diffusers_makes() {
    RUNS.iter().for_each(|name| check(name, &Device::Gpu(gpu().clone())));
}

#[test]
fn reference_makes_the_pictures_diffusers_makes() {
    RUNS.iter().filter(|n| !n.starts_with("fashion")).for_each(|name| check(name, &Device::Reference));
}

#[test]
fn another_seed_makes_another_picture() {
    let mut run = Run::load("ddpm_fixed_small");
    let truth = run.file.read_f32("images").expect("sound");
    run.seeds = vec![1];
    let other = run.sample(&Device::Reference, &mut |_, _| {});
    assert!(compare(&other, &truth, Tolerance::largest(0.1)).is_err(), "the seed has no effect");
}

#[test]
fn each_class_has_its_own_guidance() {
    let mut run = Run::load("fashion_ddim_guidance");
    let sample = |run: &Run| run.sample(&Device::Gpu(gpu().clone()), &mut |_, _| {});
    let options = SampleOptions {
        batch_size: 3,
        classes: vec![7, 9, 1],
        guidance_scale: vec![1.0, 3.0, 1.0],
        sampling: Sampling { use_clipped_model_output: true, ..Sampling::steps(3) },
        ..SampleOptions::default()
    };
    run.options = options.clone();
    run.seeds = vec![4, 5, 6];
    let together = sample(&run);
    for i in 0..3 {
        run.options = SampleOptions {
            batch_size: 1,
            classes: vec![options.classes[i]],
            guidance_scale: vec![options.guidance_scale[i]],
            ..options.clone()
        };
        run.seeds = vec![4 + i as u64];
        let error = distance(&sample(&run), &one(&together, i));
        // In a larger batch the tiles differ, and with them the order of summation.
        assert!(error < 1e-3, "picture {i}: {error:.1e}");
    }
    // Guidance has an effect, and scales below 1 are refused.
    run.options.guidance_scale = vec![3.0];
    let guided = sample(&run);
    assert!(distance(&guided, &one(&together, 2)) > 1e-2);
    run.options.guidance_scale = vec![0.5];
    let device = Device::Reference;
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let refused = run.pipeline.sample(&runtime, &run.options, &mut [TorchCpu::new(0)], &mut |_| Ok(()));
    assert!(refused.expect_err("a scale of 1 is no guidance").to_string().contains("`guidance_scale` 0.5"));
}
