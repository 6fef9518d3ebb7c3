//! Average pooling over 2 × 2 pixels.

use crate::tensor::HostTensor;

/// `y[n, oh, ow, c]` = mean of `x[n, 2·oh .. 2·oh+1, 2·ow .. 2·ow+1, c]`
pub fn avg_pool(x: &HostTensor) -> HostTensor {
    let (n, h, w, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
    let (out_h, out_w) = (h / 2, w / 2);
    HostTensor::from_fn([n, out_h, out_w, c], |i| {
        let (image, oh, ow, channel) = (i / (out_h * out_w * c), i / (out_w * c) % out_h, i / c % out_w, i % c);
        let at = |dh: usize, dw: usize| f64::from(x.data[((image * h + 2 * oh + dh) * w + 2 * ow + dw) * c + channel]);
        ((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0) as f32
    })
}
