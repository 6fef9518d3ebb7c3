//! Fifty steps of every optimizer beside torch's, from the same parameters with the same pictures and noise.

use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::graph::Kept;
use unmist::pipelines::{DiffusionPipeline, Noised, Prepared, TimestepSampling, TrainingProcess};
use unmist::rng::{NoiseSource, TorchCpu};
use unmist::schedulers::{PredictionType, Scheduler, SchedulerConfig};
use unmist::training::{
    Keeps, Optimizer, OptimizerKind, RateSchedule, RateScheduleKind, Report, StepSettings, Trainer, TrainingGraph,
};
use unmist::{DType, HostTensor};

use crate::common::thorough;
use crate::device::gpu;

const STEPS: usize = 50;
const BATCH: usize = 4;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// What `tools/fixtures/training.py` does in one of its runs.
struct Run {
    name: &'static str,
    optimizer: Optimizer,
    rate: RateSchedule,
    prediction_type: PredictionType,
    snr_gamma: Option<f64>,
}

fn runs() -> [Run; 4] {
    let of = |name, kind, peak, schedule, prediction_type, snr_gamma, optimizer: Optimizer| Run {
        name,
        optimizer: Optimizer { kind, ..optimizer },
        rate: RateSchedule { kind: schedule, peak, warmup: 5, total: STEPS },
        prediction_type,
        snr_gamma,
    };
    let own = Optimizer::default;
    let adam = Optimizer { betas: [0.85, 0.99], ..own() };
    let sgd = Optimizer { momentum: 0.9, weight_decay: 1e-3, ..own() };
    use PredictionType::{Epsilon, Sample, VPrediction};
    [
        of("adamw", OptimizerKind::AdamW, 2e-3, RateScheduleKind::Cosine, Epsilon, None, own()),
        of("adam", OptimizerKind::Adam, 1e-3, RateScheduleKind::Linear, VPrediction, Some(5.0), adam),
        of("sgd", OptimizerKind::Sgd, 1e-2, RateScheduleKind::Constant, Sample, Some(5.0), sgd),
        of("muon", OptimizerKind::Muon, 5e-3, RateScheduleKind::Cosine, Epsilon, Some(5.0), own()),
    ]
}

/// The training of one run, with its pictures.
struct Training {
    trainer: Trainer,
    process: TrainingProcess,
    original: HostTensor,
    labels: HostTensor,
    rate: RateSchedule,
}

impl Training {
    fn new(run: &Run, device: &Device, load: &LoadOptions, dtype: DType, keeps: Keeps) -> Self {
        let checkpoint = Checkpoint::open(fixture("unet2d/class_table")).expect("the fixture is there");
        let mut config = DiffusionPipeline::training_config(&checkpoint).expect("it has a scheduler");
        config.prediction_type = run.prediction_type;
        let scheduler = Scheduler::new(config).expect("the config is sound");
        let process = TrainingProcess::new(&scheduler, TimestepSampling::Uniform, run.snr_gamma).expect("is trained");
        let pipeline = DiffusionPipeline::load(&checkpoint, scheduler).expect("loads");
        let pictures = Tensors::open(fixture("training/originals.safetensors")).expect("the fixture is there");
        let [original, labels] = ["original", "class_labels"].map(|name| pictures.read_f32(name).expect("is there"));
        let like = Prepared {
            name: "pictures".into(),
            original: HostTensor::zeros([&[1], &original.shape[1..]].concat()),
            condition: Vec::new(),
            tokens: 0,
        };
        let model = pipeline.training_model(dtype, BATCH, &like).expect("is trained");
        let step = TrainingGraph::new(&model, |_| true, &run.optimizer, keeps, |_| Kept::All).expect("has gradients");
        let ema = keeps.ema.then_some(0.99);
        let trainer = Trainer::new(device, load, step, pipeline.unet_weights(), run.optimizer.clone(), ema);
        Self { trainer: trainer.expect("loads"), process, original, labels, rate: run.rate }
    }

    /// A step with the pictures of step `number`, or with half of them and the other half later.
    fn step(&mut self, number: usize, settings: StepSettings) -> Report {
        let first = BATCH * (number % 2);
        let places: Vec<usize> = (first..first + BATCH).collect();
        let original = self.original.rows(&places);
        let mut random = TorchCpu::new(1000 + number as u64);
        let levels = self.process.draw(&mut random, BATCH).expect("the config is sound");
        let noise = random.randn(&original.shape);
        self.trainer.write("original", &original.channels_last()).expect("fits");
        self.trainer.write("noise", &noise.channels_last()).expect("fits");
        for (name, rows) in Noised::inputs(&levels) {
            self.trainer.write(name, &rows).expect("fits");
        }
        self.trainer.write("class_labels", &self.labels.rows(&places)).expect("fits");
        let weights: Vec<f64> = levels.iter().map(|level| level.weight / original.len() as f64).collect();
        self.trainer.step(&settings, &weights).expect("runs");
        self.trainer.report(&settings).expect("is read")
    }

    fn settings(&self, step: usize) -> StepSettings {
        StepSettings {
            step,
            learning_rate: self.rate.at(step),
            loss_scale: 1.0,
            add_to_earlier: false,
            update: true,
            new_report: true,
        }
    }
}

/// Norm, projection and elements of a tensor, as in tools/fixtures/gradients.py.
fn digest(tensor: &HostTensor) -> Vec<f64> {
    let values: Vec<f64> = tensor.data.iter().map(|v| f64::from(*v)).collect();
    let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let projection = values.iter().enumerate().map(|(i, v)| v * (i as f64).cos()).sum();
    [norm, projection].into_iter().chain(values.iter().step_by(values.len().div_ceil(64)).copied()).collect()
}

/// Every loss and norm within 1e-3 of torch's, every parameter within `bound` of its norm.
fn agrees_with_torch(run: &Run, device: &Device, steps: usize) {
    let expected = Tensors::open(fixture(&format!("training/{}.safetensors", run.name))).expect("the fixture is there");
    let [losses, norms] = ["losses", "norms"].map(|name| expected.read_f32(name).expect("is there").data);
    let keeps = Keeps { ema: true, collected: false };
    let mut training = Training::new(run, device, &LoadOptions::default(), DType::F32, keeps);
    for step in 0..steps {
        let report = training.step(step, training.settings(step));
        for (what, found, expected) in
            [("loss", report.losses, losses[step]), ("norm", report.gradient_norm, norms[step])]
        {
            let error = (found / f64::from(expected) - 1.0).abs();
            assert!(error < 1e-3, "{}, step {step}: {what} {found}, torch has {expected}", run.name);
        }
    }
    if steps < STEPS {
        return;
    }
    for (prefix, average) in [("", false), ("ema.", true)] {
        for (name, tensor) in training.trainer.parameters(average).expect("is read") {
            let expected = expected.read_f32(&format!("{prefix}{name}")).expect("is there").data;
            let found = digest(&tensor);
            let error: f64 = found.iter().zip(&expected).map(|(f, e)| (f - f64::from(*e)).powi(2)).sum::<f64>().sqrt();
            // Adam divides by the root of the second moment: where a gradient is rounding errors alone, so is its step.
            let bound = if name.contains("to_k.bias") { 0.2 } else { 5e-3 };
            let length = f64::from(expected[0]).max(0.1);
            assert!(error < bound * length, "{}: {prefix}{name} is off by {error:.2e} of {length:.3}", run.name);
        }
    }
}

#[test]
fn steps_of_every_optimizer_are_torchs() {
    let device = Device::Gpu(gpu().clone());
    // All fifty steps of the others with UNMIST_TEST_THOROUGH=1; on 2026-11-26 all of them agreed.
    for run in runs() {
        agrees_with_torch(&run, &device, if thorough() || run.name == "adamw" { STEPS } else { 15 });
    }
}

#[test]
fn the_reference_trains_as_torch_does() {
    runs().iter().for_each(|run| agrees_with_torch(run, &Device::Reference, 3));
}

/// The state after some steps, read and given to a new trainer, goes on to the bit.
#[test]
fn a_restored_state_goes_on_to_the_bit() {
    let device = Device::Gpu(gpu().clone());
    let keeps = Keeps { ema: true, collected: false };
    // Those with the most state.
    for run in runs().into_iter().filter(|run| ["adamw", "muon"].contains(&run.name)) {
        let take = |training: &mut Training, step| {
            let settings = training.settings(step);
            training.step(step, settings);
        };
        let new = || Training::new(&run, &device, &LoadOptions::default(), DType::F32, keeps);
        let mut whole = new();
        (0..6).for_each(|step| take(&mut whole, step));
        let mut first = new();
        (0..3).for_each(|step| take(&mut first, step));
        let state = first.trainer.state().expect("is read");
        let mut second = new();
        second.trainer.restore(|name| Ok(state[name].clone())).expect("fits");
        (3..6).for_each(|step| take(&mut second, step));
        assert!(whole.trainer.state().unwrap() == second.trainer.state().unwrap(), "{}", run.name);
    }
}

/// Two batches collected make the step of one batch that is the two together.
#[test]
fn collected_gradients_make_one_step() {
    let device = Device::Gpu(gpu().clone());
    let run = &runs()[0];
    let keeps = Keeps { ema: false, collected: true };
    let mut training = Training::new(run, &device, &LoadOptions::default(), DType::F32, keeps);
    let before = training.trainer.trainable.len();
    assert!(before > 10);
    let base = StepSettings { learning_rate: 1e-2, ..training.settings(0) };
    training.step(0, StepSettings { update: false, ..base });
    let collected = training.trainer.parameters(false).expect("is read");
    let report = training.step(1, StepSettings { add_to_earlier: true, new_report: false, ..base });
    let stepped = training.trainer.parameters(false).expect("is read");

    // The same two batches, each with a step of its own, from the same start.
    let alone = |number| {
        let mut training = Training::new(run, &device, &LoadOptions::default(), DType::F32, keeps);
        training.step(number, base).losses
    };
    let (first, second) = (alone(0), alone(1));
    assert!((report.losses - first - second).abs() < 1e-5 * report.losses, "{} of {first} + {second}", report.losses);
    let fresh = Training::new(run, &device, &LoadOptions::default(), DType::F32, keeps);
    let mut moved = 0;
    for (name, tensor) in &collected {
        let own = fresh.trainer.trainable.iter().find(|p| p.name == *name).expect("the same model");
        let checkpoint = Checkpoint::open(fixture("unet2d/class_table")).expect("the fixture is there");
        let scheduler = Scheduler::new(DiffusionPipeline::training_config(&checkpoint).unwrap()).unwrap();
        let pipeline = DiffusionPipeline::load(&checkpoint, scheduler).expect("loads");
        let start = own.to_checkpoint(own.load(pipeline.unet_weights()).expect("is there"));
        assert!(start == *tensor, "{name} changed although gradients were only collected");
        moved += usize::from(stepped[name] != *tensor);
    }
    assert_eq!(moved, before, "not every parameter took a step");
}

/// In f16 the losses are near those in f32, and a gradient that f16 cannot hold leaves everything as it was.
#[test]
fn mixed_precision_trains_and_leaves_out_steps_that_overflow() {
    let device = Device::Gpu(gpu().clone());
    let run = &runs()[0];
    let keeps = Keeps { ema: true, collected: false };
    let mut training = Training::new(run, &device, &LoadOptions::default(), DType::F16, keeps);
    let expected = Tensors::open(fixture("training/adamw.safetensors")).unwrap().read_f32("losses").unwrap().data;
    for (step, expected) in expected.iter().enumerate().take(10) {
        let settings = StepSettings { loss_scale: 1024.0, ..training.settings(step) };
        let report = training.step(step, settings);
        let error = (report.losses / f64::from(*expected) - 1.0).abs();
        assert!(error < 2e-2, "step {step}: {} in f16, {expected} in f32", report.losses);
        assert!(report.gradient_norm.is_finite());
    }
    let before = training.trainer.state().expect("is read");
    let report = training.step(10, StepSettings { loss_scale: 1e12, ..training.settings(10) });
    assert!(!report.gradient_norm.is_finite(), "a loss times 1e12 fits f16");
    let after = training.trainer.state().expect("is read");
    let changed: Vec<_> =
        before.iter().filter(|(name, tensor)| !name.starts_with("ema") && after[*name] != **tensor).collect();
    assert!(changed.is_empty(), "{} states changed in a step that overflowed", changed.len());
}

/// A model of flow matching that counts its levels the other way would be trained on the wrong ones.
#[test]
fn inverted_levels_are_not_trained() {
    let process = |config: &str| {
        let scheduler = SchedulerConfig::from_json(config).and_then(Scheduler::new).expect("the config is sound");
        TrainingProcess::new(&scheduler, TimestepSampling::Uniform, None)
    };
    assert!(process(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#).is_ok());
    let inverted = process(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": true}"#);
    let error = inverted.expect_err("is refused").to_string();
    assert!(error.contains("\"invert_sigmas\": true"), "{error}");
}

/// A variance that is learned as a share of its range: losses and gradients of L_hybrid, on a process so short that its
/// first timestep, whose loss is another one, comes often. `tools/fixtures/training.py`, `hybrid`.
#[test]
fn a_learned_variance_is_trained_as_torch_does() {
    let expected = Tensors::open(fixture("training/hybrid.safetensors")).expect("the fixture is there");
    let [losses, norms] = ["losses", "norms"].map(|name| expected.read_f32(name).expect("is there").data);
    let checkpoint = Checkpoint::open(fixture("unet2d/resnet_resampling")).expect("the fixture is there");
    let mut config = DiffusionPipeline::training_config(&checkpoint).expect("it has a scheduler");
    config.num_train_timesteps = 40;
    let scheduler = Scheduler::new(config).expect("the config is sound");
    let process = TrainingProcess::new(&scheduler, TimestepSampling::Uniform, None).expect("is trained");
    let error = TrainingProcess::new(&scheduler, TimestepSampling::Uniform, Some(5.0)).unwrap_err().to_string();
    assert!(error.contains("min-SNR weights beside a learned variance"), "{error}");
    let pipeline = DiffusionPipeline::load(&checkpoint, scheduler).expect("loads");
    let like = Prepared {
        name: "pictures".into(),
        original: HostTensor::zeros([1, 3, 10, 6]),
        condition: Vec::new(),
        tokens: 0,
    };
    let optimizer = Optimizer { max_grad_norm: None, ..Optimizer::default() };
    for (device, steps) in [(Device::Gpu(gpu().clone()), losses.len()), (Device::Reference, 3)] {
        let model = pipeline.training_model(DType::F32, BATCH, &like).expect("is trained");
        let keeps = Keeps::default();
        let step = TrainingGraph::new(&model, |_| true, &optimizer, keeps, |_| Kept::All).expect("has gradients");
        let weights = pipeline.unet_weights();
        let mut trainer =
            Trainer::new(&device, &LoadOptions::default(), step, weights, optimizer.clone(), None).expect("is loaded");
        let mut first = 0;
        for number in 0..steps {
            let mut random = TorchCpu::new(2000 + number as u64);
            let levels = process.draw(&mut random, BATCH).expect("the config is sound");
            first += levels.iter().filter(|level| level.timestep == 0.0).count();
            let shape = [BATCH, 3, 10, 6];
            let mut original = random.randn(&shape);
            for v in &mut original.data {
                *v = ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even() / 127.5 - 1.0;
            }
            let noise = random.randn(&shape);
            let mut inputs = Noised::inputs(&levels);
            inputs.push(("original", original.channels_last()));
            inputs.push(("noise", noise.channels_last()));
            let labels = (0..BATCH).map(|i| (i % 4) as f32).collect();
            inputs.push(("class_labels", HostTensor { shape: vec![BATCH], data: labels }));
            inputs.iter().for_each(|(name, tensor)| trainer.write(name, tensor).expect("fits"));
            let settings = StepSettings {
                step: number,
                learning_rate: 1e-3,
                loss_scale: 1.0,
                add_to_earlier: false,
                update: true,
                new_report: true,
            };
            trainer.step(&settings, &[1.0 / original.len() as f64; BATCH]).expect("runs");
            let report = trainer.report(&settings).expect("is read");
            for (what, found, expected) in
                [("loss", report.losses, losses[number]), ("norm", report.gradient_norm, norms[number])]
            {
                let error = (found / f64::from(expected) - 1.0).abs();
                assert!(error < 1e-3, "step {number}: {what} {found}, torch has {expected}");
            }
        }
        if steps == losses.len() {
            assert!(first > 0, "the first timestep never came");
            let parameters = trainer.parameters(false).expect("is read");
            let begun = fixture("unet2d/resnet_resampling/unet/diffusion_pytorch_model.safetensors");
            let begun = Tensors::open(begun).expect("the fixture is there");
            // Each half of each by itself, against how far it moved: what the bound moves is the second one.
            for name in ["conv_out.weight", "conv_out.bias"] {
                let [found, expected, before] = [
                    parameters[name].data.clone(),
                    expected.read_f32(name).expect("is there").data,
                    begun.read_f32(name).expect("is there").data,
                ];
                let half = found.len() / 2;
                for range in [0..half, half..2 * half] {
                    let norm = |of: &dyn Fn(usize) -> f32| range.clone().map(|i| of(i).powi(2)).sum::<f32>().sqrt();
                    let (error, moved) = (norm(&|i| found[i] - expected[i]), norm(&|i| expected[i] - before[i]));
                    assert!(error < 5e-3 * moved, "{name} {range:?}: {error} off, it moved by {moved}");
                }
            }
        }
    }
}
