//! Host tensors: a shape and a row-major `Vec<f32>`. What the reference computes on, and what goes in and out of a
//! device.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the elements of a value are stored on a device. Host tensors are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
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
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
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

    /// Channels-first to channels-last: `[N, C, ..]` → `[N, .., C]`; two dimensions and fewer stay as they are.
    pub fn channels_last(&self) -> Self {
        let rank = self.shape.len();
        if rank < 3 {
            return self.clone();
        }
        let order: Vec<usize> = std::iter::once(0).chain(2..rank).chain([1]).collect();
        self.reordered(&order)
    }

    /// Channels-last to channels-first: `[N, .., C]` → `[N, C, ..]`; two dimensions and fewer stay as they are.
    pub fn channels_first(&self) -> Self {
        let rank = self.shape.len();
        if rank < 3 {
            return self.clone();
        }
        let order: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        self.reordered(&order)
    }

    /// The dimensions in another order: `out.shape[i] = self.shape[order[i]]`, as `torch.permute`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `order` does not name every dimension once.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..self.shape.len()) {
            return Err(Error::Shape(format!("{order:?} is not an order of the dimensions of {:?}", self.shape)));
        }
        Ok(self.reordered(order))
    }

    /// [`HostTensor::permute`] by an order that is known to be one.
    fn reordered(&self, order: &[usize]) -> Self {
        let strides = strides(&self.shape);
        let shape: Vec<usize> = order.iter().map(|d| self.shape[*d]).collect();
        if self.is_empty() {
            return Self { shape, data: Vec::new() };
        }
        let Some((last, outer)) = order.split_last() else { return self.clone() };
        let (run, step) = (self.shape[*last], strides[*last]);
        let mut data = Vec::with_capacity(self.data.len());
        let mut index = vec![0; outer.len()]; // of the run of outputs that is copied next
        loop {
            let start: usize = index.iter().zip(outer).map(|(i, d)| i * strides[*d]).sum();
            data.extend(self.data[start..].iter().step_by(step).take(run));
            // The next index, counting like a clock from the innermost dimension on.
            let Some(turning) = (0..outer.len()).rev().find(|d| index[*d] + 1 < shape[*d]) else { break };
            index[turning] += 1;
            index[turning + 1..].fill(0);
        }
        Self { shape, data }
    }

    /// The entries at these places along the first axis, in this order.
    pub fn rows(&self, places: &[usize]) -> Self {
        let row = self.len() / self.shape[0].max(1);
        let data = places.iter().flat_map(|place| &self.data[place * row..][..row]).copied().collect();
        Self { shape: [&[places.len()], &self.shape[1..]].concat(), data }
    }

    /// Tensors one after the other along `axis`, as `torch.cat`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is none, or if they differ in any other dimension.
    pub fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        let first = parts.first().ok_or_else(|| Error::Shape("there is nothing to join".into()))?;
        let mut shape = first.shape.clone();
        if axis >= shape.len() {
            return Err(Error::Shape(format!("{shape:?} has no dimension {axis} to join along")));
        }
        shape[axis] = 0;
        for part in parts {
            let fits =
                part.shape.len() == shape.len() && (0..shape.len()).all(|d| d == axis || part.shape[d] == shape[d]);
            if !fits {
                return Err(Error::Shape(format!(
                    "{:?} and {:?} cannot be joined along dimension {axis}: another dimension differs",
                    first.shape, part.shape
                )));
            }
            shape[axis] += part.shape[axis];
        }
        let outer: usize = shape[..axis].iter().product();
        let mut data = Vec::with_capacity(shape.iter().product());
        for i in 0..outer {
            for part in parts {
                let run = part.len() / outer;
                data.extend_from_slice(&part.data[i * run..][..run]);
            }
        }
        Ok(Self { shape, data })
    }
}

/// Elements between neighbours along each dimension of a dense row-major tensor.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(shape: &[usize]) -> HostTensor {
        HostTensor::from_fn(shape, |i| i as f32)
    }

    #[test]
    fn permute_moves_every_element() {
        let x = counted(&[2, 3, 5, 4]);
        let y = x.permute(&[3, 0, 2, 1]).unwrap();
        assert_eq!(y.shape, [4, 2, 5, 3]);
        for (i, v) in y.data.iter().enumerate() {
            let (d, a, c, b) = (i / 30, i / 15 % 2, i / 3 % 5, i % 3);
            assert_eq!(*v, x.data[((a * 3 + b) * 5 + c) * 4 + d], "{i}");
        }
        assert!(x.permute(&[0, 1, 2]).is_err());
        assert!(x.permute(&[0, 1, 1, 3]).is_err());
        assert_eq!(HostTensor::zeros([0, 3]).permute(&[1, 0]).unwrap().shape, [3, 0]);
    }

    #[test]
    fn channels_move_at_any_rank() {
        for shape in [&[2, 3, 7][..], &[2, 3, 5, 7], &[2, 3, 2, 5, 7]] {
            let x = counted(shape);
            let y = x.channels_last();
            assert_eq!(y.shape[0], 2);
            assert_eq!(*y.shape.last().unwrap(), 3);
            assert_eq!(y.shape[1..shape.len() - 1], shape[2..]);
            let pixels: usize = shape[2..].iter().product();
            assert_eq!(y.data[1], x.data[pixels]);
            assert_eq!(y.channels_first(), x);
        }
        let pooled = counted(&[2, 3]);
        assert_eq!(pooled.channels_last(), pooled);
    }

    #[test]
    fn concat_joins_along_any_axis() {
        let (a, b) = (counted(&[2, 1, 2]), counted(&[2, 2, 2]));
        let y = HostTensor::concat(&[&a, &b], 1).unwrap();
        assert_eq!(y.shape, [2, 3, 2]);
        assert_eq!(y.data, [0., 1., 0., 1., 2., 3., 2., 3., 4., 5., 6., 7.]);
        assert!(HostTensor::concat(&[&a, &b], 0).is_err());
        assert!(HostTensor::concat(&[&a], 3).is_err());
        assert!(HostTensor::concat(&[], 0).is_err());
    }
}
