//! The tokenizer against transformers': `tests/fixtures/tokenizer`, made by `tools/fixtures/tokenizer.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::checkpoint::Checkpoint;
use unmist::tokenizer::{Padding, Tokenizer};

use crate::common::{Fixture, stable_diffusion};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn entries(name: &str) -> Vec<(String, Value)> {
    let text = fs::read_to_string(root().join("tests/fixtures/tokenizer").join(name)).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    entries.into_iter().map(|entry| (entry["text"].as_str().unwrap().to_owned(), entry)).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// With start and end, as transformers gives them.
fn whole(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let ids = tokenizer.encode(text).unwrap();
    tokenizer.window(&ids, ids.len() + 2)
}

#[test]
fn a_folder_tokenizes_as_in_transformers() {
    let folder = |name: &str| Tokenizer::open(stable_diffusion(name).join("tokenizer")).unwrap();
    let folders = BTreeMap::from([("sd1", folder("sd1")), ("sd2", folder("sd2"))]);
    let entries = entries("small.json");
    assert!(entries.len() > 25);
    for (text, entry) in &entries {
        assert_eq!(whole(&folders["sd1"], text), ids(&entry["input_ids"]), "{text:?}");
        for (name, tokenizer) in &folders {
            let window = tokenizer.window(&tokenizer.encode(text).unwrap(), 77);
            assert_eq!(window, ids(&entry["padded"][name]), "{name} {text:?}");
        }
    }
}

#[test]
fn clips_own_vocabulary_tokenizes_as_in_transformers() {
    let tokenizer = Tokenizer::clip(Padding::End);
    let entries = entries("clip.json");
    assert!(entries.len() > 25);
    for (text, entry) in &entries {
        assert_eq!(whole(&tokenizer, text), ids(&entry["input_ids"]), "{text:?}");
    }
    // Words that are special in instant-clip-tokenizer, but not in transformers.
    let plain = tokenizer.encode("< start_of_text>a !< end_of_text>").unwrap();
    assert_eq!(tokenizer.encode("<start_of_text>a !<end_of_text>").unwrap(), plain);
    assert!(plain.iter().all(|&id| id < 49406));
    let open_clip = Tokenizer::clip(Padding::Zero);
    assert_eq!(open_clip.window(&open_clip.encode("a cat!").unwrap(), 7), [49406, 320, 2368, 0, 49407, 0, 0]);
}

/// Newer versions of transformers write only this file, which holds the same.
#[test]
fn tokenizer_json_alone_is_enough() {
    let folder = root().join("weights/emoji-64/tokenizer");
    let alone = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(folder.join(name), alone.path().join(name)).unwrap();
    }
    let (whole, alone) = (Tokenizer::open(folder).unwrap(), Tokenizer::open(alone.path()).unwrap());
    for (text, _) in entries("small.json") {
        assert_eq!(whole.encode(&text).unwrap(), alone.encode(&text).unwrap(), "{text:?}");
    }
    assert_eq!((whole.start(), whole.end(), whole.padding()), (alone.start(), alone.end(), alone.padding()));
}

#[test]
fn textual_inversions_take_their_places() {
    let fixture = Fixture::read("lora/embedding_io");
    let prompts: BTreeMap<String, Value> = serde_json::from_str(fixture.text("prompts")).unwrap();
    for (name, vectors) in [("webui", 3), ("diffusers", 1), ("xl", 2)] {
        let entry = &prompts[name];
        let model = stable_diffusion(entry["model"].as_str().unwrap());
        for (part, folder) in [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")] {
            if !model.join(folder).is_dir() {
                continue;
            }
            let mut tokenizer = Tokenizer::open(model.join(folder)).unwrap();
            tokenizer.add(entry["token"].as_str().unwrap(), vectors).unwrap();
            let expected = fixture.tensor(&format!("{name}/{part}/input_ids"));
            for (row, prompt) in entry["prompts"].as_array().unwrap().iter().enumerate() {
                let found = tokenizer.window(&tokenizer.encode(prompt.as_str().unwrap()).unwrap(), 77);
                let expected: Vec<u32> = expected.data[row * 77..(row + 1) * 77].iter().map(|&id| id as u32).collect();
                assert_eq!(found, expected, "{name} {part} {prompt}");
            }
        }
    }
}

#[test]
fn a_model_without_tokenizer_uses_clips_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("text_encoder")).unwrap();
    let padded = |config: &str| {
        fs::write(dir.path().join("text_encoder/config.json"), config).unwrap();
        let tokenizer = Checkpoint::open(dir.path()).unwrap().tokenizer("tokenizer")?;
        Ok::<_, unmist::Error>(tokenizer.window(&tokenizer.encode("a cat").unwrap(), 5))
    };
    assert_eq!(
        padded(r#"{"vocab_size": 49408, "hidden_act": "quick_gelu"}"#).unwrap(),
        [49406, 320, 2368, 49407, 49407]
    );
    assert_eq!(padded(r#"{"vocab_size": 49408, "hidden_act": "gelu"}"#).unwrap(), [49406, 320, 2368, 49407, 0]);
    let message = padded(r#"{"vocab_size": 714}"#).unwrap_err().to_string();
    assert!(message.contains("no folder `tokenizer`") && message.contains("714"), "{message}");
    let folder = Checkpoint::open(stable_diffusion("sd1")).unwrap();
    assert_eq!(folder.tokenizer("tokenizer").unwrap().vocabulary(), 714);
}
