//! LCM: Luo, Tan, Huang, Li & Zhao 2023, "Latent Consistency Models" (arXiv:2310.04378), algorithm 3 (multistep
//! sampling), with the boundary condition of Song et al. 2023 (arXiv:2303.01469), section 3.
//!
//! The model jumps to the clean picture in one call; more steps noise it again to a lower level and jump once more.

use super::combination::Combination;
use super::step::{Schedule, Step, X0};
use super::timesteps::distilled;
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::Draw;

/// σ_data of the boundary condition.
const SIGMA_DATA: f64 = 0.5;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let Scheduler { config, noise_schedule } = scheduler;
    let timesteps = distilled(config, sampling)?;
    let begin = sampling.begin(timesteps.len())?;
    let steps = (begin..timesteps.len()).map(|i| {
        let timestep = timesteps[i];
        let at = noise_schedule.noising(timestep)?;
        // c_skip and c_out: at timestep 0 the jump must lead nowhere.
        let scaled_timestep = timestep as f64 * config.timestep_scaling;
        let c_skip = SIGMA_DATA.powi(2) / (scaled_timestep.powi(2) + SIGMA_DATA.powi(2));
        let c_out = scaled_timestep / scaled_timestep.hypot(SIGMA_DATA);
        let denoised = c_out * Combination::x0() + c_skip * Combination::sample();
        let x0 = X0::new(config.prediction_type, at.signal, at.noise, config.clip);
        let step = Step::new(timestep as f64, x0, at);
        Ok(match timesteps.get(i + 1) {
            None => Step { prev_sample: denoised, ..step },
            Some(&prev_timestep) => {
                let prev = noise_schedule.noising(prev_timestep)?;
                let prev_sample = prev.signal * denoised + prev.noise * Combination::noise();
                Step { prev_sample, draw: Draw::Fresh, ..step }
            }
        })
    });
    Ok(Schedule { steps: steps.collect::<Result<_>>()?, ..Schedule::new(1.0) })
}
