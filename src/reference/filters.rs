//! What the gradient of a convolution makes of its filter and of its result.

use crate::tensor::HostTensor;

/// `y[c, tap, n] = x[n, taps − 1 − tap, c]` for `x [N, taps .., C]`: input and output channels change places, and the
/// taps of every axis run backwards.
pub fn turn_filter(x: &HostTensor) -> HostTensor {
    let rank = x.shape.len();
    let (n, c) = (x.shape[0], x.shape[rank - 1]);
    let taps = x.len() / n / c;
    let mut shape = x.shape.clone();
    shape.swap(0, rank - 1);
    HostTensor::from_fn(shape, |at| x.data[(at % n * taps + (taps - 1 - at / n % taps)) * c + at / n / taps])
}

/// `y[n, stride · h, stride · w, c] = x[n, h, w, c]`, zero elsewhere, for `x [N, H, W, C]`.
pub fn insert_zeros(x: &HostTensor, stride: [usize; 2]) -> HostTensor {
    let (h, w, c) = (x.shape[1], x.shape[2], x.shape[3]);
    let (oh, ow) = ((h - 1) * stride[0] + 1, (w - 1) * stride[1] + 1);
    let mut y = HostTensor::zeros(vec![x.shape[0], oh, ow, c]);
    for (pixel, values) in x.data.chunks_exact(c).enumerate() {
        let (image, row, column) = (pixel / w / h, pixel / w % h, pixel % w);
        let to = ((image * oh + row * stride[0]) * ow + column * stride[1]) * c;
        y.data[to..to + c].copy_from_slice(values);
    }
    y
}
