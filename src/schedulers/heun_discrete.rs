//! Heun's method: Karras et al. 2022 (arXiv:2206.00364), algorithm 1.
//!
//! Each step calls the model twice: an Euler step from σ_i to σ_{i+1}, then the same step again with the mean of the
//! derivatives at its two ends. The last step, to σ = 0, is Euler's alone.

use super::betas::Noising;
use super::combination::Combination;
use super::sigmas::{init_noise_sigma, k_diffusion};
use super::step::{Schedule, Step, X0};
use super::{Sampling, Scheduler};
use crate::Result;

// Memory: where the step started, and the derivative there.
const SAMPLE: usize = 0;
const DERIVATIVE: usize = 1;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let levels = k_diffusion(scheduler, sampling)?;
    let sigmas = &levels.sigmas;
    let n = levels.timesteps.len();
    let step_at = |i: usize, prev_sample: Combination, memory: Vec<Combination>| {
        let x0 = X0::new(config.prediction_type, 1.0, sigmas[i], config.clip);
        Step {
            input_scale: 1.0 / sigmas[i].hypot(1.0),
            prev_sample,
            memory,
            ..Step::new(levels.timesteps[i], x0, Noising { signal: 1.0, noise: sigmas[i] })
        }
    };
    let mut steps = vec![];
    for i in sampling.begin(n)?..n {
        let (sigma, sigma_next) = (sigmas[i], sigmas[i + 1]);
        let dt = sigma_next - sigma;
        // Line 5 and 6: the derivative at σ_i and Euler's step.
        let derivative = (Combination::sample() - Combination::x0()) / sigma;
        let euler = Combination::sample() + dt * derivative.clone();
        steps.push(step_at(i, euler, vec![Combination::sample(), derivative]));
        // Line 8 and 9: the derivative at σ_{i+1} and the step with the mean of both.
        if i + 1 < n {
            let derivative_next = (Combination::sample() - Combination::x0()) / sigma_next;
            let mean = (Combination::memory(DERIVATIVE) + derivative_next) / 2.0;
            let keep = vec![Combination::memory(SAMPLE), Combination::memory(DERIVATIVE)];
            let second = step_at(i + 1, Combination::memory(SAMPLE) + dt * mean, keep);
            steps.push(Step { continues: true, ..second });
        }
    }
    Ok(Schedule { memory_slots: 2, steps, ..Schedule::new(init_noise_sigma(config, sigmas)) })
}
