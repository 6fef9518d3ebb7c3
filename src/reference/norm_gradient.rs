//! What normalisation passes back, in f64.

use crate::tensor::HostTensor;

/// The elements of each group: images × groups lists of flat indices into `x [images, positions, channels]`.
fn groups(x: &HostTensor, images: usize, groups: usize) -> Vec<Vec<usize>> {
    let channels = x.shape[x.shape.len() - 1];
    let (size, width) = (x.len() / images, channels / groups);
    let of = |image: usize, group: usize| {
        let in_group = move |at: &usize| at % channels / width == group;
        (0..size).filter(in_group).map(|at| image * size + at).collect()
    };
    (0..images).flat_map(|image| (0..groups).map(move |group| (image, group))).map(|(i, g)| of(i, g)).collect()
}

/// The gradient of the normalised values: `dy · gamma · (1 + scale)`. `scale` is `modulation` and the number of the
/// part of C columns that holds it.
fn upstream(dy: &HostTensor, gamma: Option<&HostTensor>, scale: Option<(&HostTensor, usize)>) -> Vec<f64> {
    let channels = dy.shape[dy.shape.len() - 1];
    let factor = |at: usize| {
        let channel = at % channels;
        let scale = scale.map_or(0.0, |(modulation, part)| {
            let columns = modulation.shape[modulation.shape.len() - 1];
            let span = dy.len() / channels / (modulation.len() / columns);
            f64::from(modulation.data[at / channels / span * columns + part * channels + channel])
        });
        gamma.map_or(1.0, |gamma| f64::from(gamma.data[channel])) * (1.0 + scale)
    };
    dy.data.iter().enumerate().map(|(at, dy)| f64::from(*dy) * factor(at)).collect()
}

/// Of each group: mean, `r = 1 / √(variance + eps)`, mean of g, mean of g · n, for n = (x − mean) · r and its gradient
/// g; `[images, groups, 4]`. Not `centered`: the mean is taken for 0.
#[expect(clippy::too_many_arguments, reason = "those of the operation")]
pub fn norm_moments(
    x: &HostTensor,
    dy: &HostTensor,
    gamma: Option<&HostTensor>,
    scale: Option<(&HostTensor, usize)>,
    images: usize,
    group_count: usize,
    eps: f64,
    centered: bool,
) -> HostTensor {
    let g = upstream(dy, gamma, scale);
    let mut data = Vec::new();
    for group in groups(x, images, group_count) {
        let count = group.len() as f64;
        let value = |at: &usize| f64::from(x.data[*at]);
        let mean = if centered { group.iter().map(value).sum::<f64>() / count } else { 0.0 };
        let variance = group.iter().map(|at| (value(at) - mean).powi(2)).sum::<f64>() / count;
        let r = 1.0 / (variance + eps).sqrt();
        let of_g = group.iter().map(|at| g[*at]).sum::<f64>() / count;
        let of_gn = group.iter().map(|at| g[*at] * (value(at) - mean) * r).sum::<f64>() / count;
        data.extend([mean, r, of_g, of_gn].map(|v| v as f32));
    }
    HostTensor { shape: vec![images, group_count, 4], data }
}

/// `dx = r · (g − mean of g − n · mean of g · n)` from `moments [images, groups, 4]`.
pub fn norm_gradient(
    x: &HostTensor,
    dy: &HostTensor,
    moments: &HostTensor,
    gamma: Option<&HostTensor>,
    scale: Option<(&HostTensor, usize)>,
    centered: bool,
) -> HostTensor {
    let g = upstream(dy, gamma, scale);
    let mut dx = HostTensor::zeros(x.shape.clone());
    for (number, group) in groups(x, moments.shape[0], moments.shape[1]).into_iter().enumerate() {
        let [mean, r, of_g, of_gn] = [0, 1, 2, 3].map(|i| f64::from(moments.data[4 * number + i]));
        for at in group {
            let n = (f64::from(x.data[at]) - mean) * r;
            dx.data[at] = (r * (g[at] - if centered { of_g } else { 0.0 } - n * of_gn)) as f32;
        }
    }
    dx
}

/// Of each channel of each image, over its positions: the sums of dy · n and of dy; `[images, 2, channels]`. A row of
/// `moments [.., 4]` belongs to a group of an image, or with `rows` to a position.
pub fn norm_sums(x: &HostTensor, dy: &HostTensor, moments: &HostTensor, rows: bool) -> HostTensor {
    let (images, channels) = (x.shape[0], x.shape[x.shape.len() - 1]);
    let (size, group_count) = (x.len() / images, moments.len() / 4 / images);
    let mut sums = vec![0.0f64; images * 2 * channels];
    for (at, (x, dy)) in x.data.iter().zip(&dy.data).enumerate() {
        let (image, channel) = (at / size, at % channels);
        let group = if rows { at / channels } else { image * group_count + channel / (channels / group_count) };
        let [mean, r] = [0, 1].map(|i| f64::from(moments.data[4 * group + i]));
        sums[image * 2 * channels + channel] += f64::from(*dy) * (f64::from(*x) - mean) * r;
        sums[(image * 2 + 1) * channels + channel] += f64::from(*dy);
    }
    HostTensor { shape: vec![images, 2, channels], data: sums.into_iter().map(|v| v as f32).collect() }
}
