//! Host tensors: a shape and a row-major `Vec<f32>`. What the reference computes on, and what goes in and out of a
//! device.

use crate::error::{Error, Result};

/// How the elements of a value are stored on a device. Host tensors are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float; arithmetic on it accumulates in f32.
    F16,
    /// 32-bit unsigned integer (indices, seeds); kept as exact integers below 2²⁴ in host tensors.
    U32,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 => 2,
        }
    }

    /// The name used in dumps and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U32 => "u32",
        }
    }
}

/// A dense row-major f32 tensor in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` elements, the last dimension contiguous.
    pub data: Vec<f32>,
}

impl HostTensor {
    /// A tensor of `shape` holding `data`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements is not the product of the dimensions.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Result<Self> {
        let shape = shape.into();
        let elements = shape.iter().product::<usize>();
        if elements != data.len() {
            return Err(Error::Shape(format!(
                "a tensor of shape {shape:?} has {elements} elements, {} were given",
                data.len()
            )));
        }
        Ok(Self { shape, data })
    }

    /// A tensor of `shape` filled with zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let elements = shape.iter().product();
        Self { shape, data: vec![0.0; elements] }
    }

    /// A tensor with one element per index, `f(flat_index)`.
    pub fn from_fn(shape: impl Into<Vec<usize>>, f: impl FnMut(usize) -> f32) -> Self {
        let shape = shape.into();
        let elements = shape.iter().product::<usize>();
        Self { data: (0..elements).map(f).collect(), shape }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True if the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Channels-first to channels-last: `[N, C, H, W]` → `[N, H, W, C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor does not have four dimensions.
    pub fn nchw_to_nhwc(&self) -> Result<Self> {
        self.permute([0, 2, 3, 1])
    }

    /// Channels-last to channels-first: `[N, H, W, C]` → `[N, C, H, W]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor does not have four dimensions.
    pub fn nhwc_to_nchw(&self) -> Result<Self> {
        self.permute([0, 3, 1, 2])
    }

    /// `out.shape[i] = self.shape[order[i]]`, for four-dimensional tensors.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor does not have four dimensions.
    pub fn permute(&self, order: [usize; 4]) -> Result<Self> {
        let Ok(shape) = <[usize; 4]>::try_from(self.shape.as_slice()) else {
            return Err(Error::Shape(format!("expected four dimensions, found shape {:?}", self.shape)));
        };
        let stride = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1];
        let out = order.map(|d| shape[d]);
        let step = order.map(|d| stride[d]);
        if self.is_empty() {
            return Ok(Self { shape: out.to_vec(), data: Vec::new() });
        }
        let mut data = Vec::with_capacity(self.data.len());
        for a in 0..out[0] {
            for b in 0..out[1] {
                for c in 0..out[2] {
                    let from = &self.data[a * step[0] + b * step[1] + c * step[2]..];
                    data.extend(from.iter().step_by(step[3]).take(out[3]));
                }
            }
        }
        Ok(Self { shape: out.to_vec(), data })
    }
}
