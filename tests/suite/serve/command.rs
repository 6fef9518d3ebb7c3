//! The command itself: who may listen where, the log, signals, and what lies in its folders.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use unmist::image_io::text_of;
use unmist::serve::Folders;

use super::{PROMPT, Running, ask, by_command, from_base64, options, pixels};
use crate::commands::sample::lora;
use crate::commands::usage::{copy, fails, stable_diffusion};

/// A server as users start it, and where it listens.
fn started(more: &[&str]) -> (Child, String, impl Iterator<Item = String> + use<>) {
    let device = std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into());
    let args = [&["serve", "--port", "0", "--device", &device], more].concat();
    let mut command = Command::new(env!("CARGO_BIN_EXE_unmist"));
    let mut child = command.args(args).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.strip_prefix("listening at http://").map(str::to_owned));
    (child, address.expect("it listens"), lines)
}

#[test]
fn an_address_that_others_reach_needs_a_key_or_a_word() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("nowhere");
    let nowhere = nowhere.to_str().expect("UTF-8");
    fails(&["serve", "--host", "0.0.0.0", "--port", "0"], &["--api-key", "--no-auth"], folder.path());
    fails(&["serve", "--port", "0", "--save", nowhere], &["--save", "create it"], folder.path());
    fails(&["serve", "--port", "0", "--models", nowhere], &["nowhere"], folder.path());
    fails(&["serve", "--port", "0", "--web", folder.path().to_str().unwrap()], &["unmist.wasm"], folder.path());
    // Both ways out lead to a server.
    for way in [&["--no-auth"][..], &["--api-key", "geheim"]] {
        let (mut child, address, _lines) = started(&[&["--host", "0.0.0.0"], way].concat());
        assert!(address.starts_with("0.0.0.0:"), "{address}");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
}

#[cfg(unix)]
#[test]
fn it_logs_and_ends_when_it_is_told_to() {
    let (mut child, address, mut lines) = started(&["--log", "json"]);
    let address = address.parse().expect("an address");
    assert_eq!(ask(address, "GET", "/v1/models", &[("x-request-id", "fox-7")], b"").status, 200);
    let line: Value = serde_json::from_str(&lines.next().expect("a line")).expect("an object a line");
    assert_eq!((&line["id"], &line["path"], &line["status"]), (&json!("fox-7"), &json!("/v1/models"), &json!(200)));
    let told = Command::new("kill").arg(child.id().to_string()).status().expect("it is told");
    assert!(told.success() && child.wait().expect("it ends").success(), "SIGTERM is a good end");
}

#[test]
fn models_and_networks_are_known_by_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    copy(&stable_diffusion("sd1"), &at("models/tiny"));
    std::fs::create_dir_all(at("models/broken")).expect("a folder");
    std::fs::write(at("models/broken/model_index.json"), "{").expect("writes");
    std::fs::create_dir_all(at("loras")).expect("a folder");
    std::fs::copy(lora("sd1_kohya.safetensors"), at("loras/style.safetensors")).expect("copies");
    let folders = Folders { models: vec![at("models")], loras: vec![at("loras")], ..Folders::default() };
    let server = Running::new(unmist::serve::Options { folders, ..options() });
    let (tiny, style) = (at("models/tiny"), at("loras/style.safetensors"));
    let weighted = format!("{}:0.8", style.display());
    let common = [PROMPT, "--model", tiny.to_str().unwrap(), "--steps", "2", "--seed", "3"];
    let size = ["--width", "24", "--height", "16"];
    let expected = by_command(&[&common[..], &size, &["--lora", &weighted]].concat());
    assert_ne!(expected, by_command(&[&common[..], &size].concat()), "the LoRA counts");

    let body = json!({
        "prompt": PROMPT, "model": "tiny", "size": "24x16", "num_inference_steps": 2, "seed": 3,
        "loras": [{"name": "style", "scale": 0.8}]
    });
    let answer = server.post("/v1/images/generations", &body).good().json();
    let file = from_base64(answer["data"][0]["b64_json"].as_str().expect("a picture"));
    assert_eq!(pixels(&file), expected);
    let texts = text_of(Path::new("answer"), &file).expect("settings");
    let place = folder.path().display().to_string();
    assert!(texts.iter().all(|(_, text)| !text.contains(&place)), "no path of this machine: {texts:?}");
    // As the web UI writes it.
    let body = json!({
        "prompt": format!("{PROMPT} <lora:style:0.8>"), "steps": 2, "seed": 3, "width": 24, "height": 16,
        "override_settings": {"sd_model_checkpoint": "tiny"}
    });
    let answer = server.post("/sdapi/v1/txt2img", &body).good().json();
    assert_eq!(pixels(&from_base64(answer["images"][0].as_str().expect("a picture"))), expected);
    assert_eq!(server.get("/sdapi/v1/loras").good().json()[0]["name"], "style");

    // One that cannot be opened is named, its place is not; the server goes on.
    for (path, body) in [
        ("/v1/images/generations", json!({"prompt": PROMPT, "model": "broken"})),
        ("/sdapi/v1/txt2img", json!({"override_settings": {"sd_model_checkpoint": "broken"}})),
    ] {
        let answer = server.post(path, &body);
        assert!(answer.status == 500 && answer.text().contains("broken"), "{}: {}", answer.status, answer.text());
        assert!(!answer.text().contains(&place), "{}", answer.text());
    }
    let facts = server.get("/v1/server").good();
    assert!(!facts.text().contains(&place), "{}", facts.text());
    assert_eq!(facts.json()["models"].as_array().expect("a list").len(), 5);
}

#[test]
fn other_autoencoders_and_words_are_known_by_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    copy(&stable_diffusion("sd1"), &at("models/tiny"));
    copy(&Path::new(&stable_diffusion("taesd")).join("vae"), &at("vaes/small"));
    std::fs::create_dir_all(at("words")).expect("a folder");
    std::fs::copy(lora("embedding_webui.safetensors"), at("words/dappled.safetensors")).expect("copies");
    let folders = Folders {
        models: vec![at("models")],
        vaes: vec![at("vaes")],
        embeddings: vec![at("words")],
        ..Folders::default()
    };
    let server = Running::new(unmist::serve::Options { folders, ..options() });
    let prompt = "a dappled fox";
    let [tiny, small, word] = ["models/tiny", "vaes/small", "words/dappled.safetensors"].map(at);
    let named = format!("{}:dappled", word.display());
    let common = [prompt, "--model", tiny.to_str().unwrap(), "--steps", "2", "--seed", "3"];
    let common = [&common[..], &["--width", "24", "--height", "16"]].concat();
    let (plain, other) = (by_command(&common), ["--vae", small.to_str().unwrap()]);
    let with_word = by_command(&[&common[..], &["--embedding", &named]].concat());
    let with_both = by_command(&[&common[..], &["--embedding", &named], &other].concat());
    assert!(plain != with_word && with_word != with_both, "each counts");

    // A word that is a name is found in the prompt.
    let own = json!({
        "prompt": [prompt], "model": "tiny", "vae": "small", "width": 24, "height": 16, "steps": 2, "seed": [3]
    });
    let file = server.job(&own);
    assert_eq!(pixels(&file), with_both);
    let texts = text_of(Path::new("answer"), &file).expect("settings");
    let place = folder.path().display().to_string();
    assert!(texts.iter().all(|(_, text)| !text.contains(&place)), "no path of this machine: {texts:?}");
    let mut webui = json!({
        "prompt": prompt, "steps": 2, "seed": 3, "width": 24, "height": 16,
        "override_settings": {"sd_model_checkpoint": "tiny", "sd_vae": "small"}
    });
    let made = |body: &Value| {
        let answer = server.post("/sdapi/v1/txt2img", body).good().json();
        pixels(&from_base64(answer["images"][0].as_str().expect("a picture")))
    };
    assert_eq!(made(&webui), with_both);
    webui["override_settings"]["sd_vae"] = "Automatic".into();
    assert_eq!(made(&webui), with_word);
    assert_eq!(server.get("/sdapi/v1/sd-vae").good().json()[0]["model_name"], "small");
    assert!(server.get("/sdapi/v1/embeddings").good().json()["loaded"]["dappled"].is_object());

    for (field, name) in [("vae", "none"), ("embedding", "none")] {
        let mut body = own.clone();
        body[field] = if field == "vae" { name.into() } else { json!([name]) };
        let answer = server.post("/v1/jobs", &body);
        assert!(answer.status == 400 && answer.text().contains(field), "{}: {}", answer.status, answer.text());
    }
}
