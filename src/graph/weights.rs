//! From checkpoint tensors to parameters in the layout the kernels read.

use super::ir::{WeightLayout, WeightPart, WeightSpec};
use crate::error::{Error, Result};
use crate::tensor::HostTensor;

/// Where a graph's parameters come from.
pub trait WeightSource {
    /// The tensor `part.name`, whose shape must be `part.shape`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the tensor is missing, has another shape, or cannot be read.
    fn read(&self, part: &WeightPart) -> Result<HostTensor>;
}

/// In-memory parameters: tests and tools.
impl WeightSource for std::collections::HashMap<String, HostTensor> {
    fn read(&self, part: &WeightPart) -> Result<HostTensor> {
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
}

impl WeightSource for crate::checkpoint::Weights {
    fn read(&self, part: &WeightPart) -> Result<HostTensor> {
        self.tensor(&part.name)
    }
}
