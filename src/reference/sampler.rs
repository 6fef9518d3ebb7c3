//! The operations of a sampling step, from the formulas.

use crate::tensor::HostTensor;

/// `input_scale · state[0]`, `repeat` times along the batch.
pub fn model_input(state: &HostTensor, coefficients: &HostTensor, repeat: usize) -> HostTensor {
    let mut shape = state.shape[1..].to_vec();
    let sample = &state.data[..shape.iter().product()];
    shape[0] *= repeat;
    let scaled: Vec<f32> = sample.iter().map(|v| (f64::from(coefficients.data[0]) * f64::from(*v)) as f32).collect();
    HostTensor { shape, data: scaled.repeat(repeat) }
}

/// The element of `model_output` that belongs to element `i` of a sample with `channels` channels: the prediction, or
/// the variance.
fn output_at(model_output: &HostTensor, i: usize, channels: usize, variance: bool) -> f64 {
    let output_channels = *model_output.shape.last().expect("inference checked the shape");
    let shift = if variance { channels } else { 0 };
    f64::from(model_output.data[i / channels * output_channels + i % channels + shift])
}

/// `clamp(a · sample + b · model_output, ±clip)`.
pub fn pred_original_sample(state: &HostTensor, model_output: &HostTensor, coefficients: &HostTensor) -> HostTensor {
    let shape = state.shape[1..].to_vec();
    let channels = *shape.last().expect("inference checked the shape");
    let [_, a, b, clip] = [0, 1, 2, 3].map(|i| f64::from(coefficients.data[i]));
    HostTensor::from_fn(shape, |i| {
        let x0 = a * f64::from(state.data[i]) + b * output_at(model_output, i, channels, false);
        x0.max(-clip).min(clip) as f32
    })
}

/// Noise times the standard deviation that the model predicted in its last channels, v: √v, or if `range`, exp(½ ·
/// log-variance) with the log-variance interpolated between two bounds by v from −1 to 1.
pub fn scale_noise(
    noise: &HostTensor,
    model_output: &HostTensor,
    coefficients: &HostTensor,
    range: bool,
) -> HostTensor {
    let channels = *noise.shape.last().expect("inference checked the shape");
    let (min_log, max_log) = (f64::from(coefficients.data[4]), f64::from(coefficients.data[5]));
    HostTensor::from_fn(noise.shape.as_slice(), |i| {
        let v = output_at(model_output, i, channels, true);
        let fraction = (v + 1.0) / 2.0;
        let deviation = if range { (0.5 * (fraction * max_log + (1.0 - fraction) * min_log)).exp() } else { v.sqrt() };
        (deviation * f64::from(noise.data[i])) as f32
    })
}

/// `a · model_output + √(2a) · noise` with `a = 2 (r · ‖noise‖ / ‖model_output‖)²`, norms of single pictures averaged
/// over the batch; the noise where r, element 4 of the coefficients, is 0.
pub fn langevin_noise(noise: &HostTensor, model_output: &HostTensor, coefficients: &HostTensor) -> HostTensor {
    let (images, ratio) = (noise.shape[0], f64::from(coefficients.data[4]));
    if ratio == 0.0 {
        return noise.clone();
    }
    let mean_norm = |tensor: &HostTensor| {
        let norm = |image: &[f32]| image.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        tensor.data.chunks(tensor.len() / images).map(norm).sum::<f64>() / images as f64
    };
    let step_size = 2.0 * (ratio * mean_norm(noise) / mean_norm(model_output)).powi(2);
    HostTensor::from_fn(noise.shape.as_slice(), |i| {
        let (score, noise) = (f64::from(model_output.data[i]), f64::from(noise.data[i]));
        (step_size * score + (2.0 * step_size).sqrt() * noise) as f32
    })
}

/// Each row of the new state as a linear combination of sample, model output, x_0, noise and the old memory slots.
pub fn scheduler_step(
    state: &HostTensor,
    model_output: &HostTensor,
    x0: &HostTensor,
    noise: Option<&HostTensor>,
    coefficients: &HostTensor,
) -> HostTensor {
    let (slots, sample) = (state.shape[0] - 1, x0.len());
    let channels = *x0.shape.last().expect("inference checked the shape");
    HostTensor::from_fn(state.shape.as_slice(), |element| {
        let (row, i) = (element / sample, element % sample);
        let k = &coefficients.data[6 + row * (4 + slots)..][..4 + slots];
        let mut terms = vec![
            f64::from(state.data[i]),
            output_at(model_output, i, channels, false),
            f64::from(x0.data[i]),
            noise.map_or(0.0, |n| f64::from(n.data[i])),
        ];
        terms.extend((1..=slots).map(|slot| f64::from(state.data[slot * sample + i])));
        k.iter().zip(terms).map(|(k, term)| f64::from(*k) * term).sum::<f64>() as f32
    })
}

/// `Σ_b weights[b, n] · model_output[b, n]` for each image n.
pub fn guidance(model_output: &HostTensor, weights: &HostTensor) -> HostTensor {
    let (branches, n) = (weights.shape[0], weights.shape[1]);
    let mut shape = model_output.shape.clone();
    shape[0] = n;
    let elements: usize = shape.iter().product();
    let image = elements / n;
    HostTensor::from_fn(shape, |i| {
        let term = |b| f64::from(weights.data[b * n + i / image]) * f64::from(model_output.data[b * elements + i]);
        (0..branches).map(term).sum::<f64>() as f32
    })
}

/// `guided · (φ · std(prediction) / std(guided) + 1 − φ)` for each image.
pub fn guidance_rescale(guided: &HostTensor, model_output: &HostTensor, factor: f64, branch: usize) -> HostTensor {
    let image = guided.len() / guided.shape[0];
    let deviation = |values: &[f32]| {
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / image as f64;
        values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>().sqrt()
    };
    let predictions = model_output.data[branch * guided.len()..].chunks(image);
    let factors: Vec<f64> = guided
        .data
        .chunks(image)
        .zip(predictions)
        .map(|(g, p)| factor * deviation(p) / deviation(g) + 1.0 - factor)
        .collect();
    HostTensor::from_fn(guided.shape.as_slice(), |i| (f64::from(guided.data[i]) * factors[i / image]) as f32)
}

/// The state, with its sample blended with the noised original where the mask is not 1.
pub fn masked_latents(
    state: &HostTensor,
    original: &HostTensor,
    noise: &HostTensor,
    mask: &HostTensor,
    level: &HostTensor,
) -> HostTensor {
    let (channels, pixels) = (state.shape[state.shape.len() - 1], mask.len());
    let [a, b] = [0, 1].map(|i| f64::from(level.data[i]));
    HostTensor::from_fn(state.shape.as_slice(), |i| {
        if i >= original.len() {
            return state.data[i];
        }
        let m = f64::from(mask.data[i / channels % pixels]);
        let kept = a * f64::from(original.data[i]) + b * f64::from(noise.data[i]);
        (m * f64::from(state.data[i]) + (1.0 - m) * kept) as f32
    })
}

/// `a · original + b · noise` for each image.
pub fn add_noise(original: &HostTensor, noise: &HostTensor, coefficients: &HostTensor) -> HostTensor {
    let image = original.len() / original.shape[0];
    HostTensor::from_fn(original.shape.as_slice(), |i| {
        let k = &coefficients.data[2 * (i / image)..][..2];
        (f64::from(k[0]) * f64::from(original.data[i]) + f64::from(k[1]) * f64::from(noise.data[i])) as f32
    })
}
