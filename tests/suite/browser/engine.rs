//! Models and pictures on the browser's WebGPU are those of the native engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors, safetensors};
use unmist::gpu::Checks;
use unmist::image_io::{Picture, decode, read, read_text, write_png};
use unmist::models::{LoadedModel, NamedTensors, prepare};
use unmist::output::sha256_of;
use unmist::rng::{TorchCpu, randn_tensor};
use unmist::tokenizer::{Padding, Tokenizer};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use super::Engine;
use crate::checkpoints::single_file::{folder_with_clip_vocabulary, write_single_file};
use crate::commands::usage::succeeds;
use crate::device::{gpu, selector};

fn weights(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(model)
}

/// What a component is run on.
fn inputs(component: &str) -> NamedTensors {
    let noise = |seed: u64, shape: &[usize]| randn_tensor(&mut [TorchCpu::new(seed)], shape);
    let numbers = |values: &[f32]| HostTensor { shape: vec![values.len()], data: values.to_vec() };
    let given: Vec<(&str, HostTensor)> = match component {
        "fashion unet" => vec![
            ("sample", noise(1, &[2, 1, 32, 32])),
            ("timestep", numbers(&[437.0])),
            ("class_labels", numbers(&[3.0, 10.0])),
        ],
        "text_encoder" => vec![("input_ids", HostTensor::from_fn([2, 32], |i| ((i * 997) % 4295) as f32))],
        "unet" => vec![
            ("sample", noise(2, &[2, 16, 8, 8])),
            ("timestep", numbers(&[812.0])),
            ("encoder_hidden_states", noise(3, &[2, 32, 128])),
        ],
        "vae.decoder" => vec![("latent", noise(4, &[1, 16, 8, 8]))],
        _ => vec![("sample", noise(5, &[1, 3, 64, 64]))],
    };
    given.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

/// The same on this machine.
fn native(model: &str, component: &str, given: &NamedTensors) -> NamedTensors {
    let checkpoint = Checkpoint::open(weights(model)).expect("it ships");
    let LoadedModel { model, weights, .. } = LoadedModel::open(&checkpoint, component).expect("it has this");
    let (graph, inputs) = prepare(model.as_ref(), given.clone(), DType::F32).expect("they fit");
    let names: Vec<String> = graph.outputs().iter().map(|(name, _)| name.clone()).collect();
    let device = Device::Gpu(gpu().with_checks(Checks::Off));
    let mut session = device.load(graph, &weights, &LoadOptions::default()).expect("loads");
    inputs.iter().for_each(|(name, tensor)| session.write(name, tensor).expect("it fits"));
    session.run().expect("runs");
    names
        .into_iter()
        .map(|name| {
            let read = session.read(&name).expect("it was computed");
            let tensor = model.layout(&name).to_public(read);
            (name, tensor)
        })
        .collect()
}

#[test]
fn one_pass_of_every_shipped_model_is_the_native_one() {
    let mut engine = Engine::start();
    for (model, components) in
        [("ddpm-fashion-32", &["unet"][..]), ("emoji-64", &["text_encoder", "unet", "vae.encoder", "vae.decoder"])]
    {
        let facts = engine.open(model);
        let listed: Value = serde_json::from_str(include_str!("../../../web/models.json")).expect("JSON");
        let listed = listed.as_array().expect("a list").iter().find(|m| m["name"] == model).expect("it is listed");
        assert_eq!(facts, listed["facts"], "what web/models.json says of {model}");
        for component in components {
            let what = if model == "ddpm-fashion-32" { "fashion unet" } else { component };
            let given = inputs(what);
            let list: Vec<_> = given.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            let mut file = Vec::new();
            safetensors::write(&mut file, &list, &BTreeMap::new()).expect("writes");
            std::fs::write(engine.files.path().join("inputs"), file).expect("writes");
            let request = json!({"model": model, "component": component});
            let found = engine.bytes(&format!(
                "fetch('/test/inputs', {{cache: 'no-store'}}).then(file => file.arrayBuffer())
                   .then(inputs => ask('run', {{request: {request}, inputs}}))"
            ));
            let found = Tensors::from_bytes("answer", found).expect("sound");
            let expected = native(model, component, &given);
            assert!(!expected.is_empty());
            for (name, expected) in expected {
                let found = found.read_f32(&name).expect("it was computed");
                let tolerance = Tolerance::near(1e-5);
                let same = compare(&found, &expected, tolerance);
                let same = same.unwrap_or_else(|e| panic!("{model} {component} {name}: {e}"));
                println!("{model} {component} {name}: relative L2 {:.1e}", same.relative_l2);
            }
        }
    }
    assert_eq!(engine.page.problems(), [""; 0]);
}

/// Compares a PNG with the one that the command line makes of these arguments. `account` is the device's; on a CPU
/// driver so many of the `levels` may be the next one.
fn assert_native(engine: &Engine, account: &Value, png: &[u8], args: &[&str], levels: usize) {
    let expected = engine.files.path().join("expected.png");
    let (model, device) = (weights("emoji-64"), selector());
    let output =
        ["--model", &model.display().to_string(), "--output", &expected.display().to_string()].map(String::from);
    let output: Vec<&str> = output.iter().map(String::as_str).collect();
    succeeds(&[&["sample"], args, &output, &["--device", &device]].concat());
    let found = decode(Path::new("found"), png, 3).expect("a picture");
    let expected = read(&expected, 3).expect("a picture");
    assert_eq!(found.data.len(), expected.data.len());
    let far: Vec<u8> =
        found.data.iter().zip(&expected.data).map(|(a, b)| a.abs_diff(*b)).filter(|far| *far > 0).collect();
    println!("{args:?}: {} of {} levels differ, by {:?}", far.len(), expected.data.len(), far.iter().max());
    // The same kernels on two CPU drivers give nearly the same bits; GPUs round some operations in their own ways.
    if account["is_fallback_adapter"] == true {
        assert!(far.len() <= levels && far.iter().all(|far| *far == 1), "{args:?}: {far:?}");
    } else {
        assert!(far.len() <= expected.data.len() / 50, "{args:?}: {} levels differ", far.len());
    }
}

#[test]
fn a_picture_is_the_native_one() {
    let mut engine = Engine::start();
    let account = engine.page.evaluate("ask('start')");
    engine.open("emoji-64");
    let request = json!({"model": "emoji-64", "prompt": ["flat fox, green background"], "steps": 3, "seed": [7]});
    let png = engine.bytes(&format!("ask('sample', {{request: {request}}})"));
    assert_eq!(engine.page.evaluate("previews.length"), 0, "nobody asked for them");
    assert_native(&engine, &account, &png, &["flat fox, green background", "--steps", "3", "--seed", "7"], 0);
}

/// Asks for pictures with those that the request names, which lie below `/test/`.
fn with_pictures(request: &Value, previews: usize) -> String {
    format!(
        "Promise.all([{0}.image, {0}.mask].filter(Boolean).map(async name => \
           ({{name, blob: await (await fetch('/test/' + name, {{cache: 'no-store'}})).blob()}})))
         .then(pictures => ask('sample', {{request: {0}, pictures, previews: {previews}}}))",
        request
    )
}

#[test]
fn a_picture_of_a_picture_is_the_native_one_and_seen_before_it_is_done() {
    let mut engine = Engine::start();
    let account = engine.page.evaluate("ask('start')");
    engine.open("emoji-64");
    // Not of the asked size, so that both are resized.
    let (start, mask) = (engine.files.path().join("start.png"), engine.files.path().join("mask.png"));
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/input.png"), &start)
        .expect("copies");
    let (width, height) = (37, 23);
    let data = (0..width * height).map(|i| if i % width < 15 { 255 } else { 0 }).collect();
    write_png(&mask, &Picture { width, height, channels: 1, data }, &[]).expect("writes");
    let paths = [&start, &mask].map(|path| path.display().to_string());
    let prompt = "flat fox, green background";
    let args = [prompt, "--steps", "5", "--strength", "0.6", "--seed", "7", "--width", "64", "--height", "64"];
    let request = |more: Value| {
        let mut request = json!({"model": "emoji-64", "prompt": [prompt], "steps": 5, "strength": 0.6, "seed": [7],
            "width": 64, "height": 64, "image": "start.png"});
        request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        request
    };

    // 1. image to image, which shows what there is after each of its steps but the last
    let png = engine.bytes(&with_pictures(&request(json!({})), 4));
    assert_native(&engine, &account, &png, &[&args[..], &["--image", &paths[0]]].concat(), 0);
    let previews = engine.page.evaluate("previews.splice(0).map(base64)");
    let previews: Vec<String> = serde_json::from_value(previews).expect("texts");
    let levels: Vec<Vec<u8>> = previews
        .iter()
        .map(|text| base64::prelude::BASE64_STANDARD.decode(text).expect("base64"))
        .chain([png.clone()])
        .map(|png| decode(Path::new("preview"), &png, 3).expect("a picture").data)
        .collect();
    assert_eq!(levels.len(), 3, "three steps");
    // They come nearer to the picture, and are near in the end.
    let far = |i: usize| levels[i].iter().zip(&levels[2]).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
    let far = [0, 1].map(|i| far(i) / levels[2].len() as f64);
    println!("previews are {far:?} levels from the picture");
    assert!(0.0 < far[1] && far[1] < far[0] && far[0] < 40.0, "{far:?}");
    // The picture remembers what it was made of.
    let found = engine.files.path().join("found.png");
    std::fs::write(&found, &png).expect("writes");
    let texts = read_text(&found).expect("a PNG");
    let hash = sha256_of(&std::fs::read(&start).expect("it is there"));
    assert!(texts.iter().any(|(_, text)| text.contains(&hash)), "{texts:?}");

    // 2. inpainting; one preview of two is after the second step, and changes nothing
    let inpaint = request(json!({"mask": "mask.png"}));
    let png = engine.bytes(&with_pictures(&inpaint, 1));
    assert_eq!(engine.page.evaluate("previews.splice(0).length"), 1);
    assert!(engine.bytes(&with_pictures(&inpaint, 0)) == png, "with and without a preview");
    assert_eq!(engine.page.evaluate("previews.length"), 0);
    // One pass of the drivers differs by 6e-7, so that of 12288 values some lie on two sides of a half.
    let args = [&args[..], &["--image", &paths[0], "--mask", &paths[1]]].concat();
    assert_native(&engine, &account, &png, &args, 12);

    // 3. what is no picture, is broken or missing is refused at its field
    let whole = std::fs::read(&start).expect("it is there");
    let mut refused = |request: &Value, field: &str, part: &str| {
        let said = engine.page.evaluate(&format!("{}.then(() => '', e => e.message)", with_pictures(request, 0)));
        let said = said.as_str().expect("text");
        assert!(said.starts_with(&format!("usage {field}: {field}")) && said.contains(part), "{said}");
    };
    std::fs::write(&mask, "<html>not found</html>").expect("writes");
    refused(&inpaint, "mask", "mask.png: expected a PNG, JPEG or WebP picture");
    std::fs::write(&start, &whole[..whole.len() / 2]).expect("writes");
    refused(&inpaint, "image", "start.png: ");
    std::fs::write(&start, &whole).expect("writes");
    refused(&request(json!({"strength": 1.5})), "strength", "1.5");
    let said = engine.page.evaluate(&format!("ask('sample', {{request: {inpaint}}}).then(() => '', e => e.message)"));
    assert!(said.as_str().expect("text").starts_with("usage image: "), "those of earlier requests are gone: {said}");
    assert_eq!(engine.page.problems(), [""; 0]);
}

#[test]
fn a_model_in_one_file_takes_clips_list() {
    let mut engine = Engine::start();
    let (folder, file) = (engine.files.path().join("folder"), engine.files.path().join("model.safetensors"));
    folder_with_clip_vocabulary(&folder);
    write_single_file(&folder, &file);
    let open = |list: &str| {
        format!(
            "Promise.all([{list}].map(async url => \
               ({{name: url.split('/').pop(), id: url, blob: await (await fetch(url)).blob()}})))
             .then(files => ask('open', {{files, path: 'model.safetensors'}}))"
        )
    };
    // Without the list it says what is missing.
    let said =
        engine.page.evaluate(&format!("{}.then(() => '', error => error.message)", open("'/test/model.safetensors'")));
    assert!(said.as_str().expect("text").contains("CLIP's list of merges"), "{said}");
    let facts = engine.page.evaluate(&open("'/test/model.safetensors', '/clip-merges.txt'"));
    assert_eq!(facts["text"], true);
    let request = json!({"model": "model.safetensors", "prompt": ["a photo of a cat"], "steps": 1, "seed": [3],
        "width": 16, "height": 16});
    let png = engine.bytes(&format!("ask('sample', {{request: {request}}})"));
    let found = decode(Path::new("found"), &png, 3).expect("a picture");
    let (expected, device) = (engine.files.path().join("expected.png"), selector());
    let sample = ["sample", "a photo of a cat", "--steps", "1", "--seed", "3", "--width", "16", "--height", "16"];
    let paths = [file.to_str().expect("UTF-8"), expected.to_str().expect("UTF-8")];
    succeeds(&[&sample[..], &["--model", paths[0], "--output", paths[1], "--device", &device]].concat());
    let expected = read(&expected, 3).expect("a picture");
    let far = found.data.iter().zip(&expected.data).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(found.data.len() == expected.data.len() && far <= Some(1), "levels differ by up to {far:?}");
}

#[test]
fn clips_list_beside_the_page_is_the_one_in_the_program() {
    let list = std::fs::read_to_string(super::site().join("clip-merges.txt")).expect("it is there");
    for padding in [Padding::End, Padding::Zero] {
        let (read, own) = (Tokenizer::clip_of(&list, padding).expect("sound"), Tokenizer::clip(padding));
        for text in ["A photo of a cat, 4k!", "naïve café, 红色 🍎", "  don't <|endoftext|> 12345 supercalifragilistic"]
        {
            let [read, own] = [&read, &own].map(|t| t.window(&t.encode(text).expect("short"), 77));
            assert_eq!(read, own, "{text}");
        }
    }
    let short = Tokenizer::clip_of("#version: 0.2\na b\n", Padding::End).map(drop).expect_err("too short").to_string();
    assert!(short.contains("expected 48894 merges, found 1"), "{short}");
}
