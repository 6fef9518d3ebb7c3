//! Where a graph's parameters come from.

use std::collections::{BTreeMap, HashMap};

use super::ir::{WeightLayout, WeightPart, WeightSpec};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::tensor::HostTensor;

/// A source of checkpoint tensors.
pub trait WeightSource: Send + Sync {
    /// The tensor `part.name`, whose shape must be `part.shape`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the tensor is missing, has another shape, or cannot be read.
    fn read(&self, part: &WeightPart) -> Result<HostTensor>;

    /// The same tensor as it lies in memory or in a mapped file, if it does and its elements are floats.
    ///
    /// # Errors
    /// As [`WeightSource::read`].
    fn stored(&self, _part: &WeightPart) -> Result<Option<Stored<'_>>> {
        Ok(None)
    }

    /// Tells contents apart: tensors of one id are equal, so that a device needs to hold them once. Cheap where the
    /// tensor lies in a file; otherwise the elements are hashed.
    ///
    /// # Errors
    /// As [`WeightSource::read`].
    fn content(&self, part: &WeightPart) -> Result<ContentId> {
        Ok(content_of(&self.read(part)?))
    }
}

/// The id of a tensor's elements.
pub fn content_of(tensor: &HostTensor) -> ContentId {
    let shape: Vec<u8> = tensor.shape.iter().flat_map(|d| (*d as u64).to_le_bytes()).collect();
    ContentId::of(&[b"elements", &shape, bytemuck::cast_slice(&tensor.data)])
}

/// Element types in which a checkpoint stores floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
}

impl StoredType {
    /// Its name, as safetensors' users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A tensor's little-endian elements where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Their type.
    pub dtype: StoredType,
    /// `product of the dimensions · size` bytes.
    pub bytes: &'a [u8],
}

/// The checkpoints of a model that is put together of several: its own, and others by name.
pub struct WeightSources<'a> {
    /// What the model's own parts are read from.
    pub own: &'a dyn WeightSource,
    /// The others, each under the name that [`WeightPart::source`] has for it.
    pub others: BTreeMap<&'a str, &'a dyn WeightSource>,
}

impl<'a> WeightSources<'a> {
    /// What `ask` gets from the source of `part`, which knows the part as its own.
    fn ask<T>(&self, part: &WeightPart, ask: impl FnOnce(&'a dyn WeightSource, &WeightPart) -> Result<T>) -> Result<T> {
        let Some(name) = part.source.as_deref() else { return ask(self.own, part) };
        let source = self.others.get(name).ok_or_else(|| missing_source(part, name))?;
        ask(*source, &WeightPart { source: None, ..part.clone() }).map_err(|e| match e {
            Error::Checkpoint(m) => Error::Checkpoint(format!("{name}: {m}")),
            other => other,
        })
    }
}

impl WeightSource for WeightSources<'_> {
    fn read(&self, part: &WeightPart) -> Result<HostTensor> {
        self.ask(part, |source, part| source.read(part))
    }

    fn stored(&self, part: &WeightPart) -> Result<Option<Stored<'_>>> {
        self.ask(part, |source, part| source.stored(part))
    }

    fn content(&self, part: &WeightPart) -> Result<ContentId> {
        self.ask(part, |source, part| source.content(part))
    }
}

fn missing_source(part: &WeightPart, source: &str) -> Error {
    Error::Checkpoint(format!("tensor {} belongs to {source}, which was not given", part.name))
}

/// Refuses a part of another source, for sources that know none but their own.
pub(crate) fn expect_own(part: &WeightPart) -> Result<()> {
    part.source.as_deref().map_or(Ok(()), |source| Err(missing_source(part, source)))
}

/// In-memory parameters: tests and tools.
impl WeightSource for HashMap<String, HostTensor> {
    fn read(&self, part: &WeightPart) -> Result<HostTensor> {
        expect_own(part)?;
        let tensor =
            self.get(&part.name).ok_or_else(|| Error::Checkpoint(format!("tensor {} is missing", part.name)))?;
        if tensor.shape != part.shape {
            return Err(Error::Checkpoint(format!(
                "tensor {}: expected shape {:?}, found {:?}",
                part.name, part.shape, tensor.shape
            )));
        }
        Ok(tensor.clone())
    }
}

impl WeightSpec {
    /// Reads, lays out and concatenates the parts; the result has `shape` (the node's).
    ///
    /// # Errors
    /// As [`WeightSource::read`].
    pub fn load(&self, source: &dyn WeightSource, shape: &[usize]) -> Result<HostTensor> {
        let mut data = Vec::with_capacity(shape.iter().product());
        for part in &self.parts {
            let tensor = source.read(part)?;
            match self.layout {
                WeightLayout::AsIs => data.extend_from_slice(&tensor.data),
                WeightLayout::Ohwi => data.extend(tensor.channels_last().data),
            }
        }
        HostTensor::new(shape, data)
    }

    /// The id of what [`WeightSpec::load`] would return.
    ///
    /// # Errors
    /// As [`WeightSource::content`].
    pub fn content(&self, source: &dyn WeightSource) -> Result<ContentId> {
        let parts = self.parts.iter().map(|part| source.content(part)).collect::<Result<Vec<_>>>()?;
        let layout = format!("{:?}", self.layout);
        let pieces: Vec<&[u8]> = std::iter::once(layout.as_bytes()).chain(parts.iter().map(ContentId::bytes)).collect();
        Ok(ContentId::of(&pieces))
    }
}
