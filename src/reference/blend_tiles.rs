//! Seams between tiles of a picture.

use crate::tensor::HostTensor;

/// The first `rows` of `x` fade from the last rows of `above` to `x` itself, then the first `columns` likewise from the
/// last columns of `left`.
pub fn blend_tiles(
    x: &HostTensor,
    above: Option<&HostTensor>,
    left: Option<&HostTensor>,
    rows: usize,
    columns: usize,
) -> HostTensor {
    let (height, width, channels) = (x.shape[1], x.shape[2], x.shape[3]);
    let at = |t: &HostTensor, n: usize, h: usize, w: usize, c: usize| {
        f64::from(t.data[((n * t.shape[1] + h) * t.shape[2] + w) * channels + c])
    };
    HostTensor::from_fn(x.shape.as_slice(), |i| {
        let (c, w, h) = (i % channels, i / channels % width, i / (channels * width) % height);
        let n = i / (channels * width * height);
        let mut value = at(x, n, h, w, c);
        if let Some(above) = above.filter(|_| h < rows) {
            let share = h as f64 / rows as f64;
            value = at(above, n, above.shape[1] - rows + h, w, c) * (1.0 - share) + value * share;
        }
        if let Some(left) = left.filter(|_| w < columns) {
            let share = w as f64 / columns as f64;
            value = at(left, n, h, left.shape[2] - columns + w, c) * (1.0 - share) + value * share;
        }
        value as f32
    })
}
