//! Classifier guidance: classifiers against a PyTorch port of guided-diffusion's, and whole guided runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::graph::Kept;
use unmist::models::EncoderUNetModel;
use unmist::pipelines::{Classifier, DiffusionPipeline, Moved, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Frame, PredictionType, Sampling, Scheduler, SchedulerClass, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// The accuracy that the project promises after all steps, in [0, 1].
const MAX_ABS: f64 = 2e-3;

/// Of the sample after each step. Measured: 8e-6 at most.
const RELATIVE_L2: f64 = 1e-4;

const CLASSIFIERS: [&str; 2] = ["convolutions", "updown"];
const RUNS: [&str; 5] = ["ddim", "ddim_learned_range", "ddpm_fixed_small", "ddpm_learned_range", "euler"];

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn open(name: &str) -> Classifier {
    Classifier::open(&fixtures(&format!("classifier/{name}"))).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Logits, and the gradient of log p(y | x, t), which the graph of a step computes the same way.
fn check_classifier(name: &str, device: &Device) {
    let classifier = open(name);
    let io = Tensors::open(fixtures(&format!("classifier/{name}/io.safetensors"))).expect("the fixture is there");
    let tensor = |key: &str| io.read_f32(key).expect("the fixture has it");
    let labels = tensor("labels").data;
    let mut graph = classifier.model.graph(labels.len()).expect("sound");
    let logits = graph.find_output("logits").expect("it has logits");
    let sample = graph.find_input("sample").expect("it has a picture");
    let target = graph.input("target", graph.desc(logits).clone());
    let softmax = graph.softmax("softmax", logits).expect("fits");
    let negative = graph.scale("negative", softmax, -1.0, 0.0).expect("fits");
    let seed = graph.add("seed", negative, target).expect("fits");
    let gradient = graph.differentiate(logits, seed, &[sample], &Kept::All).expect("has one")[0];
    graph.output("gradient", gradient.expect("the classifier sees the picture"));

    let mut session = device.load(graph, &classifier.weights, &LoadOptions::default()).expect("loads");
    let classes = classifier.model.classes;
    let mut target = HostTensor::zeros([labels.len(), classes]);
    labels.iter().enumerate().for_each(|(i, label)| target.data[i * classes + *label as usize] = 1.0);
    session.write("target", &target).expect("fits");
    session.write("sample", &tensor("sample").channels_last()).expect("fits");
    session.write("timestep", &tensor("timestep")).expect("fits");
    session.run().expect("runs");
    let gradient = session.read("gradient").expect("is read").channels_first();
    for (what, found) in [("logits", session.read("logits").expect("is read")), ("gradient", gradient)] {
        let expected = tensor(what);
        compare(&found, &expected, Tolerance::l2(1e-4)).unwrap_or_else(|e| panic!("{name}, {what}: {e}"));
        let largest = expected.data.iter().fold(0f32, |max, v| max.max(v.abs()));
        compare(&found, &expected, Tolerance::largest(1e-4 * f64::from(largest)))
            .unwrap_or_else(|e| panic!("{name}, {what}: {e}"));
    }
}

#[test]
fn device_classifies_as_torch_does() {
    CLASSIFIERS.iter().for_each(|name| check_classifier(name, &Device::Gpu(gpu().clone())));
}

#[test]
fn reference_classifies_as_torch_does() {
    CLASSIFIERS.iter().for_each(|name| check_classifier(name, &Device::Reference));
}

struct Run {
    pipeline: DiffusionPipeline,
    options: SampleOptions,
    seed: u64,
    file: Tensors,
}

impl Run {
    fn load(name: &str) -> Self {
        let file = Tensors::open(fixtures(&format!("classifier/{name}.safetensors"))).expect("the fixture is there");
        let meta = file.metadata().clone();
        let scheduler = Scheduler::new(SchedulerConfig::from_json(&meta["scheduler"]).expect("sound")).expect("sound");
        let folder = fixtures(&format!("unet2d/{}", meta["model"]));
        let mut pipeline = Checkpoint::open(folder)
            .and_then(|f| DiffusionPipeline::load(&f, scheduler))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        pipeline.set_classifier(Some(open(&meta["classifier"]))).expect("they fit");
        let classes: Vec<usize> = serde_json::from_str(&meta["class_labels"]).expect("a list");
        let options = SampleOptions {
            batch_size: classes.len(),
            classes,
            height: Some(8),
            width: Some(8),
            classifier_scale: meta["classifier_scale"].parse().expect("a number"),
            sampling: Sampling::steps(meta["num_inference_steps"].parse().expect("a number")),
            ..SampleOptions::default()
        };
        Self { pipeline, options, seed: meta["seed"].parse().expect("a number"), file }
    }

    /// Compares every step and the pictures.
    fn check(&self, name: &str, device: &Device) {
        let trajectory = self.file.read_f32("trajectory").expect("sound");
        let load = LoadOptions::default();
        let (mut done, mut sources) = (0, [TorchCpu::new(self.seed)]);
        let runtime = Runtime::new(device, &load, DType::F32);
        let images = self.pipeline.sample(&runtime, &self.options, &mut sources, &mut |mut progress| {
            let sample = progress.sample()?;
            let truth = trajectory.data[done * sample.len()..][..sample.len()].to_vec();
            compare(&sample, &HostTensor::new(sample.shape.clone(), truth)?, Tolerance::l2(RELATIVE_L2))
                .unwrap_or_else(|e| panic!("{name}, step {done}: {e}"));
            done += 1;
            Ok(())
        });
        assert_eq!(done, trajectory.shape[0], "{name}: every step is compared");
        compare(&images.expect(name), &self.file.read_f32("images").expect("sound"), Tolerance::largest(MAX_ABS))
            .unwrap_or_else(|e| panic!("{name} on {}: {e}", device.describe()));
    }
}

#[test]
fn device_is_guided_as_torch_is() {
    RUNS.iter().for_each(|name| Run::load(name).check(name, &Device::Gpu(gpu().clone())));
}

#[test]
fn reference_is_guided_as_torch_is() {
    RUNS.iter().for_each(|name| Run::load(name).check(name, &Device::Reference));
}

#[test]
fn the_list_of_runs_is_complete() {
    let names = std::fs::read_dir(fixtures("classifier")).expect("fixtures are there").flatten();
    let mut found: Vec<String> =
        names.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".safetensors")?.to_owned())).collect();
    found.sort();
    assert_eq!(found, RUNS);
}

/// A classifier beside classifier-free guidance is asked once for each picture, and its parameters are counted.
#[test]
fn both_guidances_go_together_and_memory_is_counted() {
    let mut run = Run::load("ddpm_learned_range");
    let device = Device::Reference;
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let options = SampleOptions { guidance_scale: vec![3.0], ..run.options.clone() };
    let of = |options: &SampleOptions| {
        let sources = &mut [TorchCpu::new(run.seed)];
        run.pipeline.sample(&runtime, options, sources, &mut |_| Ok(())).expect("samples")
    };
    let (both, alone) = (of(&options), of(&run.options));
    assert!(compare(&both, &alone, Tolerance::largest(1e-3)).is_err(), "guidance by the U-Net has no effect");
    let without = of(&SampleOptions { classifier_scale: 0.0, ..options.clone() });
    assert!(compare(&both, &without, Tolerance::largest(1e-3)).is_err(), "the classifier has no effect");
    let peak = |run: &Run| run.pipeline.plan(&runtime, &run.options).expect("fits").peak();
    let with = peak(&run);
    run.pipeline.set_classifier(None).expect("there is none");
    assert!(with > peak(&run) + 4 * open("updown").weights.parameters(), "the classifier takes memory");
}

/// With a scale of 0 nothing moves, whatever the precision.
#[test]
fn a_scale_of_nothing_guides_nowhere() {
    for name in ["ddim", "ddpm_fixed_small"] {
        let mut run = Run::load(name);
        run.options.classifier_scale = 0.0;
        let (device, load) = (Device::Gpu(gpu().clone()), LoadOptions::default());
        let runtime = Runtime::new(&device, &load, DType::F32);
        let of = |run: &Run, options: &SampleOptions| {
            run.pipeline.sample(&runtime, options, &mut [TorchCpu::new(run.seed)], &mut |_| Ok(())).expect("samples")
        };
        let still = of(&run, &run.options);
        run.pipeline.set_classifier(None).expect("there is none");
        let alone = of(&run, &SampleOptions { classes: vec![], classifier_scale: 1.0, ..run.options.clone() });
        compare(&still, &alone, Tolerance::largest(1e-6)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// Those for models that count timesteps.
const SCHEDULERS: [&str; 18] = [
    "DDIM",
    "DDPM",
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverSDE",
    "DPMSolverSinglestep",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "HeunDiscrete",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LCM",
    "LMSDiscrete",
    "PNDM",
    "RePaint",
    "SASolver",
    "TCD",
    "UniPCMultistep",
];

/// Every scheduler for numbered timesteps tells the noise in the model's input by the same numbers.
#[test]
fn every_scheduler_shows_the_classifier_the_noise_of_its_timestep() {
    let mut seen = 0;
    for name in SCHEDULERS {
        let config = SchedulerConfig::from_json(&format!(r#"{{"_class_name": "{name}Scheduler"}}"#)).expect(name);
        assert_eq!(config.class.frame(), Frame::Timesteps, "{name}");
        let moved = Moved::by(&config).expect(name);
        assert_eq!(moved == Moved::Mean, config.class == SchedulerClass::Ddpm, "{name}");
        let scheduler = Scheduler::new(config).expect(name);
        let schedule = scheduler.schedule(&Sampling::steps(10)).expect(name);
        for step in schedule.steps.iter().filter(|step| step.timestep.fract() == 0.0) {
            let alphas = &scheduler.noise_schedule.alphas_cumprod;
            let expected = (1.0 - alphas[step.timestep as usize]).sqrt();
            let level = -step.input_scale * step.x0.model_output / step.x0.sample;
            assert!((level - expected).abs() < 2e-3, "{name} at {}: {level}, not {expected}", step.timestep);
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} steps");
    let v = r#"{"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}"#;
    let config = SchedulerConfig::from_json(v).expect("sound");
    assert_eq!(config.prediction_type, PredictionType::VPrediction);
    let message = Moved::by(&config).expect_err("predicts no noise").to_string();
    assert!(message.contains("DDIMScheduler") && message.contains("prediction_type"), "{message}");
    let edm = SchedulerConfig::from_json(r#"{"_class_name": "EDMEulerScheduler"}"#).expect("sound");
    assert!(Moved::by(&edm).expect_err("no timesteps").to_string().contains("EDMEulerScheduler"));
}

/// What names and shapes say, and what must be said.
#[test]
fn files_are_read_strictly() {
    let folder = fixtures("classifier/updown");
    let file = Tensors::open(folder.join("model.safetensors")).expect("the fixture is there");
    let refused = |error: unmist::Error, parts: &[&str]| {
        let message = error.to_string();
        parts.iter().for_each(|part| assert!(message.contains(part), "{message} does not say {part}"));
    };
    let (updown, convolutions) = (open("updown").model, open("convolutions").model);
    assert_eq!((updown.image_size, updown.classes, updown.body.block_out_channels), (8, 4, vec![4, 8, 8]));
    assert_eq!((convolutions.classes, convolutions.body.layers_per_block), (3, 2));
    // Without a config, heads have 64 channels.
    refused(Classifier::open(&folder.join("model.safetensors")).expect_err("8 channels"), &["num_head_channels", "64"]);
    let tensors = |change: &dyn Fn(&mut std::collections::HashMap<String, HostTensor>)| {
        let mut all = file.names().map(|name| (name.to_owned(), file.read_f32(name).expect("sound"))).collect();
        change(&mut all);
        let config = Checkpoint::open(&folder).and_then(|c| c.component_config("classifier")).expect("sound");
        EncoderUNetModel::read(Arc::new(all), Some(&config))
    };
    refused(
        tensors(&|all| drop(all.remove("out.2.positional_embedding"))).map(drop).expect_err("another pool"),
        &["classifier_pool", "attention"],
    );
    refused(
        tensors(&|all| drop(all.remove("input_blocks.3.0.out_layers.3.weight"))).map(drop).expect_err("a gap"),
        &["input_blocks"],
    );
    refused(tensors(&|all| all.clear()).map(drop).expect_err("nothing"), &["input_blocks.0.0.weight"]);
    let (model, source) =
        tensors(&|all| drop(all.insert("more.weight".into(), HostTensor::zeros([1])))).expect("reads");
    let weights = unmist::checkpoint::Weights::new(source, &model.parameters().expect("sound"));
    refused(weights.map(drop).expect_err("one too many"), &["more.weight"]);
}

/// Another size, other classes, no class, and a model that it is not for.
#[test]
fn what_does_not_fit_is_refused() {
    let classifier = fixtures("classifier/updown");
    let path = |path: &Path| path.to_str().expect("plain").to_owned();
    let refused = |model: &str, rest: &[&str], parts: &[&str]| {
        let mut args = vec!["sample".to_owned(), "--model".to_owned(), path(&fixtures(model))];
        args.extend(["--output", "never.png", "--steps", "2"].map(str::to_owned));
        args.extend(rest.iter().map(|arg| if *arg == "@" { path(&classifier) } else { (*arg).to_owned() }));
        let output = Command::new(env!("CARGO_BIN_EXE_unmist")).args(&args).output().expect("runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?} is done");
        parts.iter().for_each(|part| assert!(message.contains(part), "{args:?}: {message} does not say {part}"));
    };
    let square = |rest: &[&'static str]| [&["--height", "8", "--width", "8"], rest].concat();
    let plain = "unet2d/pipeline";
    refused(plain, &square(&["--classifier", "@"]), &["--classifier", "--class"]);
    refused(plain, &square(&["--class", "1"]), &["--class", "no classes"]);
    refused(plain, &square(&["--classifier-scale", "2", "--class", "1"]), &["--classifier-scale"]);
    refused(plain, &square(&["--classifier", "@", "--class", "4"]), &["--class", "0 to 3"]);
    refused(plain, &["--classifier", "@", "--class", "1"], &["--classifier", "8 wide and 8 high"]);
    let edm = square(&["--classifier", "@", "--class", "1", "--prediction-type", "sample", "--scheduler", "ddim"]);
    refused(plain, &edm, &["--scheduler", "prediction_type"]);
    refused("unet2d/class_table", &square(&["--classifier", "@", "--class", "1"]), &["--classifier", "channels"]);
    refused("consistency/imagenet", &square(&["--classifier", "@", "--class", "1"]), &["--classifier", "10"]);
    refused("consistency/bedroom", &square(&["--classifier", "@", "--class", "1"]), &["--classifier", "timesteps"]);
}

/// From the command line; the picture remembers the classifier, and can be made again.
#[test]
fn the_command_makes_the_same_again() {
    let place = tempfile::tempdir().expect("a folder");
    let path = |path: &Path| path.to_str().expect("plain").to_owned();
    let [a, b, c] = ["a.png", "b.png", "c.png"].map(|name| place.path().join(name));
    let unmist = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_unmist")).args(args).output().expect("runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (model, classifier) = (path(&fixtures("unet2d/pipeline")), path(&fixtures("classifier/updown")));
    let [a_text, b_text, c_text] = [&a, &b, &c].map(|name| path(name));
    let common = ["sample", "--model", &model, "--height", "8", "--width", "8", "--steps", "4", "--seed", "1"];
    let guided = ["--class", "2", "--classifier", &classifier, "--classifier-scale", "40", "--output", &a_text];
    unmist(&[&common[..], &guided].concat());
    unmist(&["sample", "--from", &a_text, "--output", &b_text]);
    unmist(&[&common[..], &["--output", &c_text]].concat());
    let read = |path: &Path| std::fs::read(path).expect("written");
    assert_eq!(read(&a), read(&b));
    assert_ne!(read(&a), read(&c));
}
