//! Matrix product and convolution, and the rows added to their sums.

use crate::parallel::*;

use super::products::Weights;
use crate::tensor::HostTensor;

/// Rows of `x` per task: few enough to share out the work, enough to use each loaded weight several times.
const ROWS: usize = 16;

/// `y[m, n] = Σ_k x[m, k] · weight[n, k]` for `x [.., K]`, `weight [N, K]`; sums in f64.
pub fn product(x: &HostTensor, weight: &HostTensor) -> HostTensor {
    let (n, k) = (weight.shape[0], weight.shape[1]);
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("x has at least one dimension") = n;
    let weights = Weights::new(&weight.data, n, k);
    let mut y = HostTensor::zeros(shape);
    y.data.par_chunks_mut(ROWS * n).zip(x.data.par_chunks(ROWS * k)).for_each(|(out, rows)| {
        weights.products(rows, |row, column, sum| out[row * n + column] = sum as f32);
    });
    y
}

/// `y[image, o.., n] = Σ_{taps, c} x[image, o · stride + tap · dilation − before, c] · weight[n, tap.., c]` over one to
/// three spatial axes, with `x` zero outside the picture; sums in f64.
///
/// `x [images, .., C]`, `weight [N, taps .., C / groups]`; `size` is the output's, and `stride`, `before` (zeros before
/// the first pixel) and `dilation` have one entry for each axis. Column n sees only the channels of its group.
pub fn convolution(
    x: &HostTensor,
    weight: &HostTensor,
    size: &[usize],
    stride: &[usize],
    before: &[usize],
    dilation: &[usize],
    groups: usize,
) -> HostTensor {
    let axes = size.len();
    let (images, c) = (x.shape[0], x.shape[axes + 1]);
    let (n, per_group) = (weight.shape[0], weight.shape[axes + 1]);
    let (picture, taps) = (&x.shape[1..=axes], &weight.shape[1..=axes]);
    let tap_count = taps.iter().product::<usize>();
    let k = tap_count * per_group;
    let columns = n / groups;
    let weights: Vec<Weights> =
        (0..groups).map(|g| Weights::new(&weight.data[g * columns * k..][..columns * k], columns, k)).collect();

    let mut shape = vec![images];
    shape.extend(size);
    shape.push(n);
    let mut y = HostTensor::zeros(shape);
    let line = size[axes - 1]; // output positions along the last axis: what one task computes
    let lines_per_image = size[..axes - 1].iter().product::<usize>();
    y.data.par_chunks_mut(line * n).enumerate().for_each(|(number, out)| {
        let image = number / lines_per_image;
        for (g, weights) in weights.iter().enumerate() {
            // What lies under the window at each position of this line, [line, taps.., C / groups]; zeros where the
            // window hangs over the edge.
            let mut patches = vec![0.0f32; line * k];
            for (index, patch) in patches.chunks_exact_mut(per_group).enumerate() {
                let at = unflatten(number % lines_per_image * line + index / tap_count, size);
                let tap = unflatten(index % tap_count, taps);
                let pixel = (0..axes).try_fold(image, |pixel, axis| {
                    let position = (at[axis] * stride[axis] + tap[axis] * dilation[axis]).checked_sub(before[axis])?;
                    (position < picture[axis]).then(|| pixel * picture[axis] + position)
                });
                if let Some(pixel) = pixel {
                    patch.copy_from_slice(&x.data[pixel * c + g * per_group..][..per_group]);
                }
            }
            weights.products(&patches, |at, column, sum| out[at * n + g * columns + column] = sum as f32);
        }
    });
    y
}

/// The index along each axis of the element at a flat index.
fn unflatten(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, size) in index.iter_mut().zip(shape).rev() {
        *i = flat % size;
        flat /= size;
    }
    index
}

/// `x [.., C]` plus `rows` of C numbers, each added to an equal share of consecutive rows of `x`: one row (a bias), one
/// per image, or one per row.
pub fn add_rows(x: &HostTensor, rows: &HostTensor) -> HostTensor {
    let channels = x.shape[x.shape.len() - 1];
    let elements = channels * (x.len() / rows.len().max(1)); // of x that share a row
    let sum = |(i, value): (usize, &f32)| value + rows.data[i / elements * channels + i % channels];
    HostTensor { shape: x.shape.clone(), data: x.data.iter().enumerate().map(sum).collect() }
}

/// Columns `first` to `first + count` of a matrix with any number of rows, `[rows, count]`.
pub fn columns(x: &HostTensor, first: usize, count: usize) -> HostTensor {
    let width = x.shape.last().copied().unwrap_or(1);
    let data: Vec<f32> = x.data.chunks(width).flat_map(|row| &row[first..first + count]).copied().collect();
    HostTensor { shape: vec![data.len() / count.max(1), count], data }
}

/// Single elements of [`product`], by their flat index.
pub fn product_at(x: &HostTensor, weight: &HostTensor, elements: &[usize]) -> Vec<f32> {
    let (n, k) = (weight.shape[0], weight.shape[1]);
    let sum = |&element: &usize| {
        let (row, column) = (&x.data[element / n * k..][..k], &weight.data[element % n * k..][..k]);
        row.iter().zip(column).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32
    };
    elements.iter().map(sum).collect()
}

/// Single elements of [`convolution`], by their flat index.
#[expect(clippy::too_many_arguments, reason = "those of `convolution`, and which elements")]
pub fn convolution_at(
    x: &HostTensor,
    weight: &HostTensor,
    size: &[usize],
    stride: &[usize],
    before: &[usize],
    dilation: &[usize],
    groups: usize,
    elements: &[usize],
) -> Vec<f32> {
    let axes = size.len();
    let (c, n, per_group) = (x.shape[axes + 1], weight.shape[0], weight.shape[axes + 1]);
    let (picture, taps) = (&x.shape[1..=axes], &weight.shape[1..=axes]);
    let positions = size.iter().product::<usize>();
    let tap_count = taps.iter().product::<usize>();
    let sum = |&element: &usize| {
        let (column, position) = (element % n, element / n);
        let at = unflatten(position % positions, size);
        let mut sum = 0.0;
        for tap_index in 0..tap_count {
            let tap = unflatten(tap_index, taps);
            let pixel = (0..axes).try_fold(position / positions, |pixel, axis| {
                let along = (at[axis] * stride[axis] + tap[axis] * dilation[axis]).checked_sub(before[axis])?;
                (along < picture[axis]).then(|| pixel * picture[axis] + along)
            });
            let Some(pixel) = pixel else { continue };
            let values = &x.data[pixel * c + column / (n / groups) * per_group..][..per_group];
            let weights = &weight.data[(column * tap_count + tap_index) * per_group..][..per_group];
            sum += values.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
        }
        sum as f32
    };
    elements.iter().map(sum).collect()
}
