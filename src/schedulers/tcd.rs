//! TCD: Zheng, Hu, Fan, Wang, Zhang & Ling 2024, "Trajectory Consistency Distillation" (arXiv:2402.19159), algorithm 4
//! (strategic stochastic sampling).
//!
//! The model jumps along the trajectory to timestep s = (1 − γ)·t', short of the next timestep t', and noise takes it
//! back up to t'. γ is diffusers' `eta`: 0 is deterministic, 1 jumps to the clean picture each time, as LCM.

use super::betas::stored;
use super::combination::Combination;
use super::options::Clip;
use super::step::{Schedule, Step, X0, pred_epsilon};
use super::timesteps::distilled;
use super::{Sampling, Scheduler};
use crate::Result;
use crate::refusal::Refusal;
use crate::rng::Draw;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let Scheduler { config, noise_schedule } = scheduler;
    let eta = sampling.eta;
    if eta > 1.0 {
        return Err(Refusal::of_value("eta", eta, "TCD takes 0 to 1").into());
    }
    let timesteps = distilled(config, sampling)?;
    let begin = sampling.begin(timesteps.len())?;
    let alphas_cumprod = &noise_schedule.alphas_cumprod;
    let steps = (begin..timesteps.len()).map(|i| {
        let timestep = timesteps[i];
        let prev_timestep = timesteps.get(i + 1).copied().unwrap_or(0);
        // Rounded to float32 as torch multiplies it, because the next whole number below is taken.
        let timestep_s = stored(stored(1.0 - eta) * prev_timestep as f64).floor() as usize;
        let (at, at_s) = (noise_schedule.noising(timestep)?, noise_schedule.noising(timestep_s)?);
        let pred_epsilon = pred_epsilon(config.prediction_type, at.signal, at.noise);
        let pred_noised_sample = at_s.signal * Combination::x0() + at_s.noise * pred_epsilon;

        let x0 = X0::new(config.prediction_type, at.signal, at.noise, Clip::None);
        let step = Step::new(timestep as f64, x0, at);
        Ok(if eta > 0.0 && i + 1 < timesteps.len() {
            let alpha_prod_t_prev_s = stored(alphas_cumprod[prev_timestep] / alphas_cumprod[timestep_s]);
            let noise = (1.0 - alpha_prod_t_prev_s).max(0.0).sqrt() * Combination::noise();
            let prev_sample = alpha_prod_t_prev_s.sqrt() * pred_noised_sample + noise;
            Step { prev_sample, draw: Draw::Fresh, ..step }
        } else {
            Step { prev_sample: pred_noised_sample, ..step }
        })
    });
    Ok(Schedule { steps: steps.collect::<Result<_>>()?, ..Schedule::new(1.0) })
}
