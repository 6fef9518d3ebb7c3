//! Rotary position embedding.

use crate::tensor::HostTensor;

/// Pairs (u, v) of the first R channels of each head become (u · cos − v · sin, u · sin + v · cos). A pair is two
/// neighbours if `interleaved`, else one channel of each half of R. `cosines` and `sines [rows, R/2]` hold one row per
/// position, reused for every image of `x [N, .., heads · head_dim]` if there are too few for all.
pub fn rope(
    x: &HostTensor,
    cosines: &HostTensor,
    sines: &HostTensor,
    head_dim: usize,
    interleaved: bool,
) -> HostTensor {
    let channels = x.shape[x.shape.len() - 1];
    let (rows, pairs) = (cosines.shape[0], cosines.shape[1]);
    let mut y = x.clone();
    for (token, row) in y.data.chunks_exact_mut(channels).enumerate() {
        let at = token % rows * pairs;
        for head in row.chunks_exact_mut(head_dim) {
            for j in 0..pairs {
                let (first, second) = if interleaved { (2 * j, 2 * j + 1) } else { (j, j + pairs) };
                let (u, v) = (f64::from(head[first]), f64::from(head[second]));
                let (cos, sin) = (f64::from(cosines.data[at + j]), f64::from(sines.data[at + j]));
                head[first] = (u * cos - v * sin) as f32;
                head[second] = (u * sin + v * cos) as f32;
            }
        }
    }
    y
}
