//! Score-based models against diffusers' pipelines, and against papers' formulas where it has none: from the same noise
//! the same pictures.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::Fixture;
use crate::device::gpu;

const RUNS: [&str; 8] = [
    "karras_ve",
    "karras_ve_calm",
    "langevin",
    "ve_defaults",
    "ve_predictor_alone",
    "ve_two_corrections",
    "vp",
    "vp_gentle",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

struct Run {
    fixture: Fixture,
    pipeline: DiffusionPipeline,
    options: SampleOptions,
    seeds: Vec<u64>,
}

impl Run {
    fn load(name: &str) -> Self {
        let fixture = Fixture::read(&format!("score/{name}"));
        let scheduler = Value::Object(fixture.object("scheduler")).to_string();
        let scheduler = Scheduler::new(SchedulerConfig::from_json(&scheduler).expect("sound")).expect("sound");
        let folder = match fixture.text("model") {
            "ve" => fixtures().join("score/ve"),
            model => fixtures().join("unet2d").join(model),
        };
        let checkpoint = Checkpoint::open(folder).expect("sound");
        let pipeline = DiffusionPipeline::load(&checkpoint, scheduler).unwrap_or_else(|e| panic!("{name}: {e}"));
        let seeds = match fixture.find_text("seeds") {
            Some(seeds) => serde_json::from_str(seeds).expect("a list"),
            None => vec![fixture.text("seed").parse().expect("a number")],
        };
        let options = SampleOptions {
            batch_size: fixture.tensor("images").shape[0],
            sampling: Sampling::steps(fixture.text("num_inference_steps").parse().expect("a number")),
            ..SampleOptions::default()
        };
        Self { fixture, pipeline, options, seeds }
    }

    /// The sample after each call of the model, and the pictures.
    fn sample(&self, device: &Device) -> (Vec<HostTensor>, HostTensor) {
        let mut sources: Vec<_> = self.seeds.iter().map(|seed| TorchCpu::new(*seed)).collect();
        let load = LoadOptions::default();
        let (runtime, mut kept) = (Runtime::new(device, &load, DType::F32), vec![]);
        let images = self.pipeline.sample(&runtime, &self.options, &mut sources, &mut |mut progress| {
            kept.push(progress.sample()?);
            Ok(())
        });
        (kept, images.expect("samples"))
    }
}

fn check(name: &str, device: &Device) {
    let run = Run::load(name);
    let (kept, images) = run.sample(device);
    let calls = run.fixture.tensor("trajectory").shape[0];
    assert_eq!(kept.len(), calls, "{name}: every call of the model is compared");
    for (call, found) in kept.iter().enumerate() {
        let truth = run.fixture.entry("trajectory", call);
        compare(found, &truth, Tolerance::l2(1e-4)).unwrap_or_else(|e| panic!("{name}, call {call}: {e}"));
    }
    compare(&images, run.fixture.tensor("images"), Tolerance::largest(2e-3)).unwrap_or_else(|e| panic!("{name}: {e}"));
}

#[test]
fn the_list_of_runs_is_complete() {
    let files = std::fs::read_dir(fixtures().join("score")).expect("fixtures are there").flatten();
    let names = files.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".safetensors")?.to_owned()));
    let mut found: Vec<_> = names.collect();
    found.sort();
    assert_eq!(found, RUNS);
}

#[test]
fn device_makes_the_samples_that_diffusers_makes() {
    let device = Device::Gpu(gpu().clone());
    RUNS.iter().for_each(|name| check(name, &device));
}

#[test]
fn reference_makes_the_samples_that_diffusers_makes() {
    RUNS.iter().for_each(|name| check(name, &Device::Reference));
}

/// The control: what the corrector and the churn draw and how they use it shows.
#[test]
fn a_wrong_number_shows() {
    for (name, key, value) in
        [("ve_two_corrections", "snr", 0.41), ("karras_ve", "s_noise", 1.0), ("langevin", "langevin_epsilon", 1.1e-5)]
    {
        let mut run = Run::load(name);
        let config = &run.pipeline.scheduler.config;
        let config = config.with_class(config.class, &[(key, value.into())]).expect("sound");
        run.pipeline.scheduler = Scheduler::new(config).expect("sound");
        let (kept, _) = run.sample(&Device::Reference);
        let (last, truth) = (kept.len() - 1, run.fixture.entry("trajectory", kept.len() - 1));
        assert!(compare(&kept[last], &truth, Tolerance::l2(1e-3)).is_err(), "{name}: {key} has no effect");
    }
}
