//! Consistency models: whole runs against diffusers' `ConsistencyModelPipeline`, of folders as it writes them.

use std::path::{Path, PathBuf};
use std::process::Command;

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::generate::{Models, Notes};
use unmist::pipelines::Runtime;
use unmist::refusal::quoted;
use unmist::request::{Asked, Request, Resolved};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// The accuracy that the project promises after all steps, in [0, 1].
const MAX_ABS: f64 = 2e-3;

/// Of the sample after each step. Measured: 5e-7 at most.
const RELATIVE_L2: f64 = 1e-4;

const RUNS: [&str; 11] = [
    "bedroom/four_steps",
    "bedroom/one_step",
    "bedroom/two_steps",
    "elsewhere/one_step",
    "elsewhere/six_steps",
    "elsewhere/two_steps",
    "imagenet/one_step",
    "imagenet/three_steps",
    "imagenet/two_steps",
    "timestep_classes/one_step",
    "timestep_classes/two_steps",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/consistency").join(name)
}

/// A run of the fixtures, and the request that asks for the same.
fn run(name: &str) -> (Tensors, Request) {
    let (model, _) = name.split_once('/').expect("a model and a run of it");
    let file = Tensors::open(folder(&format!("{name}.safetensors"))).expect("the fixture is there");
    let meta = file.metadata().clone();
    let list = |key: &str| -> Vec<usize> {
        meta.get(key).map_or(Vec::new(), |list| serde_json::from_str(list).expect("a list of numbers"))
    };
    let number = |key: &str| meta.get(key).map(|number| number.parse::<usize>().expect("a number"));
    let mut seeds = list("seeds");
    seeds.extend(number("seed"));
    let request = Request {
        model: Some(folder(model)),
        variant: (model == "bedroom").then(|| "fp16".into()),
        steps: number("num_inference_steps"),
        timesteps: list("timesteps"),
        class: list("class_labels"),
        seed: seeds.into_iter().map(|seed| seed as u64).collect(),
        batch_size: number("batch_size"),
        ..Request::default()
    };
    (file, request)
}

fn open(request: &Request) -> (Models, Resolved) {
    let mut models = Models::open(request, &mut Notes::default()).expect("opens");
    let resolved = models.resolve(&Asked::from(request.clone()), None).expect("fits");
    (models, resolved)
}

fn check(name: &str, device: &Device) {
    let (file, request) = run(name);
    let (models, resolved) = open(&request);
    let trajectory = file.read_f32("trajectory").expect("sound");
    let load = LoadOptions::default();
    let runtime = Runtime::new(device, &load, DType::F32);
    let (mut done, mut sources) = (0, resolved.noise_sources());
    let images = models.model.pipeline.sample(&runtime, &resolved.options, &mut sources, &mut |mut progress| {
        let sample = progress.sample()?;
        let truth = trajectory.data[done * sample.len()..][..sample.len()].to_vec();
        compare(&sample, &HostTensor::new(sample.shape.clone(), truth)?, Tolerance::l2(RELATIVE_L2))
            .unwrap_or_else(|e| panic!("{name}, step {done}: {e}"));
        done += 1;
        Ok(())
    });
    assert_eq!(done, trajectory.shape[0], "{name}: every step is compared");
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

#[test]
fn the_list_of_runs_is_complete() {
    let mut found = Vec::new();
    for model in ["bedroom", "elsewhere", "imagenet", "timestep_classes"] {
        let names = std::fs::read_dir(folder(model)).expect("fixtures are there").flatten();
        found.extend(names.filter_map(|entry| {
            Some(format!("{model}/{}", entry.file_name().to_str()?.strip_suffix(".safetensors")?))
        }));
    }
    found.sort();
    assert_eq!(found, RUNS);
}

/// A model all of whose classes are ones of pictures has none to take when none is asked for: diffusers draws one.
#[test]
fn classes_are_drawn_as_diffusers_draws_them() {
    let (file, request) = run("imagenet/one_step");
    let drawn: Vec<usize> = serde_json::from_str(&file.metadata()["drawn_classes"]).expect("a list");
    let (mut models, resolved) = open(&request);
    assert_eq!((resolved.request.class.clone(), resolved.options.classes), (drawn.clone(), drawn));
    assert!(resolved.notes.iter().any(|note| note.starts_with("`class`")), "it is said: {:?}", resolved.notes);
    assert_eq!((resolved.request.steps, resolved.options.guidance_scale), (Some(1), vec![1.0]));
    let mut resolve = |request: Request| models.resolve(&Asked::from(request), None);
    let request = Request { batch_size: None, ..request };
    // One for each seed, which does not depend on the others.
    let each = resolve(Request { seed: vec![5, 0], ..request.clone() }).expect("fits").options.classes;
    let alone = resolve(Request { seed: vec![0], ..request.clone() }).expect("fits").options.classes;
    assert_eq!((each.len(), each[1]), (2, alone[0]));
    // Those that are asked for are taken; and one that stands for "no class", where the user knows one.
    let asked = Request { class: vec![4], ..request.clone() };
    assert_eq!(resolve(asked.clone()).expect("fits").options.classes, [4]);
    let refusal = resolve(Request { guidance_scale: vec![2.0], ..asked.clone() }).expect_err("guided by nothing");
    assert!(refusal.to_string().contains(&quoted("guidance_scale")) && refusal.to_string().contains("null_class"));
    let none = resolve(Request { null_class: Some(9), ..request }).expect("fits").options;
    assert_eq!((none.classes, none.null_class), (vec![], Some(9)), "nothing is drawn");
    let guided = Request { guidance_scale: vec![2.0], null_class: Some(9), ..asked };
    assert_eq!(resolve(guided).expect("fits").options.null_class, Some(9));
}

/// Of labels that are embedded as timesteps are, the config says how many there are, or no run can know; and labels
/// that are embeddings themselves have no number.
#[test]
fn labels_without_numbers_are_refused_with_and_without_one() {
    let place = tempfile::tempdir().expect("a folder");
    crate::commands::usage::copy(&folder("timestep_classes"), place.path());
    let config = place.path().join("unet/config.json");
    let text = std::fs::read_to_string(&config).expect("is there");
    let request = Request { model: Some(place.path().to_owned()), ..Request::default() };
    for (from, to, parts) in [
        (r#""num_class_embeds": 5"#, r#""num_class_embeds": null"#, ["class_embed_type", "num_class_embeds"]),
        (r#""class_embed_type": "timestep""#, r#""class_embed_type": "identity""#, ["identity", "unmist run"]),
    ] {
        std::fs::write(&config, text.replace(from, to)).expect("writes");
        // An identity has no parameters.
        let request = Request { ignore_unused: vec!["class_embedding.*".into()], ..request.clone() };
        for class in [vec![], vec![2]] {
            let mut models = Models::open(&request, &mut Notes::default()).expect("opens");
            let asked = Request { class, ..request.clone() };
            let message = models.resolve(&Asked::from(asked), None).expect_err("no such run").to_string();
            assert!(message.contains("`model`") && parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
    std::fs::write(&config, text).expect("writes");
    let beyond = Request { class: vec![5], ..request };
    let mut models = Models::open(&beyond, &mut Notes::default()).expect("opens");
    let message = models.resolve(&Asked::from(beyond), None).expect_err("there are 5").to_string();
    assert!(message.contains("classes 0 to 4"), "{message}");
}

/// A number of steps and timesteps say the same thing; what is asked for goes before what a picture says.
#[test]
fn timesteps_take_the_place_of_steps() {
    let (_, request) = run("imagenet/two_steps");
    let (mut models, resolved) = open(&request);
    assert_eq!((resolved.request.steps, models.steps(&resolved.options).expect("fits")), (None, 2));
    let both = models.resolve(&Asked::from(Request { steps: Some(2), ..request.clone() }), None);
    assert!(both.expect_err("two answers").to_string().contains("`steps`"));
    for (timesteps, part) in [(vec![0, 22], "descend"), (vec![40, 0], "beyond the last trained one, 39")] {
        let refusal = models.resolve(&Asked::from(Request { timesteps, ..request.clone() }), None);
        let message = refusal.expect_err("no such run").to_string();
        assert!(message.contains("`timesteps`") && message.contains(part), "{message}");
    }
    let too_many = Request { steps: Some(41), timesteps: vec![], ..request };
    let message = models.resolve(&Asked::from(too_many), None).expect_err("there are 40").to_string();
    assert!(message.contains("1 to 40 steps"), "{message}");
}

/// From the command line, with a note of it in the picture, from which it can be made again with other steps.
#[test]
fn the_command_makes_the_same() {
    let place = tempfile::tempdir().expect("a folder");
    let (first, second) = (place.path().join("a.png"), place.path().join("b.png"));
    let model = folder("imagenet");
    let unmist = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_unmist")).args(args).output().expect("runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let [model, a, b] = [&model, &first, &second].map(|path| path.to_str().expect("plain"));
    unmist(&["sample", "--model", model, "--timesteps", "22,0", "--class", "3", "--seed", "1", "--output", a]);
    unmist(&["sample", "--from", a, "--output", b]);
    let read = |path: &Path| std::fs::read(path).expect("written");
    assert_eq!(read(&first), read(&second));
    unmist(&["sample", "--from", a, "--steps", "1", "--output", b]);
    assert_ne!(read(&first), read(&second));
    assert_eq!(Checkpoint::open(folder("imagenet")).expect("opens").pipeline_class(), Some("ConsistencyModelPipeline"));
}
