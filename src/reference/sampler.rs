//! The operations of a sampling step, from the formulas.

use crate::ops::scale_noise::LearnedVariance;
use crate::tensor::HostTensor;

/// `input_scale · state[0]`, `repeat` times along the batch.
pub fn model_input(state: &HostTensor, coefficients: &HostTensor, repeat: usize) -> HostTensor {
    let mut shape = state.shape[1..].to_vec();
    let sample = &state.data[..shape.iter().product()];
    shape[0] *= repeat;
    let scaled: Vec<f32> = sample.iter().map(|v| (f64::from(coefficients.data[0]) * f64::from(*v)) as f32).collect();
    HostTensor { shape, data: scaled.repeat(repeat) }
}

/// The element of `model_output` that belongs to element `i` of a sample with `channels` channels: its own, or the one of the variance.
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

/// Noise times the standard deviation that the model predicted.
pub fn scale_noise(
    noise: &HostTensor,
    model_output: &HostTensor,
    coefficients: &HostTensor,
    kind: LearnedVariance,
) -> HostTensor {
    let channels = *noise.shape.last().expect("inference checked the shape");
    let (min_log, max_log) = (f64::from(coefficients.data[4]), f64::from(coefficients.data[5]));
    HostTensor::from_fn(noise.shape.as_slice(), |i| {
        let v = output_at(model_output, i, channels, true);
        let fraction = (v + 1.0) / 2.0;
        let deviation = match kind {
            LearnedVariance::Direct => v.sqrt(),
            LearnedVariance::Range => (0.5 * (fraction * max_log + (1.0 - fraction) * min_log)).exp(),
        };
        (deviation * f64::from(noise.data[i])) as f32
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

/// `u + scale · (c − u)` for each image.
pub fn guidance(model_output: &HostTensor, scale: &HostTensor) -> HostTensor {
    let mut shape = model_output.shape.clone();
    shape[0] /= 2;
    let half = model_output.len() / 2;
    let image = half / shape[0];
    HostTensor::from_fn(shape, |i| {
        let (u, c) = (f64::from(model_output.data[i]), f64::from(model_output.data[half + i]));
        (u + f64::from(scale.data[i / image]) * (c - u)) as f32
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
