//! Reading fixtures, and comparing with them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use safetensors::{Dtype, SafeTensors};
use unmist::HostTensor;
use unmist::image_io::Picture;
use unmist::verify::{Tolerance, compare};

/// Whether `UNMIST_TEST_THOROUGH` asks for the full form of tests that else take a part of their cases.
pub fn thorough() -> bool {
    std::env::var_os("UNMIST_TEST_THOROUGH").is_some()
}

/// A safetensors file of `tests/fixtures`: float tensors, integer lists, and JSON texts in the metadata.
pub struct Fixture {
    tensors: BTreeMap<String, HostTensor>,
    metadata: BTreeMap<String, String>,
}

impl Fixture {
    /// Reads `tests/fixtures/NAME.safetensors`.
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("fixtures are valid safetensors");
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let file = SafeTensors::deserialize(&bytes).expect("fixtures are valid safetensors");
        let tensors = file.tensors().into_iter().map(|(key, view)| {
            let words = view.data().chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).expect("chunks of 4"));
            let halves = view.data().chunks_exact(2).map(|half| <[u8; 2]>::try_from(half).expect("chunks of 2"));
            let data = match view.dtype() {
                Dtype::F32 => words.map(f32::from_le_bytes).collect(),
                Dtype::I64 => view
                    .data()
                    .chunks_exact(8)
                    .map(|word| i64::from_le_bytes(word.try_into().expect("chunks of 8")) as f32)
                    .collect(),
                Dtype::I32 => words.map(|word| i32::from_le_bytes(word) as f32).collect(),
                Dtype::F16 => halves.map(|half| half::f16::from_le_bytes(half).to_f32()).collect(),
                Dtype::BF16 => halves.map(|half| half::bf16::from_le_bytes(half).to_f32()).collect(),
                other => panic!("{name}: {key}: unexpected dtype {other:?}"),
            };
            (key, HostTensor { shape: view.shape().to_vec(), data })
        });
        Self { tensors: tensors.collect(), metadata }
    }

    /// The tensor of this name.
    pub fn tensor(&self, key: &str) -> &HostTensor {
        self.tensors.get(key).unwrap_or_else(|| panic!("no tensor {key} in the fixture"))
    }

    /// The tensor of this name, if there is one.
    pub fn find(&self, key: &str) -> Option<&HostTensor> {
        self.tensors.get(key)
    }

    /// The tensors whose names begin with `prefix`, by the rest of their names.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a HostTensor)> {
        self.tensors.iter().filter_map(move |(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
    }

    /// Entry `i` along the first axis of the tensor of this name.
    pub fn entry(&self, key: &str, i: usize) -> HostTensor {
        let whole = self.tensor(key);
        let len = whole.len() / whole.shape[0];
        HostTensor { shape: whole.shape[1..].to_vec(), data: whole.data[i * len..(i + 1) * len].to_vec() }
    }

    /// A text in the metadata.
    pub fn text(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("no {key} in the fixture's metadata"))
    }

    /// A text in the metadata, if it is there.
    pub fn find_text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// A JSON object in the metadata.
    pub fn object(&self, key: &str) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(self.text(key)).expect("metadata holds JSON objects")
    }
}

/// The largest difference between two tensors, for tests that bound it from below or above.
pub fn distance(a: &HostTensor, b: &HostTensor) -> f64 {
    compare(a, b, Tolerance::largest(f64::INFINITY)).unwrap_or_else(|e| panic!("{e}")).max_abs
}

/// Picture `index` of several, or whatever else lies along the first axis.
pub fn one(all: &HostTensor, index: usize) -> HostTensor {
    let len = all.len() / all.shape[0];
    HostTensor { shape: [&[1], &all.shape[1..]].concat(), data: all.data[index * len..(index + 1) * len].to_vec() }
}

/// The levels of a picture, 0 to 255.
pub fn levels(picture: &Picture) -> HostTensor {
    let channels = picture.data.len() / (picture.width * picture.height);
    let data = picture.data.iter().map(|level| f32::from(*level)).collect();
    HostTensor { shape: vec![picture.height, picture.width, channels], data }
}

/// The folder of a Stable Diffusion fixture, as a user would have it on disk. All of them share one vocabulary, which
/// the repository has only in `sd1`, so this assembles the folder under `target`, with links instead of copies where
/// possible.
pub fn stable_diffusion(name: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stable_diffusion");
    let whole = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stable_diffusion").join(name);
    link_folder(&fixtures.join(name), &whole).unwrap_or_else(|e| panic!("{name}: {e}"));
    for tokenizer in ["tokenizer", "tokenizer_2"].map(|folder| whole.join(folder)) {
        for file in ["vocab.json", "merges.txt"].into_iter().filter(|_| tokenizer.is_dir()) {
            let source = fixtures.join("sd1/tokenizer").join(file);
            link_file(&source, &tokenizer.join(file)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    whole
}

/// Makes `to` a folder of links to the files in `from`, and removes what an older version of the fixture left there.
fn link_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for old in fs::read_dir(to)? {
        let old = old?;
        let is_vocabulary = ["vocab.json", "merges.txt"].iter().any(|name| old.file_name() == *name);
        if !from.join(old.file_name()).exists() && !is_vocabulary {
            if old.file_type()?.is_dir() { fs::remove_dir_all(old.path())? } else { fs::remove_file(old.path())? }
        }
    }
    for entry in fs::read_dir(from)? {
        let (entry, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        if entry.is_dir() { link_folder(&entry, &target)? } else { link_file(&entry, &target)? }
    }
    Ok(())
}

/// Makes `to` a hard link to `from`, or a copy where the file system has no links.
fn link_file(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (from.metadata()?, to.metadata().ok());
    let is_current = |target: fs::Metadata| {
        Ok::<_, io::Error>(target.len() == source.len() && target.modified()? >= source.modified()?)
    };
    if target.map(is_current).transpose()? == Some(true) {
        return Ok(());
    }
    if to.exists() {
        fs::remove_file(to)?;
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

/// Fails unless every element is within `tolerance` · (1 + |expected|) of what is expected, and the relative L2 error
/// of the whole is within `tolerance`. NaN fails.
pub fn check_close(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    let tensor = |data: &[f32]| HostTensor { shape: vec![data.len()], data: data.to_vec() };
    compare(&tensor(found), &tensor(expected), Tolerance::near(tolerance)).unwrap_or_else(|e| panic!("{what}: {e}"));
}
