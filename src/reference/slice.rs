//! A range of entries along one dimension.

use crate::tensor::HostTensor;

/// The entries `start .. start + length` of `x` along `axis`.
pub fn slice(x: &HostTensor, axis: usize, start: usize, length: usize) -> HostTensor {
    let entry: usize = x.shape[axis + 1..].iter().product();
    let mut shape = x.shape.clone();
    shape[axis] = length;
    let rows = x.data.chunks_exact(x.shape[axis] * entry);
    HostTensor { shape, data: rows.flat_map(|row| &row[start * entry..][..length * entry]).copied().collect() }
}
