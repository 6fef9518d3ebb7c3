//! Resampling by two with a finite impulse response.

use crate::tensor::HostTensor;

/// The filter along one axis, before it is normalised to a sum of 1.
const TAPS: [f64; 4] = [1.0, 3.0, 3.0, 1.0];

/// `x [N, H, W, C]` at twice the size if `up`, else at half of it: `upfirdn2d` of StyleGAN2 along both axes. Zeros are
/// put between the values (`up`), the row is padded with zeros, convolved with the filter, and (if not `up`) every
/// second value is kept.
pub fn fir_resample(x: &HostTensor, up: bool) -> HostTensor {
    let (n, h, w, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
    let (out_h, out_w) = if up { (2 * h, 2 * w) } else { (h / 2, w / 2) };
    let (stretch, stride, before, gain) = if up { (2, 1, 2, 2.0) } else { (1, 2, 1, 1.0) };
    // The value at `position` of a stretched and padded axis: its place in x, if it is one of x's and not a zero.
    let place = |position: usize, len: usize| {
        let at = position.checked_sub(before)?;
        (at % stretch == 0 && at / stretch < len).then_some(at / stretch)
    };
    let tap = |t: usize| gain * TAPS[t] / TAPS.iter().sum::<f64>();
    HostTensor::from_fn([n, out_h, out_w, c], |i| {
        let (image, oh, ow, channel) = (i / (out_h * out_w * c), i / (out_w * c) % out_h, i / c % out_w, i % c);
        let mut sum = 0.0;
        for (r, s) in (0..4).flat_map(|r| (0..4).map(move |s| (r, s))) {
            if let (Some(row), Some(column)) = (place(stride * oh + r, h), place(stride * ow + s, w)) {
                sum += tap(r) * tap(s) * f64::from(x.data[((image * h + row) * w + column) * c + channel]);
            }
        }
        sum as f32
    })
}
