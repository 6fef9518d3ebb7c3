//! "DPM++ SDE" of Katherine Crowson's k-diffusion: the midpoint steps of DPM-Solver++ (Lu et al. 2022,
//! arXiv:2211.01095) for the stochastic equation, with noise that follows one Brownian path over the noise levels.
//!
//! Each step calls the model twice: a step to the midpoint, which lies between the two noise levels in log σ, then the
//! whole step from its start with the x_0 found at the midpoint. Both go a little too far down and add the missing
//! noise (see [`ancestral`]), which is what the path does between the two levels. The last step, to σ = 0, is Euler's
//! alone.
//!
//! The path depends on its seed and the levels only, so that a longer run approaches the same picture. diffusers draws
//! that seed by chance unless its config has `noise_sampler_seed`; here it is the picture's own seed then.

use super::betas::{Noising, stored};
use super::combination::Combination;
use super::sigmas::{SigmaTable, ancestral, init_noise_sigma, k_diffusion};
use super::step::{Schedule, Step, X0};
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::{Draw, Increment};

/// Memory: where the step started.
const SAMPLE: usize = 0;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let levels = k_diffusion(scheduler, sampling)?;
    let sigmas = &levels.sigmas;
    let table = SigmaTable::new(scheduler);
    let n = levels.timesteps.len();
    let brownian = |from: f64, to: f64| {
        Draw::Brownian(Increment { range: [sigmas[n - 1], sigmas[0]], from, to, seed: config.noise_sampler_seed })
    };
    // One call of the model at noise level `sigma`; the step's own noise level for pictures noised to it is `level`.
    let call = |timestep: f64, sigma: f64, level: f64| {
        let x0 = X0::new(config.prediction_type, 1.0, sigma, config.clip);
        Step { input_scale: 1.0 / sigma.hypot(1.0), ..Step::new(timestep, x0, Noising { signal: 1.0, noise: level }) }
    };
    let mut steps = vec![];
    for i in sampling.begin(n)?..n {
        let (sigma, sigma_next) = (sigmas[i], sigmas[i + 1]);
        if sigma_next == 0.0 {
            let derivative = (Combination::sample() - Combination::x0()) / sigma;
            steps.push(Step {
                prev_sample: Combination::sample() - sigma * derivative,
                memory: vec![Combination::zero()],
                ..call(levels.timesteps[i], sigma, sigma)
            });
            continue;
        }
        let [from, middle, to] = times(sigma, sigma_next);
        let sigma_middle = (sigma * sigma_next).sqrt();
        steps.push(Step {
            prev_sample: update(sigma, sigma_middle, Combination::sample()),
            memory: vec![Combination::sample()],
            draw: brownian(from, middle),
            ..call(levels.timesteps[i], sigma, sigma)
        });
        steps.push(Step {
            prev_sample: update(sigma, sigma_next, Combination::memory(SAMPLE)),
            memory: vec![Combination::memory(SAMPLE)],
            draw: brownian(from, to),
            continues: true,
            ..call(table.timestep_of(sigma_middle), sigma_middle, sigma_next)
        });
    }
    Ok(Schedule { memory_slots: 1, steps, ..Schedule::new(init_noise_sigma(config, sigmas)) })
}

/// The step from level σ to level σ_next along the newest x_0: exact down to σ_down if x_0 does not change, then noise.
fn update(sigma: f64, sigma_next: f64, sample: Combination) -> Combination {
    let (sigma_down, sigma_up) = ancestral(sigma, sigma_next);
    let kept = sigma_down / sigma;
    kept * sample + (1.0 - kept) * Combination::x0() + sigma_up * Combination::noise()
}

/// The levels of a step and the one between them as the path is asked for them. diffusers has them from −ln σ, in
/// float32, and there the last bit counts: of 14.6 it is 1e-6, over which a path moves by about 1e-3.
fn times(sigma: f64, sigma_next: f64) -> [f64; 3] {
    let [t, t_next] = [sigma, sigma_next].map(|sigma| -stored(sigma.ln()));
    let middle = stored(t + 0.5 * stored(t_next - t));
    [t, middle, t_next].map(|t| stored((-t).exp()))
}
