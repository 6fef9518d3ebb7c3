//! Nearest-neighbour upsampling.

use crate::tensor::HostTensor;

/// `y[n, oh, ow, c] = x[n, ⌊oh · H/OH⌋, ⌊ow · W/OW⌋, c]`, quotient and product rounded to f32 as in torch.
pub fn upsample_nearest(x: &HostTensor, out_h: usize, out_w: usize) -> HostTensor {
    let (n, h, w, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
    let (scale_h, scale_w) = (h as f32 / out_h as f32, w as f32 / out_w as f32);
    let source = |i: usize, scale: f32, size: usize| ((i as f32 * scale) as usize).min(size - 1);
    let mut data = Vec::with_capacity(n * out_h * out_w * c);
    for image in x.data.chunks_exact(h * w * c) {
        for oh in 0..out_h {
            let row = &image[source(oh, scale_h, h) * w * c..][..w * c];
            (0..out_w).for_each(|ow| data.extend_from_slice(&row[source(ow, scale_w, w) * c..][..c]));
        }
    }
    HostTensor { shape: vec![n, out_h, out_w, c], data }
}
