//! The updates of an optimizer, in f64.

use crate::tensor::HostTensor;

/// The factor on every gradient, by the coefficients 1 / loss scale, largest norm and whether there is a step, and by
/// the sum of the squares of all gradients; `None`: no step.
fn factor(coefficients: &HostTensor, norm: &HostTensor) -> Option<f64> {
    let [inverse, longest, step] = [0, 1, 2].map(|i| f64::from(coefficients.data[i]));
    let sum = f64::from(norm.data[0]);
    (sum.is_finite() && step != 0.0).then(|| inverse * (longest / (sum.sqrt() * inverse + 1e-6)).min(1.0))
}

/// `y = keep · state + take · v`, `v = factor · value + decay · parameter`, or its square. Without `norm` the factor is
/// 1. `at` says where keep and take, and with `parameter` decay, are among the coefficients.
pub fn moving_average(
    [state, value, coefficients]: [&HostTensor; 3],
    norm: Option<&HostTensor>,
    parameter: Option<&HostTensor>,
    [keep, take, decay]: [usize; 3],
    squared: bool,
) -> HostTensor {
    let at = |i: usize| f64::from(coefficients.data[i]);
    let Some(factor) = norm.map_or(Some(1.0), |norm| factor(coefficients, norm)) else { return state.clone() };
    let data = (0..state.len()).map(|i| {
        let decayed = parameter.map_or(0.0, |parameter| at(decay) * f64::from(parameter.data[i]));
        let v = factor * f64::from(value.data[i]) + decayed;
        (at(keep) * f64::from(state.data[i]) + at(take) * if squared { v * v } else { v }) as f32
    });
    HostTensor { shape: state.shape.clone(), data: data.collect() }
}

/// `y = (1 − decay) · parameter − rate · u`, `u = first`, or `first · correction_1 / (√(second · correction_2) + eps)`.
/// The coefficients from `at` on are rate, decay, correction_1, correction_2 and eps.
pub fn parameter_step(
    [parameter, first, coefficients, norm]: [&HostTensor; 4],
    second: Option<&HostTensor>,
    at: usize,
) -> HostTensor {
    if factor(coefficients, norm).is_none() {
        return parameter.clone();
    }
    let [rate, decay, first_correction, second_correction, eps] =
        [0, 1, 2, 3, 4].map(|i| f64::from(coefficients.data[at + i]));
    let data = (0..parameter.len()).map(|i| {
        let u = f64::from(first.data[i]);
        let u = second
            .map_or(u, |second| u * first_correction / ((f64::from(second.data[i]) * second_correction).sqrt() + eps));
        ((1.0 - decay) * f64::from(parameter.data[i]) - rate * u) as f32
    });
    HostTensor { shape: parameter.shape.clone(), data: data.collect() }
}

/// `y = x / (√squares + eps)`
pub fn unit_norm(x: &HostTensor, squares: &HostTensor, eps: f64) -> HostTensor {
    let length = f64::from(squares.data[0]).sqrt() + eps;
    HostTensor { shape: x.shape.clone(), data: x.data.iter().map(|v| (f64::from(*v) / length) as f32).collect() }
}
