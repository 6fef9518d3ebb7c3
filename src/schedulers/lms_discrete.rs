//! LMS: a linear multistep method (Adams–Bashforth on uneven steps) for dx/dσ = (x − x_0)/σ, from Katherine Crowson's
//! k-diffusion. The equation is Karras et al. 2022 (arXiv:2206.00364), eq. 1 with σ(t) = t.
//!
//! The derivative is interpolated by a polynomial through its last values, up to four, and integrated over the step.

use super::betas::Noising;
use super::combination::Combination;
use super::sigmas::{init_noise_sigma, k_diffusion};
use super::step::{Schedule, Step, X0};
use super::{Sampling, Scheduler};
use crate::Result;

/// Number of derivatives that a step uses, at most.
const ORDER: usize = 4;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let levels = k_diffusion(scheduler, sampling)?;
    let sigmas = &levels.sigmas;
    let begin = sampling.begin(levels.timesteps.len())?;
    let steps = (begin..levels.timesteps.len()).map(|i| {
        let sigma = sigmas[i];
        let derivative = (Combination::sample() - Combination::x0()) / sigma;
        // diffusers takes the order from the step's index even when the run begins later (image-to-image) and there are
        // not so many derivatives yet; the missing ones are the zeros that memory holds.
        let order = ORDER.min(i + 1);
        let derivatives = |back: usize| if back == 0 { derivative.clone() } else { Combination::memory(back - 1) };
        let step = (0..order).map(|j| lms_coefficient(sigmas, i, order, j) * derivatives(j));
        Step {
            input_scale: 1.0 / sigma.hypot(1.0),
            prev_sample: step.fold(Combination::sample(), |sum, term| sum + term),
            memory: (0..ORDER - 1).map(derivatives).collect(),
            ..Step::new(
                levels.timesteps[i],
                X0::new(config.prediction_type, 1.0, sigma, config.clip),
                Noising { signal: 1.0, noise: sigma },
            )
        }
    });
    let steps = steps.collect();
    Ok(Schedule { memory_slots: ORDER - 1, steps, ..Schedule::new(init_noise_sigma(config, sigmas)) })
}

/// ∫ from σ_i to σ_{i+1} of the j-th Lagrange polynomial through the last `order` noise levels.
fn lms_coefficient(sigmas: &[f64], i: usize, order: usize, j: usize) -> f64 {
    let lagrange = |tau: f64| -> f64 {
        let others = (0..order).filter(|k| *k != j);
        others.map(|k| (tau - sigmas[i - k]) / (sigmas[i - j] - sigmas[i - k])).product()
    };
    // Gauss–Legendre with two points is exact for polynomials of degree 3.
    let (middle, half) = (0.5 * (sigmas[i] + sigmas[i + 1]), 0.5 * (sigmas[i + 1] - sigmas[i]));
    let node = half / 3.0_f64.sqrt();
    half * (lagrange(middle - node) + lagrange(middle + node))
}
