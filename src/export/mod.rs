//! Writing a checkpoint again in another layout: whatever was read, with what changes it merged in, as a folder of
//! diffusers or as a single file of the original code.
//!
//! What is written is what the models here ask for, in today's names and shapes; what no model asks for is left out.

mod folder;
mod single_file;
mod vocabulary;

use std::path::Path;

use crate::checkpoint::safetensors::{self, Entry};
use crate::checkpoint::{Checkpoint, Component, PARTS, TensorSource, Weights};
use crate::error::{Error, Result};
use crate::graph::StoredType;
use crate::models::LoadedModel;
use crate::output::write_atomic;
use crate::tensor::HostTensor;

pub use folder::folder;
pub use single_file::single_file;

/// One component, as its model asks for it.
struct Part {
    component: Component,
    weights: Weights,
    /// What its tensors are written as.
    dtype: StoredType,
}

impl Part {
    /// Every component that a checkpoint has.
    fn all(checkpoint: &Checkpoint, dtype: Option<StoredType>) -> Result<Vec<Self>> {
        let names = checkpoint.component_names();
        let there = PARTS.into_iter().chain(["vqvae", "bert"]).filter(|part| names.iter().any(|name| name == part));
        there.map(|name| Self::of(checkpoint, name, dtype)).collect()
    }

    fn of(checkpoint: &Checkpoint, name: &str, dtype: Option<StoredType>) -> Result<Self> {
        // Each half lists the parameters of both; a decoder alone is no autoencoder for anybody else.
        let model = match name {
            "vae" | "vqvae" => &format!("{name}.encoder"),
            _ => name,
        };
        let weights = LoadedModel::open(checkpoint, model)?.weights;
        let component = checkpoint.component(name)?;
        let dtype = dtype.unwrap_or_else(|| most_common(&*component.tensors));
        Ok(Self { component, weights, dtype })
    }

    /// Names of the tensors in the model.
    fn names(&self) -> Vec<String> {
        self.weights.names().map(str::to_owned).collect()
    }
}

/// The type that most of the elements are stored as; those of blocks and 8-bit floats count as what they stand for,
/// f32.
fn most_common(tensors: &dyn TensorSource) -> StoredType {
    let mut counts = [(StoredType::F32, 0), (StoredType::F16, 0), (StoredType::Bf16, 0)];
    for name in tensors.names() {
        let dtype = tensors.stored_as(&name).unwrap_or(StoredType::F32);
        let count = counts.iter_mut().find(|(other, _)| *other == dtype);
        count.expect("all types are listed").1 += tensors.shape(&name).unwrap_or_default().iter().product::<usize>();
    }
    // Of equal counts the last one is taken: f32 goes before the others.
    counts.into_iter().rev().max_by_key(|(_, count)| *count).expect("there are three").0
}

/// Writes tensors to a file that other programs take for one of PyTorch's.
fn write(
    path: &Path,
    entries: &[Entry],
    metadata: &[(&str, &str)],
    read: &mut dyn FnMut(usize) -> Result<HostTensor>,
) -> Result<()> {
    let pairs = metadata.iter().chain(&[("format", "pt")]).map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
    let metadata = pairs.collect();
    let written = write_atomic(path, |out| safetensors::write_each(out, entries, &metadata, read));
    written.map_err(|error| match error {
        // What a tensor's source has said passed through the writer.
        Error::Io { path, source } => match source.downcast::<Error>() {
            Ok(inner) => inner,
            Err(source) => Error::Io { path, source },
        },
        other => other,
    })
}
