//! Concatenation of two tensors.

use crate::tensor::HostTensor;

/// `a` followed by `b` along `axis`.
pub fn concat(a: &HostTensor, b: &HostTensor, axis: usize) -> HostTensor {
    let run = |t: &HostTensor| t.shape[axis..].iter().product::<usize>();
    let mut shape = a.shape.clone();
    shape[axis] += b.shape[axis];
    let pairs = a.data.chunks_exact(run(a)).zip(b.data.chunks_exact(run(b)));
    HostTensor { shape, data: pairs.flat_map(|(a, b)| a.iter().chain(b)).copied().collect() }
}
