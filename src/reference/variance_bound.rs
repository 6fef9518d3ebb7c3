//! The bound that a learned variance is trained with, and its gradient, in f64.

use crate::tensor::HostTensor;

/// Half the distance of two of the 256 levels of [−1, 1].
const HALF: f64 = 1.0 / 255.0;

/// The two ends of the level at `x`, in deviations from `mean`; the lowest and the highest level take all beyond them.
fn ends(x: f64, mean: f64, deviation: f64) -> (f64, f64) {
    let place = |edge: f64| (edge - mean) / deviation;
    let low = if x < -1.0 + HALF { f64::NEG_INFINITY } else { place(x - HALF) };
    let high = if x > 1.0 - HALF { f64::INFINITY } else { place(x + HALF) };
    (low, high)
}

/// The logarithm of the probability that N(`mean`, `deviation`²), rounded to the 256 levels of [−1, 1], gives the level
/// at `x` (Ho et al. 2020, eq. 13).
pub fn log_level_probability(x: f64, mean: f64, deviation: f64) -> f64 {
    let (low, high) = ends(x, mean, deviation);
    // In the lower tail, where logarithms are exact; the upper one is its mirror image.
    let (low, high) = if low > 0.0 { (-high, -low) } else { (low, high) };
    let (below_low, below_high) = (log_normal_cdf(low), log_normal_cdf(high));
    below_high + (-(below_low - below_high).exp_m1()).ln()
}

/// log Φ(z).
fn log_normal_cdf(z: f64) -> f64 {
    if z > -30.0 {
        return (0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)).ln();
    }
    // The asymptotic series, whose next term is below 1e-7 of the sum's last one here.
    let s = 1.0 / (z * z);
    -0.5 * z * z - (-z).ln() - 0.5 * std::f64::consts::TAU.ln() + (-s * (1.0 - 3.0 * s * (1.0 - 5.0 * s))).ln_1p()
}

/// What the bound of an element depends on.
struct Element {
    x0: f64,
    /// The picture that the model sees.
    estimate: f64,
    posterior: f64,
    first: bool,
    scale: f64,
    log_small: f64,
    log_variance: f64,
    /// d log_variance / d v.
    slope: f64,
}

fn elements<'a>(
    [variance, original, sample, prediction, coefficients, log_variances]: [&'a HostTensor; 6],
) -> impl Iterator<Item = Element> + 'a {
    let of_image = variance.len() / coefficients.shape[0];
    (0..variance.len()).map(move |i| {
        let n = i / of_image;
        let [of_sample, of_prediction, posterior, first, scale] =
            [0, 1, 2, 3, 4].map(|k| f64::from(coefficients.data[5 * n + k]));
        let [small, large] = [0, 1].map(|k| f64::from(log_variances.data[2 * n + k]));
        let share = (f64::from(variance.data[i]) + 1.0) / 2.0;
        Element {
            x0: original.data[i].into(),
            estimate: of_sample * f64::from(sample.data[i]) + of_prediction * f64::from(prediction.data[i]),
            posterior,
            first: first > 0.5,
            scale,
            log_small: small,
            log_variance: share * large + (1.0 - share) * small,
            slope: (large - small) / 2.0,
        }
    })
}

/// `y = scale · L`, with L as [`crate::ops::variance_bound::VarianceBound`] says.
pub fn variance_bound(inputs: [&HostTensor; 6]) -> HostTensor {
    let data = elements(inputs).map(|e| {
        let bound = if e.first {
            -log_level_probability(e.x0, e.estimate, (0.5 * e.log_variance).exp())
        } else {
            // D_KL(N(m_1, s_1²) ‖ N(m_2, s_2²)) = log(s_2 / s_1) + (s_1² + (m_1 − m_2)²) / (2 s_2²) − ½
            let distance = e.posterior * (e.x0 - e.estimate);
            0.5 * (e.log_variance - e.log_small) - 0.5
                + (e.log_small.exp() + distance * distance) / (2.0 * e.log_variance.exp())
        };
        (e.scale * bound) as f32
    });
    HostTensor { shape: inputs[0].shape.clone(), data: data.collect() }
}

/// The gradient of [`variance_bound`] with respect to its first input, times `dy`.
pub fn variance_bound_gradient(inputs: [&HostTensor; 6], dy: &HostTensor) -> HostTensor {
    let data = elements(inputs).zip(&dy.data).map(|(e, dy)| {
        let of_log_variance = if e.first {
            let deviation = (0.5 * e.log_variance).exp();
            let (low, high) = ends(e.x0, e.estimate, deviation);
            let log_p = log_level_probability(e.x0, e.estimate, deviation);
            // z φ(z) / P; at an infinite end it is 0.
            let part = |z: f64| {
                let log_density = -0.5 * z * z - 0.5 * std::f64::consts::TAU.ln();
                if z.is_finite() { z * (log_density - log_p).exp() } else { 0.0 }
            };
            0.5 * (part(high) - part(low))
        } else {
            let distance = e.posterior * (e.x0 - e.estimate);
            0.5 - (e.log_small.exp() + distance * distance) / (2.0 * e.log_variance.exp())
        };
        (e.scale * e.slope * of_log_variance * f64::from(*dy)) as f32
    });
    HostTensor { shape: inputs[0].shape.clone(), data: data.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_levels_add_up_and_have_tails() {
        for (mean, deviation) in [(0.1, 0.007), (-0.99, 0.02), (3.0, 0.5), (0.0, 1.0)] {
            let all: f64 = (0..256)
                .map(|level| log_level_probability(f64::from(level) / 127.5 - 1.0, mean, deviation).exp())
                .sum();
            assert!((all - 1.0).abs() < 1e-12, "{mean} {deviation}: {all}");
        }
        // torch.special.log_ndtr, on both sides of where the series begins.
        assert!((log_normal_cdf(-29.9999) - -454.318_240_6).abs() < 1e-6, "{}", log_normal_cdf(-29.9999));
        assert!((log_normal_cdf(-30.0001) - -454.324_247_3).abs() < 1e-6, "{}", log_normal_cdf(-30.0001));
        let (low, high) = (log_level_probability(0.5, -0.9, 0.005), log_level_probability(-0.9, 0.5, 0.005));
        assert!(low < -30_000.0 && (low / high - 1.0).abs() < 1e-9, "{low} {high}");
    }
}
