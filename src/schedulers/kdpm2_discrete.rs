//! DPM2 of Katherine Crowson's k-diffusion: midpoint steps for dx/dσ = (x − x_0)/σ, after algorithm 2 of Karras et al.
//! 2022 (arXiv:2206.00364) and DPM-Solver-2 of Lu et al. 2022 (arXiv:2206.00927); and its ancestral variant, which goes
//! a little too far down and adds the missing noise afresh.
//!
//! Each step calls the model twice: an Euler step to the midpoint, which lies between the two noise levels in log σ,
//! then the whole step from its start with the derivative found at the midpoint. The last step, to σ = 0, is Euler's
//! alone.

use super::betas::{Noising, stored};
use super::combination::Combination;
use super::options::SchedulerClass;
use super::sigmas::{SigmaTable, ancestral, init_noise_sigma, k_diffusion};
use super::step::{Schedule, Step, X0};
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::Draw;

/// Memory: where the step started.
const SAMPLE: usize = 0;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let levels = k_diffusion(scheduler, sampling)?;
    let sigmas = &levels.sigmas;
    let table = SigmaTable::new(scheduler);
    let is_ancestral = config.class == SchedulerClass::Kdpm2AncestralDiscrete;
    let n = levels.timesteps.len();
    // One call of the model at noise level `sigma`; the step's own noise level for pictures noised to it is `level`.
    let call = |timestep: f64, sigma: f64, level: f64| {
        let x0 = X0::new(config.prediction_type, 1.0, sigma, config.clip);
        Step { input_scale: 1.0 / sigma.hypot(1.0), ..Step::new(timestep, x0, Noising { signal: 1.0, noise: level }) }
    };
    let mut steps = vec![];
    for i in sampling.begin(n)?..n {
        let (sigma, sigma_next) = (sigmas[i], sigmas[i + 1]);
        let (sigma_down, sigma_up) = if is_ancestral { ancestral(sigma, sigma_next) } else { (sigma_next, 0.0) };
        // The geometric mean; 0 for the last step.
        let sigma_interpol = stored((sigma * sigma_down).sqrt());
        let derivative = (Combination::sample() - Combination::x0()) / sigma;
        steps.push(Step {
            prev_sample: Combination::sample() + (sigma_interpol - sigma) * derivative,
            memory: vec![Combination::sample()],
            ..call(levels.timesteps[i], sigma, sigma)
        });
        if i + 1 < n {
            let derivative = (Combination::sample() - Combination::x0()) / sigma_interpol;
            let step = (sigma_down - sigma) * derivative + sigma_up * Combination::noise();
            steps.push(Step {
                prev_sample: Combination::memory(SAMPLE) + step,
                memory: vec![Combination::memory(SAMPLE)],
                draw: Draw::fresh_if(is_ancestral),
                continues: true,
                ..call(table.timestep_of(sigma_interpol), sigma_interpol, sigma_next)
            });
        }
    }
    Ok(Schedule { memory_slots: 1, steps, ..Schedule::new(init_noise_sigma(config, sigmas)) })
}
