//! `unmist sample`: what its options do, and pictures reproduced from their own record of how they were made.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::checkpoint::Tensors;
use unmist::image_io::{Picture, read, read_text, write_png};

use crate::commands::usage::{copy, fails, fixture, shipped, stable_diffusion, succeeds};

pub fn lora(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora").join(name);
    path.to_str().expect("UTF-8").to_owned()
}

/// A folder for results, with a picture to start from.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary folder"));
        folder.picture("start.png", 24, 16, 7);
        folder
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn picture(&self, name: &str, width: usize, height: usize, seed: usize) {
        let data = (0..width * height * 3).map(|i| (i * seed % 256) as u8).collect();
        write_png(self.path(name), &Picture { width, height, channels: 3, data }, &[]).expect("writes");
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The text chunk with this keyword.
    pub fn text(&self, name: &str, keyword: &str) -> String {
        let texts = read_text(self.path(name)).expect("a PNG");
        texts.into_iter().find(|(k, _)| k == keyword).expect("the chunk is there").1
    }

    pub fn record(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name, "unmist")).expect("JSON")
    }
}

/// `sample` with a tiny Stable Diffusion 1, two steps, 24 × 16 pixels.
fn tiny<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["sample", "--model", model, "--steps", "2", "--width", "24", "--height", "16"], more].concat()
}

#[test]
fn pictures_are_made_again_bit_for_bit() {
    let folder = Folder::new();
    let sd1 = stable_diffusion("sd1");
    let (sd1, classes) = (sd1.to_str().unwrap(), shipped());
    let (out, again) = (folder.path("out.png"), folder.path("again.png"));
    let (kohya, webui, start) = (
        format!("{}:0.8", lora("sd1_kohya.safetensors")),
        lora("embedding_webui.safetensors"),
        folder.path("start.png"),
    );
    let runs: [Vec<&str>; 5] = [
        vec![
            "sample",
            "--model",
            classes.to_str().unwrap(),
            "--scheduler",
            "ddim",
            "--steps",
            "3",
            "--class",
            "7,9",
            "--seed",
            "5,6",
        ],
        tiny(sd1, &["a fox: in the forest, «at» 夜", "--negative-prompt", "fog", "--scheduler", "DPM++ 2M Karras"]),
        tiny(sd1, &["a fox", "--seed", "3,9,1", "--rng", "torch-cuda", "--guidance-scale", "3.3", "--eta", "0.1"]),
        tiny(sd1, &["an embedding_webui fox", "--lora", &kohya, "--embedding", &webui, "--clip-skip", "1"]),
        tiny(sd1, &["a fox", "--image", &start, "--strength", "0.7", "--scheduler", "Euler a", "--precision", "f16"]),
    ];
    for run in runs {
        succeeds(&[&run[..], &["--output", &out]].concat());
        succeeds(&["sample", "--from", &out, "--output", &again]);
        assert_eq!(folder.bytes("out.png"), folder.bytes("again.png"), "{run:?}");
    }
}

#[test]
fn a_replay_takes_other_options_and_says_what_is_missing() {
    let folder = Folder::new();
    let model = PathBuf::from(folder.path("model"));
    copy(&stable_diffusion("sd1"), &model);
    let own_lora = folder.path("style.safetensors");
    std::fs::copy(lora("sd1_kohya.safetensors"), &own_lora).expect("copies");
    let (out, start) = (folder.path("out.png"), folder.path("start.png"));
    succeeds(&tiny(model.to_str().unwrap(), &["a fox", "--image", &start, "--lora", &own_lora, "--output", &out]));
    let line = folder.text("out.png", "parameters");
    for part in [
        "a fox <lora:style:1>\nSteps: 2",
        "Seed: 0",
        "Size: 24x16",
        "Model: model",
        "Denoising strength: 0.8",
        "Model hash: ",
    ] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }

    // Options given with --from replace the picture's.
    let other = folder.path("other.png");
    succeeds(&["sample", "--from", &out, "--seed", "4", "--steps", "3", "--output", &other]);
    let options = folder.record("other.png")["options"].clone();
    assert_eq!(
        (&options["seed"], &options["steps"], &options["prompt"]),
        (&vec![4].into(), &3.into(), &vec!["a fox"].into())
    );
    assert!(folder.bytes("other.png") != folder.bytes("out.png"));

    // A file that has changed or is gone.
    let results = tempfile::tempdir().expect("a temporary folder");
    let again = results.path().join("again.png");
    let refused = |more: &[&str], parts: &[&str]| {
        fails(
            &[&["sample", "--from", &out, "--output", again.to_str().unwrap()], more].concat(),
            parts,
            results.path(),
        );
    };
    folder.picture("start.png", 24, 16, 11);
    refused(&[], &["--image", "start.png", "sha256"]);
    std::fs::remove_file(&start).expect("there");
    refused(&[], &["--image", "start.png", "not there"]);
    folder.picture("moved.png", 24, 16, 7);
    let moved = folder.path("moved.png");
    std::fs::rename(&own_lora, folder.path("elsewhere.safetensors")).expect("renames");
    refused(&["--image", &moved], &["--lora", "style.safetensors", "not there"]);
    let elsewhere = folder.path("elsewhere.safetensors");
    let found = ["--image", &moved, "--lora", &elsewhere];
    succeeds(&[&["sample", "--from", &out, "--output", &other][..], &found].concat());
    let pixels = |name: &str| read(folder.path(name), 3).expect("a picture");
    assert!(pixels("other.png") == pixels("out.png"), "the same files in other places");

    let config = model.join("text_encoder/config.json");
    let text = std::fs::read_to_string(&config).expect("there");
    std::fs::write(&config, format!("{text}\n")).expect("writes");
    refused(&found, &["--model", "text_encoder/config.json", "sha256"]);
    std::fs::rename(&model, folder.path("model-2")).expect("renames");
    refused(&found, &["--model", "model", "not there"]);

    // Pictures without a record of their own.
    refused(&["--from", &moved], &["cannot be used multiple times"]);
    let from = |path: &str, parts: &[&str]| {
        fails(&["sample", "--from", path, "--output", again.to_str().unwrap()], parts, results.path());
    };
    from(&moved, &["moved.png", "no record"]);
    from("/no/such.png", &["/no/such.png"]);
    let foreign = folder.path("foreign.png");
    let text = [("parameters".to_owned(), "a fox\nSteps: 20".to_owned())];
    write_png(&foreign, &pixels("moved.png"), &text).expect("writes");
    from(&foreign, &["foreign.png", "`parameters`"]);
    let text = [("unmist".to_owned(), r#"{"version": "unmist 99", "colour": 3}"#.to_owned())];
    write_png(&foreign, &pixels("moved.png"), &text).expect("writes");
    from(&foreign, &["made by unmist 99", "colour"]);
}

#[test]
fn options_of_models_change_the_picture() {
    let folder = Folder::new();
    let sd1 = stable_diffusion("sd1");
    let out = folder.path("out.png");
    let sample = |more: &[&str]| {
        succeeds(&tiny(sd1.to_str().unwrap(), &[&["a fox", "--output", &out], more].concat()));
        read(&out, 3).expect("a picture")
    };
    let plain = sample(&[]);
    let peft = lora("sd1_peft.safetensors");
    for more in [
        &["--rng", "torch-cuda"][..],
        &["--prediction-type", "v_prediction"],
        &["--prediction-type", "sample", "--scheduler", "ddim"],
        &["--lora", &peft],
        &["--seed", "1"],
    ] {
        assert!(sample(more) != plain, "{more:?} changes nothing");
    }
    assert!(sample(&["--lora", &format!("{peft}:0")]) == plain);
    assert!(sample(&["--rng", "torch-cpu", "--prediction-type", "epsilon"]) == plain);

    // A variant: sd2's fixture has only half-precision weights, under that name.
    let sd2 = stable_diffusion("sd2");
    succeeds(&tiny(sd2.to_str().unwrap(), &["a fox", "--variant", "fp16", "--output", &out]));
    assert_eq!(folder.record("out.png")["options"]["variant"], "fp16");

    let results = tempfile::tempdir().expect("a temporary folder");
    let none = results.path().join("none.png");
    let refused = |model: &Path, more: &[&str], parts: &[&str]| {
        let model = model.to_str().unwrap();
        fails(&tiny(model, &[&["a fox", "--output", none.to_str().unwrap()], more].concat()), parts, results.path());
    };
    refused(&sd1, &["--variant", "bf16"], &["bf16", "variants found"]);
    refused(&sd1, &["--prediction-type", "flow"], &["--prediction-type", "v_prediction"]);
    refused(&sd1, &["--prediction-type", "sample"], &["prediction_type", "sample"]); // PNDM has no formula for it
    refused(&sd1, &["--lora", &format!("{peft}:much")], &["--lora", "much", "a number"]);
    refused(&sd1, &["--lora", "/no/such.safetensors"], &["/no/such.safetensors"]);
    refused(
        &sd1,
        &["--lora", &lora("embedding_webui.safetensors")],
        &["embedding_webui.safetensors", "expected a LoRA"],
    );
    refused(&sd1, &["--lora", &lora("sdxl_kohya.safetensors")], &["sdxl_kohya.safetensors", "do not fit", "lora_te2_"]);
    refused(&sd1, &["--embedding", &peft], &["sd1_peft.safetensors", "textual inversion"]);
    refused(&sd1, &["--embedding", &lora("embedding_xl.safetensors")], &["embedding_xl.safetensors", "another model"]);
    refused(&sd1, &["--strength", "0.5"], &["--strength", "--image"]);
    refused(&sd1, &["--preview-every", "0"], &["--preview-every 0"]);
    refused(&fixture("pipeline"), &["--lora", &peft], &["sd1_peft.safetensors", "do not fit"]);
}

#[test]
fn previews_and_latents() {
    let folder = Folder::new();
    let sd1 = stable_diffusion("sd1");
    let (out, saved) = (folder.path("out.png"), folder.path("latents.safetensors"));
    let common = ["a fox", "--output", &out, "--preview-every", "1"];
    succeeds(&tiny(sd1.to_str().unwrap(), &[&common[..], &["--save-latents", &saved]].concat()));
    let finished = read(&out, 3).expect("a picture");
    let preview = read(folder.path("out.preview.png"), 3).expect("a preview");
    assert_eq!((preview.width, preview.height), (24, 16));
    assert!(preview != finished);
    let latents = Tensors::open(&saved).and_then(|file| file.read_f32("latents")).expect("written");
    assert_eq!(latents.shape, [1, 4, 8, 12]);

    let clothes = shipped();
    let clothes = ["sample", "--model", clothes.to_str().unwrap(), "--scheduler", "ddim", "--steps", "3"];
    let out = folder.path("clothes.png");
    succeeds(&[&clothes[..], &["--batch-size", "3", "--preview-every", "2", "--output", &out]].concat());
    let preview = read(folder.path("clothes.preview.png"), 1).expect("a preview");
    assert_eq!((preview.width, preview.height), (2 * 32 + 2, 2 * 32 + 2), "a grid of three");

    let results = tempfile::tempdir().expect("a temporary folder");
    let none = results.path().join("none.png");
    let none = ["--output", none.to_str().unwrap()];
    fails(&[&clothes[..], &none, &["--save-latents", &saved]].concat(), &["--save-latents"], results.path());
    fails(&[&clothes[..], &none, &["--latents", &saved]].concat(), &["--latents"], results.path());
    let wrong = lora("embedding_webui.safetensors");
    let run = ["sample", "--model", sd1.to_str().unwrap(), "a fox"];
    fails(
        &[&run[..], &none, &["--latents", &wrong]].concat(),
        &["embedding_webui", "--latents", "the name latents"],
        results.path(),
    );
}

#[cfg(unix)]
#[test]
fn a_name_that_cannot_be_remembered_is_refused_at_once() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let name = folder.0.path().join(std::ffi::OsStr::from_bytes(b"st\xffrt.png"));
    std::fs::copy(folder.path("start.png"), &name).expect("copies");
    let out = folder.path("out.png");
    let model = stable_diffusion("sd1");
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_unmist"))
        .args(["sample", "a fox", "--output", &out, "--model", model.to_str().unwrap(), "--image"])
        .arg(&name)
        .output()
        .expect("the binary runs");
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && message.contains("rename the file") && !message.contains("device:"), "{message}");
}
