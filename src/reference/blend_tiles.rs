//! Seams between tiles of a picture.

use crate::ops::blend_tiles::BlendTiles;
use crate::tensor::HostTensor;

/// The first rows of `x` slide from the last rows of `above` to `x` itself, then the first columns likewise from the
/// last of `left`.
pub fn blend_tiles(
    x: &HostTensor,
    above: Option<&HostTensor>,
    left: Option<&HostTensor>,
    op: &BlendTiles,
) -> HostTensor {
    let (height, width, channels) = (x.shape[1], x.shape[2], x.shape[3]);
    let at = |t: &HostTensor, n: usize, h: usize, w: usize, c: usize| {
        f64::from(t.data[((n * t.shape[1] + h) * t.shape[2] + w) * channels + c])
    };
    HostTensor::from_fn(x.shape.as_slice(), |i| {
        let (c, w, h) = (i % channels, i / channels % width, i / (channels * width) % height);
        let n = i / (channels * width * height);
        let mut value = at(x, n, h, w, c);
        if let Some(above) = above.filter(|_| h < op.rows) {
            let share = h as f64 / op.rows as f64;
            value = at(above, n, above.shape[1] - op.rows + h, w, c) * (1.0 - share) + value * share;
        }
        if let Some(left) = left.filter(|_| w < op.columns) {
            let share = w as f64 / op.columns as f64;
            value = at(left, n, h, left.shape[2] - op.columns + w, c) * (1.0 - share) + value * share;
        }
        value as f32
    })
}
