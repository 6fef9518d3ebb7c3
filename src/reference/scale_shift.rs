//! Modulation of channels by an embedding.

use crate::tensor::HostTensor;

/// `y[n, .., c] = f(x[n, .., c] · (1 + embedding[n, c]) + embedding[n, C + c])`
pub fn scale_shift(x: &HostTensor, embedding: &HostTensor, activation: Option<fn(f64) -> f64>) -> HostTensor {
    let (n, c) = (embedding.shape[0], embedding.shape[1] / 2);
    let mut y = x.clone();
    for (image, embedding) in y.data.chunks_exact_mut(x.len() / n).zip(embedding.data.chunks_exact(2 * c)) {
        let (scales, shifts) = embedding.split_at(c);
        for pixel in image.chunks_exact_mut(c) {
            for ((v, scale), shift) in pixel.iter_mut().zip(scales).zip(shifts) {
                let value = f64::from(*v) * (1.0 + f64::from(*scale)) + f64::from(*shift);
                *v = activation.map_or(value, |f| f(value)) as f32;
            }
        }
    }
    y
}
