//! Latent diffusion before Stable Diffusion, against diffusers: text to image with LDMBert, and super-resolution.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::generate::{Models, Notes};
use unmist::models::{LoadedModel, NamedTensors, prepare};
use unmist::pipelines::Runtime;
use unmist::request::{Asked, Request};
use unmist::tokenizer::Tokenizer;
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// The accuracy that the project promises: of a component, and of a picture after all steps, in [0, 1].
const COMPONENT: f64 = 1e-4;
const MAX_ABS: f64 = 2e-3;

/// Of the latents. Measured: 5e-7 at most.
const RELATIVE_L2: f64 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ldm")
}

fn fixture(name: &str) -> Tensors {
    Tensors::open(fixtures().join(name)).expect("the fixture is there")
}

fn devices() -> [Device; 2] {
    [Device::Reference, Device::Gpu(gpu().clone())]
}

/// Every text has the ids that transformers gives it, with the accents and cases of the one setting and the other.
#[test]
fn texts_become_the_tokens_of_transformers() {
    let words = fixtures().join("words");
    for (name, config) in [("uncased", "{}"), ("cased", r#"{"do_lower_case": false}"#)] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(words.join("vocab.txt"), folder.path().join("vocab.txt")).expect("copies");
        std::fs::write(folder.path().join("tokenizer_config.json"), config).expect("writes");
        let tokenizer = Tokenizer::open(folder.path()).expect("opens");
        let text = std::fs::read_to_string(words.join(format!("{name}.json"))).expect("the fixture is there");
        let entries: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        assert!(entries.len() > 30);
        for entry in entries {
            let text = entry["text"].as_str().expect("a text");
            let expected: Vec<u64> = serde_json::from_value(entry["input_ids"].clone()).expect("ids");
            let ids = tokenizer.encode(text).expect("encodes");
            let window = tokenizer.window(&ids, ids.len() + 2);
            assert_eq!(window.iter().map(|id| u64::from(*id)).collect::<Vec<_>>(), expected, "{name} {text:?}");
        }
    }
}

#[test]
fn the_text_encoder_is_that_of_diffusers() {
    let file = fixture("states.safetensors");
    let checkpoint = Checkpoint::open(fixtures().join("text2im")).expect("opens");
    let tokenizer = checkpoint.tokenizer("tokenizer").expect("opens");
    let texts: Vec<String> = serde_json::from_str(&file.metadata()["texts"]).expect("a list");
    let window = |text: &String| tokenizer.window(&tokenizer.encode(text).expect("encodes"), 77);
    let ids: Vec<f32> = texts.iter().flat_map(window).map(|id| id as f32).collect();
    let ids = HostTensor::new([texts.len(), 77], ids).expect("fits");
    assert_eq!(ids, file.read_f32("input_ids").expect("sound"), "padded as the pipeline pads");

    let loaded = LoadedModel::open(&checkpoint, "bert").expect("loads");
    let inputs = NamedTensors::from([("input_ids".to_owned(), ids)]);
    let (graph, inputs) = prepare(&*loaded.model, inputs, DType::F32).expect("fits");
    for device in devices() {
        let load = LoadOptions::default();
        let mut session = device.load(graph.clone(), &loaded.weights, &load).expect("loads");
        inputs.iter().for_each(|(name, tensor)| session.write(name, tensor).expect("its input"));
        session.run().expect("runs");
        let states = session.read("last_hidden_state").expect("its output");
        compare(&states, &file.read_f32("states").expect("sound"), Tolerance::l2(COMPONENT)).expect("states");
    }
}

/// Makes the pictures of a request, and compares them and the latents with those of a fixture.
fn check_run(name: &str, request: &Request, size: (usize, usize)) {
    let file = fixture(name);
    let mut models = Models::open(request, &mut Notes::default()).expect("opens");
    let resolved = models.resolve(&Asked::from(request.clone()), None).expect("fits");
    for device in devices() {
        let load = LoadOptions::default();
        let runtime = Runtime::new(&device, &load, DType::F32);
        let mut resolved = resolved.clone();
        if let Some(path) = &request.image {
            let files = unmist::files::Disk;
            let bytes = unmist::files::Files::open(&files, path).expect("the picture is there");
            let picture = unmist::image_io::decode(path, &bytes, 3).expect("decodes");
            resolved.options.image = Some(picture.to_tensor(unmist::image_io::Range::MinusOneToOne));
        }
        let latents = models.run(&runtime, &resolved, &mut |_| Ok(())).expect("runs");
        let expected = file.read_f32("latents").expect("sound");
        compare(&latents, &expected, Tolerance::l2(RELATIVE_L2)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let images = models.decode(&runtime, &latents).expect("decodes");
        assert_eq!(images.shape[2..], [size.0, size.1], "{name}");
        if file.info("images").is_some() {
            let expected = file.read_f32("images").expect("sound");
            compare(&images, &expected, Tolerance::largest(MAX_ABS)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn a_prompt_becomes_the_picture_that_diffusers_makes() {
    for name in ["text_guided.safetensors", "text_plain.safetensors", "text_half.safetensors"] {
        let file = fixture(name);
        let number = |key: &str| file.metadata()[key].parse::<f64>().expect("a number");
        let scale = number("guidance_scale");
        let request = Request {
            model: Some(fixtures().join("text2im")),
            prompt: vec![file.metadata()["prompt"].clone()],
            steps: Some(number("num_inference_steps") as usize),
            seed: vec![number("seed") as u64],
            eta: Some(number("eta")),
            // 1 is the default.
            guidance_scale: if scale == 1.0 { vec![] } else { vec![scale] },
            ..Request::default()
        };
        check_run(name, &request, (32, 32));
    }
}

#[test]
fn a_small_picture_becomes_the_large_one_that_diffusers_makes() {
    for name in ["upscale_ddim.safetensors", "upscale_euler.safetensors"] {
        let file = fixture(name);
        let number = |key: &str| file.metadata()[key].parse::<f64>().expect("a number");
        let eta = number("eta");
        let request = Request {
            model: Some(fixtures().join("upscale")),
            image: Some(fixtures().join("small.png")),
            steps: Some(number("num_inference_steps") as usize),
            seed: vec![number("seed") as u64],
            batch_size: Some(2),
            eta: (eta > 0.0).then_some(eta),
            scheduler_config: (file.metadata()["scheduler"] == "euler")
                .then(|| fixtures().join("euler/scheduler_config.json")),
            ..Request::default()
        };
        check_run(name, &request, (32, 24));
    }
}

/// What does not fit these models is refused, and the field named.
#[test]
fn what_does_not_fit_is_refused() {
    let refused = |model: &str, request: Request| {
        let request = Request { model: Some(fixtures().join(model)), ..request };
        let mut models = Models::open(&request, &mut Notes::default())?;
        models.resolve(&Asked::from(request), None).map(|_| ())
    };
    let image = || Some(fixtures().join("small.png"));
    let vae = Some(fixtures().join("text2im/vqvae"));
    for (model, request, part) in [
        ("upscale", Request::default(), "image"),
        ("upscale", Request { image: image(), prompt: vec!["a fox".into()], ..Request::default() }, "prompt"),
        ("upscale", Request { image: image(), mask: image(), ..Request::default() }, "mask"),
        ("upscale", Request { image: image(), noise_level: Some(20), ..Request::default() }, "noise_level"),
        ("upscale", Request { image: image(), strength: Some(0.5), ..Request::default() }, "strength"),
        ("text2im", Request { class: vec![1], ..Request::default() }, "class"),
        ("text2im", Request { vae, ..Request::default() }, "vae"),
    ] {
        let error = refused(model, request).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}
