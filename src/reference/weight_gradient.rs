//! What the weights of a matrix product or a convolution get of the gradient of its result.

use crate::parallel::*;
use crate::tensor::HostTensor;

/// `y[f, tap.., c] = Σ_{image, o} dy[image, o.., f] · x[image, o · stride + tap · dilation − before, c]`, with `x` zero
/// outside the picture; sums in f64.
///
/// `x [images, .., C]`, `dy [images, .., F]`, result `shape [F, taps .., C / groups]`; `stride`, `before` (zeros before
/// the first pixel) and `dilation` have one entry for each axis, none for a matrix product, of which each row is an
/// image. Filter f sees only the channels of its group.
pub fn weight_gradient(
    x: &HostTensor,
    dy: &HostTensor,
    shape: &[usize],
    stride: &[usize],
    before: &[usize],
    dilation: &[usize],
    groups: usize,
) -> HostTensor {
    let axes = stride.len();
    let along = |tensor: &HostTensor| tensor.shape[tensor.shape.len() - 1 - axes..tensor.shape.len() - 1].to_vec();
    let (picture, size, taps) = (along(x), along(dy), &shape[1..=axes]);
    let (filters, per_group) = (shape[0], shape[axes + 1]);
    let channels = per_group * groups;
    let [pixels, positions, tap_count] = [&picture[..], &size[..], taps].map(|sides| sides.iter().product::<usize>());
    // The pixel of its image under each tap at each position, the taps of a position side by side.
    let under = |index: usize| {
        let (mut at, mut tap, mut pixel, mut pitch) = (index / tap_count, index % tap_count, 0, 1);
        for axis in (0..axes).rev() {
            let along = at % size[axis] * stride[axis] + tap % taps[axis] * dilation[axis];
            pixel += pitch * along.checked_sub(before[axis]).filter(|pixel| *pixel < picture[axis])?;
            (at, tap, pitch) = (at / size[axis], tap / taps[axis], pitch * picture[axis]);
        }
        Some(pixel)
    };
    let under: Vec<Option<usize>> = (0..positions * tap_count).map(under).collect();

    let mut y = HostTensor::zeros(shape.to_vec());
    y.data.par_chunks_mut(tap_count * per_group).enumerate().for_each(|(f, out)| {
        let first_channel = f / (filters / groups) * per_group;
        let mut sums = vec![0.0f64; out.len()];
        for m in 0..dy.len() / filters {
            let of_dy = f64::from(dy.data[m * filters + f]);
            let under = &under[m % positions * tap_count..][..tap_count];
            for (sums, pixel) in sums.chunks_exact_mut(per_group).zip(under) {
                let Some(pixel) = pixel else { continue };
                let values = &x.data[(m / positions * pixels + pixel) * channels + first_channel..][..per_group];
                sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += of_dy * f64::from(*x));
            }
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
    });
    y
}
