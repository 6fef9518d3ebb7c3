//! Sums and products of two tensors.

use crate::ops::binary::BinaryKind;
use crate::tensor::HostTensor;

/// `a + b` or `a · b`; `b` has the shape of `a`, or is `[N, C]` against `a [N, .., C]`.
pub fn binary(a: &HostTensor, b: &HostTensor, kind: BinaryKind) -> HostTensor {
    let apply = |a: f32, b: f32| match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Mul => a * b,
    };
    let data = if a.shape == b.shape {
        a.data.iter().zip(&b.data).map(|(&a, &b)| apply(a, b)).collect()
    } else {
        let (n, c) = (b.shape[0], b.shape[1]);
        let images = a.data.chunks_exact(a.len() / n).zip(b.data.chunks_exact(c));
        images.flat_map(|(image, b)| image.iter().zip(b.iter().cycle()).map(|(&a, &b)| apply(a, b))).collect()
    };
    HostTensor { shape: a.shape.clone(), data }
}
