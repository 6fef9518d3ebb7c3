//! `unmist sample --from` with pictures of other programs: what they say is taken, and what is not is said.

use std::path::Path;

use serde_json::{Value, json};
use unmist::image_io::{Picture, read_text, write_png};

use crate::commands::sample::{Folder, lora};
use crate::commands::usage::{fails, stable_diffusion, succeeds, text, unmist};

/// A white picture with one text.
fn picture(folder: &Folder, name: &str, keyword: &str, text: &str) -> String {
    let white = Picture { width: 8, height: 8, channels: 1, data: vec![255; 64] };
    write_png(folder.path(name), &white, &[(keyword.to_owned(), text.to_owned())]).expect("writes");
    folder.path(name)
}

/// Goes on from a picture with the tiny Stable Diffusion 1: the options of the result, and the messages.
fn from(folder: &Folder, path: &str, more: &[&str]) -> (Value, String) {
    let (model, out) = (stable_diffusion("sd1"), folder.path("out.png"));
    let run = ["sample", "--from", path, "--output", &out, "--model", model.to_str().unwrap()];
    let output = unmist(&[&run[..], more].concat());
    let message = text(&output.stderr);
    assert!(output.status.success(), "{message}");
    (folder.record("out.png")["options"].clone(), message)
}

fn check(options: &Value, expected: &[(&str, Value)]) {
    for (field, value) in expected {
        assert_eq!(&options[field], value, "{field} of {options}");
    }
}

fn setting(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/settings").join(name);
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn texts_of_other_programs_are_found_in_every_format() {
    let found = |name: &str| read_text(setting(name)).expect("sound");
    let webui = found("webui.jpg");
    assert!(webui[0].0 == "parameters" && webui[0].1.starts_with("a (fox:1.3), «夜»"), "{webui:?}");
    assert_eq!(webui, found("webui.webp"));
    let comfyui = found("comfyui.webp");
    let expected = [("workflow", "{}"), ("prompt", r#"{"1": {"class_type": "A", "inputs": {}}}"#)];
    assert_eq!(comfyui, expected.map(|(keyword, text)| (keyword.to_owned(), text.to_owned())));
    assert_eq!(found("sdcpp.jpg"), [("parameters".to_owned(), "a fox\nSteps: 2, Seed: 1, Size: 8x8".to_owned())]);
    assert_eq!(found("sdcpp.webp"), [("parameters".to_owned(), "a <fox> &amp;\nSteps: 2".to_owned())]);
}

#[test]
fn from_the_web_ui() {
    let folder = Folder::new();
    let loras = folder.path("loras");
    std::fs::create_dir(&loras).expect("a folder");
    std::fs::copy(lora("sd1_kohya.safetensors"), Path::new(&loras).join("style.safetensors")).expect("copies");
    let (options, message) = from(&folder, &setting("webui.webp"), &["--steps", "2", "--lora-dir", &loras]);
    check(
        &options,
        &[
            ("prompt", json!(["a (fox:1.3), «夜» \nin the forest"])),
            ("negative_prompt", json!(["fog"])),
            ("weighting", json!(true)),
            ("steps", json!(2)),
            ("scheduler", json!("DPM++ 2M Karras")),
            ("guidance_scale", json!([6.5])),
            ("seed", json!([123])),
            ("width", json!(24)),
            ("height", json!(16)),
            ("clip_skip", json!(1)),
            ("rng", json!("torch-cuda")),
        ],
    );
    assert!(options["lora"][0].as_str().is_some_and(|lora| lora.ends_with("style.safetensors:0.8")), "{options}");
    for part in [
        "made by AUTOMATIC1111",
        "alike, not the same",
        "not taken: Hires upscale: 2",
        "not taken: Hires upscaler: Latent",
        "tiny, hash 0123456789",
    ] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert!(!message.contains("not taken: Lora") && !message.contains("not taken: Version"), "{message}");
    // It is a picture of this program now.
    let again = folder.path("again.png");
    succeeds(&["sample", "--from", &folder.path("out.png"), "--output", &again]);
    assert!(folder.bytes("out.png") == folder.bytes("again.png"), "made again bit for bit");
    // A network that is not there is left out, by name.
    let (options, message) = from(&folder, &setting("webui.jpg"), &["--steps", "2"]);
    assert!(options.get("lora").is_none() && message.contains("<lora:style:0.8>"), "{message}");

    let line = |line: &str| picture(&folder, "webui.png", "parameters", &format!("a fox\n{line}"));
    for (sampler, expected) in [
        ("Sampler: DPM++ 2M Karras", Some("DPM++ 2M Karras")),
        ("Sampler: DPM++ 2M", Some("DPM++ 2M Uniform")),
        ("Sampler: DPM++ 2M, Schedule type: Automatic", Some("DPM++ 2M Karras")),
        ("Sampler: DPM++ 3M SDE, Schedule type: Automatic", Some("DPM++ 3M SDE Exponential")),
        ("Sampler: Euler a, Schedule type: Automatic", Some("Euler a Uniform")),
        ("Sampler: Euler a, Schedule type: Karras", Some("Euler a")),
        ("Sampler: Euler, Schedule type: SGM Uniform", Some("Euler SGM Uniform")),
        ("Sampler: DDIM, Schedule type: Automatic", Some("DDIM")),
        ("Sampler: DPM adaptive", None),
    ] {
        let size = "Size: 24x16, RNG: CPU";
        let (options, message) = from(&folder, &line(&format!("Steps: 3, {sampler}, Seed: 1, {size}")), &[]);
        assert_eq!(options["scheduler"].as_str(), expected, "{sampler}");
        assert_eq!(options["rng"], "torch-cpu");
        let lost = expected.is_none() || sampler == "Sampler: Euler a, Schedule type: Karras";
        assert_eq!(message.contains("not taken: S"), lost, "{sampler}: {message}");
    }

    // From another picture, which has to be given.
    let changed = line("Steps: 4, Sampler: Euler, Seed: 1, Size: 24x16, Denoising strength: 0.5, Mask blur: 4");
    let (options, message) = from(&folder, &changed, &[]);
    assert!(options.get("strength").is_none());
    assert!(message.contains("--image") && message.contains("--strength 0.5"), "{message}");
    assert!(message.contains("not taken: Mask blur: 4"), "{message}");
    let (options, _) = from(&folder, &changed, &["--image", &folder.path("start.png")]);
    assert_eq!(options["strength"], 0.5);

    // What is given beside it counts, and a new prompt has networks of its own.
    let (options, message) = from(&folder, &setting("webui.webp"), &["--steps", "2", "an apple", "--seed", "9"]);
    check(&options, &[("prompt", json!(["an apple"])), ("seed", json!([9]))]);
    assert!(!message.contains("<lora:"), "{message}");

    let results = tempfile::tempdir().expect("a temporary folder");
    let out = results.path().join("out.png");
    let refused = |path: &str, parts: &[&str]| {
        fails(&["sample", "--from", path, "--output", out.to_str().unwrap()], parts, results.path());
    };
    refused(&setting("webui.jpg"), &["tiny (hash 0123456789)", "--model"]);
    refused(&line("Steps: 3, Seed: 1, Size: 8x8"), &["does not say", "--model"]);
    refused(&line("Steps: 3, Seed: 1, Size: 8x8, Model: ../../secret"), &["model secret", "--model"]);
    refused(&line("Steps: 3"), &["`parameters`"]);
    refused(&folder.path("start.png"), &["no settings"]);
}

#[test]
fn from_stable_diffusion_cpp() {
    let folder = Folder::new();
    let settings = "Steps: 2, CFG scale: 6.500000, Guidance: 3.500000, Eta: 0.000000, Seed: 42, Size: 24x16, \
        Model: tiny.safetensors, RNG: cuda, Sampler: dpm++2m karras, VAE: other.safetensors, \
        Version: stable-diffusion.cpp, SDCPP: {\"a\": {\"Steps\": 9, \"b\": \"}, Seed: 3\"}}";
    // Its PNGs hold UTF-8 where Latin-1 belongs.
    let prompt: String = "a fox «夜»\nNegative prompt: fog\n".bytes().map(char::from).collect();
    let path = picture(&folder, "sd.png", "parameters", &format!("{prompt}{settings}"));
    let (options, message) = from(&folder, &path, &[]);
    check(
        &options,
        &[
            ("prompt", json!(["a fox «夜»"])),
            ("negative_prompt", json!(["fog"])),
            ("steps", json!(2)),
            ("guidance_scale", json!([6.5])),
            ("seed", json!([42])),
            ("scheduler", json!("dpm++2m karras")),
            ("rng", json!("torch-cuda")),
            ("width", json!(24)),
        ],
    );
    assert!(message.contains("made by stable-diffusion.cpp"), "{message}");
    assert!(message.contains("not taken: VAE: other.safetensors"), "{message}");
    assert_eq!(message.matches("not taken").count(), 1, "{message}");
}

#[test]
fn from_comfyui() {
    let folder = Folder::new();
    let loras = folder.path("loras");
    std::fs::create_dir(&loras).expect("a folder");
    std::fs::copy(lora("sd1_kohya.safetensors"), Path::new(&loras).join("style.safetensors")).expect("copies");
    let graph = json!({
        "3": {"class_type": "KSampler", "inputs": {
            "seed": 77, "steps": 2, "cfg": 5.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0,
            "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "folder\\tiny.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 24, "height": 16, "batch_size": 2}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0], "clip": ["11", 0]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog [AND] rain", "clip": ["11", 0]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["13", 0]}},
        "10": {"class_type": "LoraLoader", "inputs": {
            "lora_name": "sub/style.safetensors", "strength_model": 0.75, "strength_clip": 0.5,
            "model": ["4", 0], "clip": ["4", 1]}},
        "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
        "12": {"class_type": "PrimitiveString", "inputs": {"value": "a (fox:1.2), «夜»"}},
        "13": {"class_type": "VAELoader", "inputs": {"vae_name": "other.safetensors"}},
        "20": {"class_type": "LatentUpscale", "inputs": {"samples": ["3", 0], "width": 48, "height": 32}},
        "21": {"class_type": "KSampler", "inputs": {
            "seed": 1, "steps": 9, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["20", 0]}},
    });
    let path = picture(&folder, "comfy.png", "prompt", &graph.to_string());
    let (options, message) = from(&folder, &path, &["--lora-dir", &loras]);
    check(
        &options,
        &[
            ("prompt", json!(["a (fox:1.2), «夜»"])),
            ("negative_prompt", json!([r"fog \[and\] rain"])),
            ("weighting", json!(true)),
            ("steps", json!(2)),
            ("scheduler", json!("dpmpp_2m karras")),
            ("guidance_scale", json!([5.5])),
            ("seed", json!([77])),
            ("width", json!(24)),
            ("height", json!(16)),
            ("batch_size", json!(2)),
            ("clip_skip", json!(1)),
            ("rng", json!("torch-cpu")),
        ],
    );
    assert!(options["lora"][0].as_str().is_some_and(|lora| lora.ends_with("style.safetensors:0.75:0.5")), "{options}");
    for part in ["made by ComfyUI", "not taken: a second pass by node 21", "not taken: VAE: other.safetensors"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert_eq!(message.matches("not taken").count(), 2, "{message}");

    // Unknown nodes, parts of a run, pictures; no brackets.
    let mut other = graph.clone();
    for gone in ["20", "21", "13", "12"] {
        other.as_object_mut().expect("nodes").remove(gone);
    }
    other["6"]["inputs"]["text"] = json!("a fox [red]");
    other["7"]["inputs"]["text"] = json!("");
    other["3"]["class_type"] = json!("KSamplerAdvanced");
    other["3"]["inputs"]["noise_seed"] = other["3"]["inputs"]["seed"].take();
    other["3"]["inputs"]["sampler_name"] = json!("res_multistep");
    other["3"]["inputs"]["start_at_step"] = json!(1);
    other["3"]["inputs"]["positive"] = json!(["30", 0]);
    other["30"] = json!({"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1.0}});
    other["5"] = json!({"class_type": "VAEEncode", "inputs": {"pixels": ["31", 0], "vae": ["4", 2]}});
    other["31"] = json!({"class_type": "LoadImage", "inputs": {"image": "photo.png", "is_changed": ["NaN"]}});
    other["3"]["inputs"]["denoise"] = json!(0.6);
    let text = other.to_string().replace("\"NaN\"", "NaN");
    let path = picture(&folder, "other.png", "prompt", &text);
    let start = folder.path("start.png");
    let (options, message) = from(&folder, &path, &["--lora-dir", &loras, "--image", &start]);
    check(&options, &[("prompt", json!(["a fox [red]"])), ("seed", json!([77])), ("strength", json!(0.6))]);
    assert!(options.get("weighting").is_none() && options.get("scheduler").is_none(), "{options}");
    for part in ["Sampler: res_multistep", "start_at_step: 1", "node 30 (ControlNetApply)", "image: photo.png"] {
        assert!(message.contains(&format!("not taken: {part}")), "no {part:?} in {message}");
    }

    let results = tempfile::tempdir().expect("a temporary folder");
    let out = results.path().join("out.png");
    for (text, part) in [("{}", "no KSampler"), ("[1]", "not a graph"), (r#"{"1": 2}"#, "no KSampler")] {
        let path = picture(&folder, "bad.png", "prompt", text);
        fails(&["sample", "--from", &path, "--output", out.to_str().unwrap()], &[part], results.path());
    }
    // Round in circles.
    let circle = json!({"1": {"class_type": "KSampler", "inputs": {"sampler_name": ["1", 0], "steps": ["1", 0],
        "positive": ["1", 0], "negative": ["1", 0], "latent_image": ["1", 0], "model": ["1", 0]}}});
    let path = picture(&folder, "circle.png", "prompt", &circle.to_string());
    fails(&["sample", "--from", &path, "--output", out.to_str().unwrap()], &["--model"], results.path());
}
