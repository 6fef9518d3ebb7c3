//! Seeded mutations of every kind of file in a checkpoint: the result is always `Ok` or an error with a message, never
//! a panic, and reading never takes more memory than the file justifies.

use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use unmist::checkpoint::{Folder, Json, SingleFile, TensorSource, Tensors, Weights};
use unmist::{HostTensor, Result};

/// A small generator (SplitMix64), so that a failing case can be run again from its number alone.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// Text that is likely to be meaningful where it lands.
const SPLICES: &[&str] = &[
    "-1",
    "0",
    "1e308",
    "1e999",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "true",
    "[]",
    "{}",
    "[[[[",
    "\"\"",
    "\"..\"",
    "\"/\"",
    "NaN",
    "-Infinity",
    ",",
    ":",
    "}",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "F64",
    "BF16",
    "F4",
    "I64",
    "BOOL",
    "C64",
    "__metadata__",
    "data_offsets",
    "shape",
    "dtype",
    "weight_map",
    "_class_name",
    "é",
    "\u{1F34E}",
];

/// One to four edits of `bytes`.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        let span = (1 + random.below(12)).min(bytes.len() - at);
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..at + span)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[at..at + span].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            5 => drop(bytes.splice(at..at, random.pick(SPLICES).bytes())),
            6 => drop(bytes.splice(at..at + span, random.pick(SPLICES).bytes())),
            // Replaces a number after `at`: of all edits, this one most often leaves valid JSON.
            _ => {
                let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { continue };
                let end = bytes[start..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |i| start + i);
                let number = match random.below(3) {
                    0 => random.below(64).to_string(),
                    1 => random.next().to_string(),
                    _ => (1u64 << random.below(64)).to_string(),
                };
                bytes.splice(start..end, number.into_bytes());
            }
        }
    }
}

/// Runs `case` on `count` mutations of `seed`; panics with the number of the first that panics or fails without a
/// message. Returns how many were accepted.
pub fn fuzz(name: &str, seed: &[u8], count: u64, mut case: impl FnMut(Vec<u8>) -> Result<()>) -> u64 {
    let mut accepted = 0;
    for number in 0..count {
        let mut bytes = seed.to_vec();
        mutate(&mut bytes, &mut Random(number));
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        match catch_unwind(AssertUnwindSafe(|| case(bytes))) {
            Ok(Ok(())) => accepted += 1,
            Ok(Err(error)) => {
                let message = error.to_string();
                assert!(
                    message.len() > 20 && message.len() < 20_000,
                    "{name} {number}: message of {} bytes",
                    message.len()
                );
            }
            Err(_) => panic!("{name} {number} panicked on {shown:?}"),
        }
    }
    accepted
}

/// A file with eight element types, an odd shape and metadata. Most of it is the header, so most mutations hit that.
fn sample_file() -> Vec<u8> {
    let mut header = r#"{"__metadata__":{"format":"pt"}"#.to_string();
    let mut end = 0;
    for (dtype, bytes) in
        [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1)]
    {
        let begin = end;
        end += 6 * bytes;
        header +=
            &format!(r#","block.{dtype}.weight":{{"dtype":"{dtype}","shape":[2,1,3],"data_offsets":[{begin},{end}]}}"#);
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend((0..end).map(|i| (i * 37) as u8));
    bytes
}

/// Reads all that a loader would, and checks that it is no more than the file can hold.
fn read_all(tensors: Tensors, file_len: usize) -> Result<()> {
    let mut elements = 0;
    for name in tensors.names() {
        let dtype = tensors.info(name).expect("it was just named").dtype;
        if let Ok(tensor) = tensors.read_f32(name) {
            assert_eq!(tensor.shape.iter().product::<usize>(), tensor.len());
            elements += dtype.bytes_of(tensor.len()).expect("whole bytes");
        }
    }
    assert!(elements <= file_len, "{elements} bytes read out of {file_len}");
    let expected = [("block.F32.weight".to_string(), vec![2, 1, 3]), ("block.query.weight".to_string(), vec![3])];
    Weights::new(Arc::new(tensors), &expected).map(drop)
}

#[test]
fn safetensors_files() {
    let seed = sample_file();
    // The tensors do not fit the expected parameters.
    assert!(read_all(Tensors::from_bytes("seed", seed.clone()).unwrap(), seed.len()).is_err());
    let opened = std::cell::Cell::new(0);
    fuzz("safetensors", &seed, 20_000, |bytes| {
        let len = bytes.len();
        let tensors = Tensors::from_bytes("fuzzed.safetensors", bytes)?;
        opened.set(opened.get() + 1);
        read_all(tensors, len)
    });
    // Some must get past the header, or the test would only exercise the JSON parser.
    assert!(opened.get() > 500, "only {} were opened", opened.get());
}

/// Mutates only the header's JSON and sets the length to match, so that mutations reach the checks behind the parser.
#[test]
fn safetensors_headers() {
    let seed = sample_file();
    let header_len = u64::from_le_bytes(*seed.first_chunk().unwrap()) as usize;
    let (header, data) = seed[8..].split_at(header_len);
    let opened = std::cell::Cell::new(0);
    fuzz("header", header, 20_000, |header| {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, data].concat();
        let len = bytes.len();
        let tensors = Tensors::from_bytes("fuzzed.safetensors", bytes)?;
        opened.set(opened.get() + 1);
        read_all(tensors, len)
    });
    assert!(opened.get() > 500, "only {} were opened", opened.get());
}

#[test]
fn json_files() {
    let seed = r#"{"_class_name": "PNDMScheduler", "beta_end": 0.012, "trained_betas": null,
        "lambda_min_clipped": -Infinity, "block_out_channels": [320, 640],
        "name": "a \"quoted\" \u00e9 \\ text", "nested": {"a": [1, [2, [3]]]}}"#;
    let accepted = fuzz("json", seed.as_bytes(), 20_000, |bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = Json::parse("fuzzed.json", text)?;
        let numbers = json.value.as_object().into_iter().flatten().filter_map(|(_, value)| Json::number(value)).count();
        assert!(numbers <= json.text.len());
        Ok(())
    });
    assert!(accepted > 1_000, "only {accepted} were accepted");
}

fn write_tensors(path: &Path, names: &[&str]) {
    let tensor = HostTensor::zeros([2]);
    let tensors: Vec<_> = names.iter().map(|&name| (name, &tensor)).collect();
    let mut bytes = Vec::new();
    unmist::checkpoint::safetensors::write(&mut bytes, &tensors, &Default::default()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn index_files() {
    let dir = tempfile::tempdir().unwrap();
    write_tensors(&dir.path().join("model-00001-of-00002.safetensors"), &["a.weight", "a.bias"]);
    write_tensors(&dir.path().join("model-00002-of-00002.safetensors"), &["b.weight"]);
    let index = dir.path().join("model.safetensors.index.json");
    let seed = r#"{"metadata": {"total_size": 24}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors",
        "a.bias": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}}"#;
    let accepted = fuzz("index", seed.as_bytes(), 2_000, |bytes| {
        fs::write(&index, bytes).unwrap();
        let tensors = Tensors::open(&index)?;
        assert_eq!(TensorSource::names(&tensors), ["a.bias", "a.weight", "b.weight"]);
        Ok(())
    });
    assert!(accepted > 20, "only {accepted} were accepted");
}

#[test]
fn model_folders() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("unet")).unwrap();
    write_tensors(&dir.path().join("unet/diffusion_pytorch_model.safetensors"), &["w"]);
    let seeds: HashMap<&str, &str> = HashMap::from([
        (
            "model_index.json",
            r#"{"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"],
                "unet": ["diffusers", "UNet2DModel"], "vae": [null, null], "flag": false}"#,
        ),
        ("unet/config.json", r#"{"_class_name": "UNet2DModel", "architectures": ["X"], "sample_size": 32}"#),
        ("scheduler_config.json", r#"{"_class_name": "DDPMScheduler", "beta_start": 0.0001}"#),
    ]);
    for (file, seed) in &seeds {
        for (other, text) in &seeds {
            fs::write(dir.path().join(other), text).unwrap();
        }
        let accepted = fuzz(file, seed.as_bytes(), 500, |bytes| {
            fs::write(dir.path().join(file), bytes).unwrap();
            let folder = Folder::open(dir.path())?;
            for name in
                folder.component_names().iter().map(String::as_str).chain(["unet", "vae", "scheduler", "tokenizer"])
            {
                let _ = (folder.component(name), folder.subfolder(name), folder.index_class(name));
            }
            folder.scheduler_config()?;
            folder.component("unet").map(drop)
        });
        assert!(accepted > 10, "{file}: only {accepted} were accepted");
    }
}

/// Valid files of invalid models: a single-file checkpoint with tensors dropped, renamed and given other shapes.
#[test]
fn single_files() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/single_file/sd1.tsv")).unwrap();
    let (mut prefix, mut stored) = ("", Vec::new());
    for line in text.lines() {
        match line.strip_prefix("# ") {
            Some(section) => prefix = section.split_once(' ').map_or("", |(_, prefix)| prefix),
            None => {
                let words: Vec<_> = line.split('\t').collect();
                let shape: Vec<u64> = words[1].split('x').filter_map(|dim| dim.parse().ok()).collect();
                stored.push((format!("{prefix}{}", words[0]), shape));
            }
        }
    }
    let mut accepted = 0;
    for number in 0..600 {
        let random = &mut Random(number);
        let mut tensors: HashMap<String, Vec<u64>> = stored.iter().cloned().collect();
        for _ in 0..1 + random.below(3) {
            let (name, _) = &stored[random.below(stored.len())];
            let Some(mut shape) = tensors.remove(name) else { continue };
            let mut name = name.as_bytes().to_vec();
            match random.below(4) {
                0 => continue,
                1 => mutate(&mut name, random),
                2 if !shape.is_empty() => {
                    let axis = random.below(shape.len());
                    shape[axis] = random.below(200) as u64;
                }
                _ => shape.resize(random.below(6), 1),
            }
            tensors.insert(String::from_utf8_lossy(&name).into_owned(), shape);
        }
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (name, shape) in &tensors {
            let begin = end;
            end += shape.iter().product::<u64>();
            header
                .insert(name.clone(), serde_json::json!({"dtype": "U8", "shape": shape, "data_offsets": [begin, end]}));
        }
        let header = serde_json::to_vec(&header).unwrap();
        let mut bytes = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        bytes.resize(bytes.len() + end as usize, 0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let model = SingleFile::from_tensors(Tensors::from_bytes("fuzzed.safetensors", bytes)?)?;
            for name in ["unet", "vae", "text_encoder", "text_encoder_2", "scheduler"] {
                let Ok(component) = model.component(name) else { continue };
                for tensor in component.tensors.names() {
                    let (shape, read) =
                        (component.tensors.shape(&tensor).unwrap(), component.tensors.read_f32(&tensor).unwrap());
                    assert_eq!(shape, read.shape, "{tensor}");
                }
            }
            Ok::<_, unmist::Error>(())
        }));
        accepted += u32::from(result.unwrap_or_else(|_| panic!("single file {number} panicked")).is_ok());
    }
    assert!(accepted > 100, "only {accepted} were accepted");
}
