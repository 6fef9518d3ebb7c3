//! Everything that is read from outside: a sound input of each kind, ways to damage it, and the way in.

mod adapters;
mod configs;
mod pictures;
mod tensors;
mod texts;

use std::path::PathBuf;

use unmist::Result;

use crate::random::Random;

type Make = Box<dyn Fn(&mut Random) -> Vec<u8>>;
type Read = Box<dyn Fn(Vec<u8>) -> Result<()>>;

/// One kind of input.
pub struct Kind {
    /// A family of kinds and its member: `config/vae`.
    pub name: String,
    /// How many of its inputs are made for one of a kind that has 1.
    pub share: usize,
    /// Of a thousand inputs so many at least are read, and refused: otherwise the mutations test only one outcome.
    pub expected: [u64; 2],
    /// Damages a sound input.
    pub make: Make,
    /// Reads it through the library.
    pub read: Read,
}

impl Kind {
    fn new(
        name: impl Into<String>,
        share: usize,
        make: impl Fn(&mut Random) -> Vec<u8> + 'static,
        read: impl Fn(Vec<u8>) -> Result<()> + 'static,
    ) -> Self {
        Self { name: name.into(), share, expected: [10, 10], make: Box::new(make), read: Box::new(read) }
    }

    /// With other expectations of what is read and refused, of a thousand.
    fn expecting(self, read: u64, refused: u64) -> Self {
        Self { expected: [read, refused], ..self }
    }
}

/// All kinds. A new format's goes to the family that it belongs to.
pub fn all() -> Vec<Kind> {
    [tensors::kinds(), configs::kinds(), adapters::kinds(), texts::kinds(), pictures::kinds()]
        .into_iter()
        .flatten()
        .collect()
}

/// A file or folder of `tests/fixtures`.
fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn bytes_of(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn json_of(path: &str) -> serde_json::Value {
    serde_json::from_slice(&bytes_of(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Header and data of a `.safetensors` file.
fn split_safetensors(file: &[u8]) -> (serde_json::Value, &[u8]) {
    let (length, rest) = file.split_first_chunk().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (serde_json::from_slice(header).expect("a header"), data)
}

/// A `.safetensors` file of a header and data.
fn safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}
