//! Euler steps: Karras, Aittala, Aila & Laine 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"
//! (arXiv:2206.00364), algorithm 2 without churn and without its second-order correction, as in Katherine Crowson's
//! k-diffusion; and the ancestral variant of the latter, which goes a little too far down and adds the missing noise
//! afresh.
//!
//! The sample is x = x_0 + σ ε, and follows dx/dσ = (x − x_0)/σ.

use super::betas::Noising;
use super::combination::Combination;
use super::options::{PredictionType, SchedulerClass, TimestepType};
use super::sigmas::{ancestral, init_noise_sigma, k_diffusion};
use super::step::{Schedule, Step, X0};
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::Draw;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let levels = k_diffusion(scheduler, sampling)?;
    let sigmas = &levels.sigmas;
    let begin = sampling.begin(levels.timesteps.len())?;
    let continuous =
        config.timestep_type == TimestepType::Continuous && config.prediction_type == PredictionType::VPrediction;
    let is_ancestral = config.class == SchedulerClass::EulerAncestralDiscrete;
    let steps = (begin..levels.timesteps.len()).map(|i| {
        let sigma = sigmas[i];
        let (sigma_down, sigma_up) = if is_ancestral { ancestral(sigma, sigmas[i + 1]) } else { (sigmas[i + 1], 0.0) };
        let derivative = (Combination::sample() - Combination::x0()) / sigma;
        Step {
            input_scale: 1.0 / sigma.hypot(1.0),
            prev_sample: Combination::sample() + (sigma_down - sigma) * derivative + sigma_up * Combination::noise(),
            draw: Draw::fresh_if(is_ancestral),
            ..Step::new(
                if continuous { 0.25 * sigma.ln() } else { levels.timesteps[i] },
                X0::new(config.prediction_type, 1.0, sigma, config.clip),
                Noising { signal: 1.0, noise: sigma },
            )
        }
    });
    let steps = steps.collect();
    Ok(Schedule { steps, ..Schedule::new(init_noise_sigma(config, sigmas)) })
}
