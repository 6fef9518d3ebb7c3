//! Sums and products of two tensors.

use crate::tensor::HostTensor;

/// `y[i] = f(a[i], b[i])` over the shape that both broadcast to: shapes are aligned at their last dimension, and an
/// operand is repeated along dimensions where it has size 1 or none.
pub fn binary(a: &HostTensor, b: &HostTensor, f: impl Fn(f64, f64) -> f64) -> HostTensor {
    if a.shape == b.shape {
        let data = a.data.iter().zip(&b.data).map(|(a, b)| f(f64::from(*a), f64::from(*b)) as f32).collect();
        return HostTensor { shape: a.shape.clone(), data };
    }
    let rank = a.shape.len().max(b.shape.len());
    let aligned = |t: &HostTensor| [&vec![1; rank - t.shape.len()][..], &t.shape].concat();
    let (a_shape, b_shape) = (aligned(a), aligned(b));
    let shape: Vec<usize> = a_shape.iter().zip(&b_shape).map(|(a, b)| if *a == 1 { *b } else { *a }).collect();
    let at = |index: &[usize], shape: &[usize]| {
        index.iter().zip(shape).fold(0, |at, (i, size)| at * size + if *size == 1 { 0 } else { *i })
    };
    let mut index = vec![0; rank];
    HostTensor::from_fn(shape.clone(), |position| {
        let mut rest = position;
        for d in (0..rank).rev() {
            index[d] = rest % shape[d];
            rest /= shape[d];
        }
        f(f64::from(a.data[at(&index, &a_shape)]), f64::from(b.data[at(&index, &b_shape)])) as f32
    })
}
