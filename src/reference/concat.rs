//! Two tensors one after the other.

use crate::ops::Axis;
use crate::tensor::HostTensor;

/// `a` and then `b` along `axis`.
pub fn concat(a: &HostTensor, b: &HostTensor, axis: Axis) -> HostTensor {
    let dim = axis.position(&a.shape);
    let run = |t: &HostTensor| t.shape[dim..].iter().product::<usize>();
    let mut shape = a.shape.clone();
    shape[dim] += b.shape[dim];
    let pairs = a.data.chunks_exact(run(a)).zip(b.data.chunks_exact(run(b)));
    HostTensor { shape, data: pairs.flat_map(|(a, b)| a.iter().chain(b)).copied().collect() }
}
