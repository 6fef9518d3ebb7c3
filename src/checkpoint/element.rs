//! How a file stores the elements of a tensor.

use std::fmt;

use safetensors::tensor::Dtype;

use super::gguf::Block;

/// The type of a tensor's elements in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// One number after the other.
    Number(Dtype),
    /// Small integers in blocks that share scales, as in GGUF files.
    Block(Block),
}

impl ElementType {
    /// Bytes that so many elements take; `None` if they are no whole number of bytes or blocks, or too many.
    pub fn bytes_of(self, elements: usize) -> Option<usize> {
        match self {
            Self::Number(dtype) => {
                let bits = elements.checked_mul(dtype.bitsize())?;
                bits.is_multiple_of(8).then_some(bits / 8)
            }
            Self::Block(block) => {
                let blocks = elements.is_multiple_of(block.elements()).then_some(elements / block.elements())?;
                blocks.checked_mul(block.bytes())
            }
        }
    }

    /// Elements in so many bytes.
    pub(super) fn elements_in(self, bytes: usize) -> usize {
        match self {
            Self::Number(dtype) => bytes * 8 / dtype.bitsize(),
            Self::Block(block) => bytes / block.bytes() * block.elements(),
        }
    }
}

impl From<Dtype> for ElementType {
    fn from(dtype: Dtype) -> Self {
        Self::Number(dtype)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(dtype) => write!(f, "{dtype}"),
            Self::Block(block) => write!(f, "{block:?}"),
        }
    }
}
