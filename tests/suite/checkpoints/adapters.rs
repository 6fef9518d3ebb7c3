//! Models with LoRAs and textual inversions, against transformers and diffusers in float32.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Lora, Tensors, TextualInversion};
use unmist::models::{LoadedModel, NamedTensors, prepare};
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::stable_diffusion;
use crate::device::gpu;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn open(model: &str) -> Checkpoint {
    Checkpoint::open(stable_diffusion(model)).expect("the model is there")
}

fn lora_file(name: &str) -> Tensors {
    Tensors::open(fixtures().join(format!("lora/{name}.safetensors"))).expect("the fixture is there")
}

fn with_loras(model: &str, loras: &[(&str, f64)]) -> Checkpoint {
    let lora = |(name, scale): &(&str, f64)| {
        (Arc::new(Lora::from_tensors(lora_file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))), (*scale).into())
    };
    open(model).with_loras(&loras.iter().map(lora).collect::<Vec<_>>()).expect("the LoRAs fit")
}

/// The inputs of `MODEL/PART_io.safetensors`.
fn inputs(model: &str, part: &str) -> NamedTensors {
    let file = fixtures().join("stable_diffusion").join(model).join(format!("{part}_io.safetensors"));
    let file = Tensors::open(file).expect("the fixture is there");
    let names = file.names().filter(|name| if part == "unet" { *name != "out" } else { *name == "input_ids" });
    names.map(|name| (name.to_owned(), file.read_f32(name).expect("sound"))).collect()
}

/// The `sample` of a U-Net, or the `last_hidden_state` of a text encoder.
fn run(checkpoint: &Checkpoint, part: &str, inputs: NamedTensors, device: &Device) -> HostTensor {
    let loaded = LoadedModel::open(checkpoint, part).unwrap_or_else(|e| panic!("{part}: {e}"));
    let (graph, inputs) = prepare(loaded.model.as_ref(), inputs, DType::F32).expect("the inputs fit");
    let mut session = device.load(graph, &loaded.weights, &LoadOptions::default()).expect("loads");
    inputs.iter().for_each(|(name, tensor)| session.write(name, tensor).expect("fits"));
    session.run().expect("runs");
    match part {
        "unet" => session.read("sample").map(|t| t.channels_first()).expect("is read"),
        _ => session.read("last_hidden_state").expect("is read"),
    }
}

/// The first positions of each text, as many as `truth` has.
fn beginning(states: HostTensor, truth: &HostTensor) -> HostTensor {
    let (kept, tokens, width) = (truth.shape[1], states.shape[1], states.shape[2]);
    let data = states.data.chunks(tokens * width).flat_map(|text| text[..kept * width].to_vec()).collect();
    HostTensor { shape: truth.shape.clone(), data }
}

fn check(name: &str, model: &str, loras: &[(&str, f64)], device: &Device, bound: f64) {
    let truths = lora_file(&format!("{name}_io"));
    let checkpoint = with_loras(model, loras);
    let mut parts = 0;
    for key in truths.names().filter(|key| key.contains('/')) {
        let (part, truth) = (key.split('/').next().expect("a name"), truths.read_f32(key).expect("sound"));
        let mut found = run(&checkpoint, part, inputs(model, part), device);
        if part != "unet" {
            found = beginning(found, &truth);
        }
        compare(&found, &truth, Tolerance::l2(bound)).unwrap_or_else(|e| panic!("{name} {key}: {e}"));
        parts += 1;
    }
    assert!(parts >= 2, "{name}: the fixture covers both a U-Net and a text encoder");
}

#[test]
fn loras_change_models_as_in_diffusers() {
    type Run = (&'static str, &'static str, &'static [(&'static str, f64)]);
    let runs: [Run; 5] = [
        ("sd1_kohya", "sd1", &[("sd1_kohya", 0.8)]),
        ("sd1_peft", "sd1", &[("sd1_peft", 1.0)]),
        ("sd1_processor", "sd1", &[("sd1_processor", 0.5)]),
        ("sd1_two", "sd1", &[("sd1_kohya", 0.8), ("sd1_peft", -0.6)]),
        ("sdxl_kohya", "sdxl", &[("sdxl_kohya", -0.7)]),
    ];
    for (name, model, loras) in runs {
        check(name, model, loras, &Device::Reference, 1e-5);
        check(name, model, loras, &Device::Gpu(gpu().clone()), 1e-4);
    }
}

#[test]
fn without_the_lora_the_model_is_what_it_was() {
    let device = Device::Gpu(gpu().clone());
    for part in ["unet", "text_encoder"] {
        let outputs = |checkpoint: &Checkpoint| run(checkpoint, part, inputs("sd1", part), &device);
        let before = outputs(&open("sd1"));
        let changed = with_loras("sd1", &[("sd1_kohya", 0.8)]);
        assert!(outputs(&changed) != before, "{part}: the LoRA has an effect");
        assert!(outputs(&open("sd1")) == before, "{part}: loaded again without it");
        assert!(outputs(&with_loras("sd1", &[("sd1_kohya", 0.0)])) == before, "{part}: with a scale of 0");
    }
}

#[test]
fn a_run_with_a_lora_gives_diffusers_picture() {
    let truths = lora_file("sd1_kohya_io");
    let call: serde_json::Value = serde_json::from_str(&truths.metadata()["call"]).expect("JSON");
    let count = |key: &str| call[key].as_u64().expect("a number") as usize;
    let checkpoint = with_loras("sd1", &[("sd1_kohya", 0.8)]);
    let config = checkpoint.scheduler_config("scheduler").expect("there");
    let scheduler = Scheduler::new(SchedulerConfig::from_json(&config.text).expect("sound")).expect("sound");
    let pipeline = DiffusionPipeline::load(&checkpoint, scheduler).expect("loads");
    let options = SampleOptions {
        prompts: vec![call["prompt"].as_str().expect("a text").to_owned()],
        height: Some(count("height")),
        width: Some(count("width")),
        sampling: Sampling::steps(count("num_inference_steps")),
        guidance_scale: vec![call["guidance_scale"].as_f64().expect("a number")],
        ..SampleOptions::default()
    };
    let (device, load) = (Device::Gpu(gpu().clone()), LoadOptions::default());
    let runtime = Runtime::new(&device, &load, DType::F32);
    let images = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(0)], &mut |_| Ok(())).expect("samples");
    let truth = truths.read_f32("images").expect("sound");
    // In [0, 1], after all steps.
    compare(&images, &truth, Tolerance::largest(2e-3)).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn textual_inversions_are_new_words() {
    let truths = lora_file("embedding_io");
    let prompts: serde_json::Value = serde_json::from_str(&truths.metadata()["prompts"]).expect("JSON");
    for (name, about) in prompts.as_object().expect("an object") {
        let embedding =
            TextualInversion::open(fixtures().join(format!("lora/embedding_{name}.safetensors")), None).expect("sound");
        assert_eq!(embedding.word(), about["token"]);
        let model = about["model"].as_str().expect("a name");
        let checkpoint = open(model).with_textual_inversions(&[embedding]).expect("fits");
        for part in ["text_encoder", "text_encoder_2"] {
            let key = format!("{name}/{part}");
            if truths.info(&format!("{key}/input_ids")).is_none() {
                assert!(model == "sd1" && part == "text_encoder_2", "{key} has a truth");
                continue;
            }
            let input_ids = truths.read_f32(&format!("{key}/input_ids")).expect("sound");
            let tokenizer = checkpoint.tokenizer(&part.replace("text_encoder", "tokenizer")).expect("there");
            let texts = about["prompts"].as_array().expect("a list");
            let ids = |text: &serde_json::Value| {
                let ids = tokenizer.encode(text.as_str().expect("a text")).expect("short");
                tokenizer.window(&ids, 77).into_iter().map(|id| id as f32).collect::<Vec<_>>()
            };
            assert_eq!(texts.iter().flat_map(ids).collect::<Vec<_>>(), input_ids.data, "{key}");
            let truth = truths.read_f32(&format!("{key}/last_hidden_state")).expect("sound");
            let inputs = NamedTensors::from([("input_ids".to_owned(), input_ids)]);
            for (device, bound) in [(Device::Reference, 1e-5), (Device::Gpu(gpu().clone()), 1e-4)] {
                let found = beginning(run(&checkpoint, part, inputs.clone(), &device), &truth);
                compare(&found, &truth, Tolerance::l2(bound)).unwrap_or_else(|e| panic!("{key}: {e}"));
            }
        }
    }
}

#[test]
fn adapters_of_other_models_are_refused_by_name() {
    let lora = |name: &str| Arc::new(Lora::from_tensors(lora_file(name)).expect("sound"));
    let refused = |model: &str, lora: Arc<Lora>, parts: &[&str]| {
        let message = open(model).with_loras(&[(lora, 1.0.into())]).expect_err("does not fit").to_string();
        parts.iter().for_each(|part| assert!(message.contains(part), "no {part:?} in {message}"));
    };
    refused("sdxl", lora("sd1_kohya"), &["sd1_kohya.safetensors", "90 layers do not fit", "for another model"]);
    refused("sd1", lora("sdxl_kohya"), &["lora_te2_text_model_encoder_layers_1_mlp_fc1"]);
    let embedding = TextualInversion::open(fixtures().join("lora/embedding_webui.safetensors"), None).expect("sound");
    let message = open("sdxl").with_textual_inversions(&[embedding]).expect_err("does not fit").to_string();
    assert!(message.contains("embedding_webui"), "{message}");
    let embedding = TextualInversion::open(fixtures().join("lora/embedding_webui.safetensors"), None).expect("sound");
    let classes = Checkpoint::open(fixtures().join("unet2d/pipeline")).expect("there");
    let message = classes.with_textual_inversions(&[embedding]).expect_err("no text").to_string();
    assert!(message.contains("no text encoder") && message.contains("`embedding`"), "{message}");
}
