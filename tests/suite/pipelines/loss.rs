//! The training objective and the bound on the likelihood, picture by picture and timestep by timestep, against what
//! PyTorch computes with diffusers' models.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::image_io::{Range, read};
use unmist::pipelines::{DiffusionPipeline, Example, ExampleLoss, Runtime};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Objective, Scheduler, SchedulerConfig};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// Of every number. What float32 itself is away from float64 here is about 1e-5, at the first timesteps, whose noise is
/// a small difference of large numbers.
const TOLERANCE: f64 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub struct Case {
    pub json: Value,
    pipeline: DiffusionPipeline,
    objective: Objective,
}

impl Case {
    pub fn load(name: &str) -> Self {
        let file = std::fs::read_to_string(fixtures().join("loss/loss.json")).expect("the fixture is there");
        let all: Value = serde_json::from_str(&file).expect("JSON");
        let json = all["cases"][name].clone();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(json["model"].as_str().unwrap());
        let own = fixtures().join("unet2d").join(json["model"].as_str().unwrap());
        let checkpoint = Checkpoint::open(if shipped.is_dir() { shipped } else { own }).expect("the model is there");
        let config = match &json["scheduler"] {
            Value::Null => DiffusionPipeline::training_config(&checkpoint),
            config => SchedulerConfig::from_json(&config.to_string()),
        };
        let scheduler = Scheduler::new(config.expect("sound")).expect("sound");
        let count = json["count"].as_u64().unwrap();
        let timesteps: Vec<usize> = match json["timesteps"].as_array() {
            Some(list) => list.iter().map(|t| t.as_u64().unwrap() as usize).collect(),
            None => (0..count as usize).collect(),
        };
        let objective = Objective::new(&scheduler, &timesteps, 5.0).expect("sound");
        let pipeline = DiffusionPipeline::load(&checkpoint, scheduler).expect("loads");
        Self { json, pipeline, objective }
    }

    /// Its pictures, in order; folders are classes.
    fn examples(&self) -> Vec<Example> {
        let folder = fixtures().join("loss").join(self.json["images"].as_str().unwrap());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).expect("the pictures are there").flatten() {
            match entry.path().is_dir() {
                true => found.extend(std::fs::read_dir(entry.path()).unwrap().flatten().map(|entry| entry.path())),
                false => found.push(entry.path()),
            }
        }
        found.retain(|path| path.extension().is_some_and(|end| end == "png"));
        found.sort();
        let channels = if self.pipeline.vae.is_none() { self.pipeline.sample_channels() } else { 3 };
        let example = |path: PathBuf| Example {
            name: path.display().to_string(),
            image: read(&path, channels).expect("a picture").to_tensor(Range::MinusOneToOne),
            class: path.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().ok(),
            caption: std::fs::read_to_string(path.with_extension("txt")).ok().map(|text| text.trim().to_owned()),
        };
        found.into_iter().map(example).collect()
    }

    fn measure(&self, device: &Device, batch: usize) -> unmist::Result<Vec<ExampleLoss>> {
        let load = LoadOptions::default();
        let mut noise = TorchCpu::new(self.json["seed"].as_u64().unwrap());
        let (runtime, examples) = (Runtime::new(device, &load, DType::F32), self.examples().into_iter());
        self.pipeline.training_loss(&runtime, &self.objective, examples, &mut noise, batch, &mut |_| {})
    }
}

fn device() -> Device {
    Device::Gpu(gpu().clone())
}

/// Fails unless all are within the tolerance; returns the largest relative difference.
fn compare(what: &str, found: &[f64], expected: &Value) -> f64 {
    let one = [expected.clone()];
    let expected = expected.as_array().map_or(&one[..], Vec::as_slice);
    assert_eq!(found.len(), expected.len(), "{what}");
    let differences = found.iter().zip(expected).enumerate().map(|(i, (found, expected))| {
        let expected = expected.as_f64().expect("a number");
        // Of a level without picture, ε is known.
        let difference = if expected.abs() < 1e-12 { found.abs() } else { (found / expected - 1.0).abs() };
        assert!(difference <= TOLERANCE, "{what} {i}: {found}, expected {expected}: off by {difference:.1e}");
        difference
    });
    differences.fold(0.0, f64::max)
}

fn check(name: &str, device: &Device, batch: usize) {
    let case = Case::load(name);
    let losses = case.measure(device, batch).unwrap_or_else(|e| panic!("{name}: {e}"));
    let expected = case.json["pictures"].as_array().expect("a list");
    assert_eq!(losses.len(), expected.len(), "{name}");
    let levels = &case.objective.levels;
    let means = case.json["timesteps"].is_null();
    let bits = std::f64::consts::LN_2;
    let mut worst = 0.0f64;
    for (i, (loss, expected)) in losses.iter().zip(expected).enumerate() {
        let mut same = |field: &str, values: Vec<f64>| {
            let mean = || vec![values.iter().sum::<f64>() / values.len() as f64];
            let values = if means && values.len() > 1 { mean() } else { values };
            worst = worst.max(compare(&format!("{name}, picture {i}, {field}"), &values, &expected[field]));
        };
        let weighted =
            |weight: &dyn Fn(usize) -> f64| loss.mse.iter().enumerate().map(|(t, e)| e * weight(t)).collect();
        same("mse", loss.mse.clone());
        same("simple", weighted(&|t| levels[t].weights.simple));
        same("vlb", weighted(&|t| levels[t].weights.vlb));
        same("min_snr", weighted(&|t| levels[t].weights.min_snr));
        let Some(bound) = &loss.bound else {
            assert!(expected.get("terms").is_none(), "{name}: there is a bound");
            continue;
        };
        same("terms", bound.terms.iter().map(|term| term / bits).collect());
        same("prior", vec![bound.prior / bits]);
        same("total", vec![(bound.prior + bound.terms.iter().sum::<f64>()) / bits]);
        if means {
            same("l_0", vec![bound.terms[0] / bits]);
        }
    }
    println!("{name}: {worst:.1e}");
}

#[test]
fn the_shipped_models_lose_what_torch_says() {
    check("fashion", &device(), 8); // 28 pairs: the last batch is not full
    check("emoji", &device(), 3);
}

#[test]
fn the_bound_over_all_timesteps_is_torchs() {
    check("fashion_all", &device(), 16);
}

#[test]
fn every_prediction_and_variance_is_weighted_as_torch_says() {
    for (name, batch) in [("v_prediction", 1), ("sample_large", 4), ("thresholding", 5), ("learned_range", 12)] {
        check(name, &device(), batch);
    }
    check("learned_range", &Device::Reference, 4);
}

/// Noise belongs to a picture and a timestep, whatever is measured together; a class and a seed matter.
#[test]
fn a_batch_changes_nothing_and_the_condition_much() {
    let case = Case::load("fashion");
    let [all, alone] = [16, 3].map(|batch| case.measure(&device(), batch).expect("measures"));
    for (a, b) in all.iter().zip(&alone) {
        // Tiles, and so sums, may differ with the batch.
        assert!(a.mse.iter().zip(&b.mse).all(|(a, b)| (a / b - 1.0).abs() < TOLERANCE), "{a:?} {b:?}");
    }
    let load = LoadOptions::default();
    let device = device();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let measure = |class: Option<usize>, seed: u64| {
        let examples = case.examples().into_iter().take(1).map(|example| Example { class, ..example });
        let mut noise = TorchCpu::new(seed);
        case.pipeline.training_loss(&runtime, &case.objective, examples, &mut noise, 8, &mut |_| {})
    };
    let [own, other, none] = [Some(0), Some(7), None].map(|class| measure(class, 3).expect("measures")[0].mse[3]);
    assert!(other > 1.2 * own && none > own, "a shirt is taken for a sneaker: {own} {other} {none}");
    assert_ne!(measure(Some(0), 4).expect("measures")[0].mse[3], own);
    assert!(measure(Some(11), 3).unwrap_err().to_string().contains("classes 0 to 10"));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let case = Case::load("sample_large");
    let load = LoadOptions::default();
    let device = device();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let refused = |examples: Vec<Example>, parts: &[&str]| {
        let mut noise = TorchCpu::new(0);
        let result =
            case.pipeline.training_loss(&runtime, &case.objective, examples.into_iter(), &mut noise, 4, &mut |_| {});
        let message = result.unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let example = |shape: [usize; 4]| Example {
        name: "a.png".into(),
        image: HostTensor::from_fn(shape, |i| (i as f32).sin()),
        class: None,
        caption: None,
    };
    refused(vec![example([1, 1, 8, 12])], &["a.png", "[1, 3, 8, 12]", "[1, 1, 8, 12]"]);
    refused(vec![example([1, 3, 8, 12]), example([1, 3, 8, 8])], &["a.png", "[1, 3, 8, 8]"]);
    refused(vec![example([1, 3, 7, 12])], &["7"]);
    refused(vec![Example { caption: Some("a fox".into()), ..example([1, 3, 8, 12]) }], &["prompt"]);
}
