//! Large inputs that are made to grow as they are read: sound or not, they stay within the memory that inputs may take.

use unmist::Result;
use unmist::checkpoint::{Checkpoint, Json, Tensors};
use unmist::files::Memory;

use crate::gguf_writer::{Entry, File, Value};
use crate::harness::{LIMITS, watched};

/// `unit` repeated until there are so many megabytes, between `before` and `after`.
fn grown(before: &str, unit: &str, after: &str, megabytes: usize) -> Vec<u8> {
    [before, &unit.repeat((megabytes << 20) / unit.len()), after].concat().into_bytes()
}

/// With something that differs in each.
fn numbered(before: &str, unit: impl Fn(usize) -> String, after: &str, count: usize) -> Vec<u8> {
    let mut text = before.to_owned();
    (0..count).for_each(|i| text += &unit(i));
    (text + after).into_bytes()
}

fn header(json: Vec<u8>) -> Vec<u8> {
    [(json.len() as u64).to_le_bytes().to_vec(), json].concat()
}

fn tensors(bytes: Vec<u8>) -> Result<()> {
    let tensors = Tensors::from_bytes("x", bytes)?;
    tensors.names().take(100).for_each(|name| drop(tensors.read_f32(name)));
    Ok(())
}

fn json(bytes: Vec<u8>) -> Result<()> {
    let files: Memory = [("x.json", bytes)].into_iter().collect();
    Json::read_in(&files, "x.json").map(drop)
}

fn folder(name: &str, bytes: Vec<u8>) -> Result<()> {
    let files: Memory = [(format!("m/{name}"), bytes)].into_iter().collect();
    let model = Checkpoint::open_in(std::sync::Arc::new(files), "m")?;
    model.component("unet").map(drop)
}

type Reader = fn(Vec<u8>) -> Result<()>;

fn inputs() -> Vec<(&'static str, Vec<u8>, Reader)> {
    let empty = |i: usize| format!(r#""{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#);
    let last = r#""l":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    let many = |count: usize| (0..count).map(|i| Entry::f32(&format!("{i:x}"), &[0], &[])).collect();
    let mut entries = File::new(vec![]);
    entries.metadata.extend((0..1 << 16).map(|i| (format!("{i:x}").into_bytes(), Value::U32(i))));
    vec![
        (
            "a shape",
            header(grown(r#"{"a":{"dtype":"U8","shape":[1"#, ",1", r#"],"data_offsets":[0,1]}}"#, 23)),
            tensors,
        ),
        ("shapes", header(grown("{", r#""a":{"dtype":"U8","shape":[0"#, "}", 23)), tensors),
        ("tensors", header(numbered("{", empty, last, 400_000)), tensors),
        ("a name", header(grown(r#"{"a"#, "\\u0001", r#"":3}"#, 23)), tensors),
        (
            "metadata",
            header(numbered(r#"{"__metadata__":{"#, |i| format!(r#""{i:x}":"","#), r#""x":""}}"#, 1_900_000)),
            tensors,
        ),
        ("GGUF tensors", File::new(many(1 << 16)).bytes(), tensors),
        ("GGUF entries", entries.bytes(), tensors),
        (
            "GGUF blocks",
            File::new(vec![Entry::new("a", &[80 << 20], 10, vec![1; (80 << 20) / 256 * 84])]).bytes(),
            tensors,
        ),
        ("JSON numbers", grown("[1", ",1", "]", 60), json),
        ("JSON numbers that are read", numbered("[1", |_| ",1".into(), "]", 1_499_000), json),
        ("JSON lists that are read", numbered("[[1]", |_| ",[1]".into(), "]", 749_000), json),
        ("JSON fields that are read", numbered("{", |i| format!(r#""{i:x}":1,"#), r#""x":1}"#, 749_000), json),
        ("JSON words that are read", numbered("[NaN", |_| ",NaN".into(), "]", 1_499_000), json),
        ("JSON lists", grown("[[]", ",[]", "]", 60), json),
        ("JSON fields", numbered("{", |i| format!(r#""{i:x}":1,"#), r#""x":1}"#, 4_000_000), json),
        ("JSON words", grown("[NaN", ",NaN", "]", 60), json),
        ("JSON broken", grown("[1", ",1", "", 60), json),
        ("an index", grown(r#"{"_class_name":"x","y":["#, "1,", "1]}", 2), |b| folder("model_index.json", b)),
        ("a config", grown(r#"{"block_out_channels":[1"#, ",1", "]}", 2), |b| folder("unet/config.json", b)),
    ]
}

pub fn check() {
    let mut harms = Vec::new();
    for (name, bytes, read) in inputs() {
        let length = bytes.len();
        match watched(length, LIMITS, || read(bytes)) {
            Ok(found) => eprintln!("{name}: {length} bytes, {} of memory, {:?}", found.memory, found.time),
            Err(harm) => harms.push(format!("{name}: {harm}")),
        }
    }
    assert!(harms.is_empty(), "{harms:#?}");
}
