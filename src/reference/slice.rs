//! A range of channels or of images.

use crate::ops::Axis;
use crate::tensor::HostTensor;

/// The entries `start .. start + length` of `x` along `axis`.
pub fn slice(x: &HostTensor, axis: Axis, start: usize, length: usize) -> HostTensor {
    let dim = axis.position(&x.shape);
    let entry: usize = x.shape[dim + 1..].iter().product();
    let mut shape = x.shape.clone();
    shape[dim] = length;
    let rows = x.data.chunks_exact(x.shape[dim] * entry);
    HostTensor { shape, data: rows.flat_map(|row| &row[start * entry..][..length * entry]).copied().collect() }
}
