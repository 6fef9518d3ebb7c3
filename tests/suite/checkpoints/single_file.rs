//! One set of Stable Diffusion 1 weights in both layouts, a diffusers folder and a single file: the pictures must be
//! the same, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use unmist::HostTensor;
use unmist::checkpoint::{Checkpoint, TensorSource, Tensors, safetensors};

use crate::commands::usage::{copy, stable_diffusion, succeeds};

/// The size of CLIP's vocabulary, which a single file must use because it contains no tokenizer.
const VOCABULARY: usize = 49408;
const TOKEN_TABLE: &str = "text_model.embeddings.token_embedding.weight";

fn write(path: &Path, tensors: &BTreeMap<String, HostTensor>) {
    let list: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = std::fs::File::create(path).expect("writable");
    safetensors::write(&mut file, &list, &BTreeMap::new()).expect("writes");
}

/// The folder `sd1` of the fixtures with CLIP's vocabulary in place of its own small one.
pub fn folder_with_clip_vocabulary(folder: &Path) {
    copy(&stable_diffusion("sd1"), folder);
    std::fs::remove_dir_all(folder.join("tokenizer")).expect("there");
    let config = folder.join("text_encoder/config.json");
    let text = std::fs::read_to_string(&config).expect("there");
    assert!(text.contains("\"vocab_size\": 714"));
    std::fs::write(&config, text.replace("\"vocab_size\": 714", &format!("\"vocab_size\": {VOCABULARY}")))
        .expect("writes");
    let weights = folder.join("text_encoder/model.safetensors");
    let file = Tensors::open(&weights).expect("there");
    let mut tensors: BTreeMap<_, _> =
        file.names().map(|name| (name.to_owned(), file.read_f32(name).expect("sound"))).collect();
    drop(file);
    let name = tensors.keys().find(|name| TOKEN_TABLE.ends_with(name.as_str())).expect("a token table").clone();
    let width = tensors[&name].shape[1];
    // Any numbers will do, as long as every token has its own.
    tensors.insert(name, HostTensor::from_fn([VOCABULARY, width], |i| (i as f32 * 0.618).sin()));
    write(&weights, &tensors);
}

/// Writes the same weights under the original code's names, by the table in `tests/fixtures/single_file/sd1.tsv`.
pub fn write_single_file(folder: &Path, path: &Path) {
    let checkpoint = Checkpoint::open(folder).expect("sound");
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/single_file/sd1.tsv");
    let table = std::fs::read_to_string(table).expect("the fixture is there");
    let mut tensors = BTreeMap::new();
    let (mut source, mut prefix): (Option<std::sync::Arc<dyn TensorSource>>, &str) = (None, "");
    for line in table.lines() {
        if let Some(section) = line.strip_prefix("# ") {
            let (component, rest) = section.split_once(' ').unwrap_or((section, ""));
            source = (component != "unused").then(|| checkpoint.component(component).expect("sound").tensors);
            prefix = rest;
            continue;
        }
        let [original, shape, name, ..] = line.split('\t').collect::<Vec<_>>()[..] else { continue };
        let Some(source) = &source else { continue };
        // Since version 5, transformers leaves out `text_model.`.
        let stored = [name, name.trim_start_matches("text_model.")].into_iter().find(|n| source.shape(n).is_some());
        let tensor = source.read_f32(stored.unwrap_or_else(|| panic!("no {name} in the folder"))).expect("sound");
        let shape: Vec<usize> = match name {
            TOKEN_TABLE => tensor.shape.clone(),
            _ => shape.split('x').map(|dim| dim.parse().expect("a number")).collect(),
        };
        tensors.insert(format!("{prefix}{original}"), HostTensor::new(shape, tensor.data).expect("the same elements"));
    }
    assert!(tensors.len() > 300, "the table lists all weights");
    write(path, &tensors);
}

#[test]
fn a_folder_and_a_single_file_give_the_same_picture() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let (folder, file) = (work.path().join("folder"), work.path().join("model.safetensors"));
    folder_with_clip_vocabulary(&folder);
    write_single_file(&folder, &file);
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora/sd1_kohya.safetensors");
    let lora = lora.to_str().expect("UTF-8");
    let picture = |model: &Path, more: &[&str]| {
        let out = work.path().join("out.safetensors");
        let common = ["sample", "a red apple, on a table", "--width", "24", "--height", "16", "--steps", "3"];
        let place = ["--model", model.to_str().expect("UTF-8"), "--output", out.to_str().expect("UTF-8")];
        succeeds(&[&common[..], &place, more].concat());
        Tensors::open(&out).and_then(|t| t.read_f32("images")).expect("written")
    };
    let mut pictures = Vec::new();
    for more in [&["--negative-prompt", "fog"][..], &["--scheduler", "Euler a"], &["--lora", lora]] {
        let of_folder = picture(&folder, more);
        assert!(of_folder == picture(&file, more), "{more:?}");
        pictures.push(of_folder);
    }
    assert!(pictures[0] != pictures[2], "the options have an effect");
}
