//! Sums along dimensions.

use crate::tensor::HostTensor;

/// `y[o, i] = Σ_r f(x[o, r, i])` in f64, the dimensions `start .. end` of `x` being r; they become 1 in the result.
pub fn sum(x: &HostTensor, start: usize, end: usize, f: fn(f64) -> f64) -> HostTensor {
    let [outer, rows, inner] =
        [0..start, start..end, end..x.shape.len()].map(|dims| x.shape[dims].iter().product::<usize>());
    let mut shape = x.shape.clone();
    shape[start..end].fill(1);
    let mut sums = vec![0.0f64; outer * inner];
    for (row, values) in x.data.chunks(inner.max(1)).enumerate() {
        let sums = &mut sums[row / rows * inner..][..inner];
        sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += f(f64::from(*v)));
    }
    HostTensor { shape, data: sums.into_iter().map(|v| v as f32).collect() }
}
