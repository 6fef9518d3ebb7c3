//! Models trained in the frame of Karras, Aittala, Aila & Laine 2022, "Elucidating the Design Space of Diffusion-Based
//! Generative Models" (arXiv:2206.00364): Playground 2.5 and CosXL. The sample is x = x_0 + σ ε, and the model's output
//! F is preconditioned (table 1 and eq. 7 there): x_0 = c_skip(σ) x + c_out(σ) F(c_in(σ) x, c_noise(σ)).
//!
//! Steps are Euler's, Heun's (`karras_heun.rs`), or those of DPM-Solver++ with α = 1.

use super::betas::{Noising, stored};
use super::combination::Combination;
use super::config::SchedulerConfig;
use super::dpmsolver_multistep::multistep;
use super::exponential::Level;
use super::karras_heun::heun;
use super::options::{FinalSigmasType, PredictionType, SchedulerClass, SigmaSchedule};
use super::step::{Schedule, Step, X0};
use super::timesteps::{check_steps, linspace};
use super::{Sampling, Scheduler};
use crate::rng::Draw;
use crate::{Error, Result};

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let sigmas = sigmas(config, sampling)?;
    let n = sigmas.len() - 1;
    let begin = sampling.begin(n)?;
    // The initial noise is that of the largest level and the data's own, as diffusers has it.
    let init_noise_sigma = config.sigma_max.unwrap_or(SIGMA_MAX).hypot(1.0);
    if config.class == SchedulerClass::EdmHeun {
        let call = |sigma: f64| {
            // (x − x_0) / σ without x_0, which is nearly x where σ is small.
            let X0 { sample, model_output, .. } = x0(config, sigma);
            let noise = (1.0 - sample) * Combination::sample() - model_output * Combination::model_output();
            (step(config, sigma), noise / sigma)
        };
        let schedule = heun(&sigmas, begin, config.churn, false, call);
        return Ok(Schedule { init_noise_sigma, ..schedule });
    }
    if config.class == SchedulerClass::EdmEuler {
        let steps = (begin..n).map(|i| euler(config, &sigmas, i));
        return Ok(Schedule { steps: steps.collect(), ..Schedule::new(init_noise_sigma) });
    }
    let levels: Vec<Level> =
        sigmas.iter().map(|sigma| Level { alpha: 1.0, sigma: *sigma, lambda: -sigma.ln() }).collect();
    let steps = multistep(config, &levels, begin, |i| step(config, sigmas[i]));
    Ok(Schedule { memory_slots: config.solver_order - 1, steps, ..Schedule::new(init_noise_sigma) })
}

/// Euler's step from level `i`. diffusers adds the churn's noise after the model has seen the sample without it, and
/// takes the model's output for one at the higher level.
fn euler(config: &SchedulerConfig, sigmas: &[f64], i: usize) -> Step {
    let (sigma, n) = (sigmas[i], sigmas.len() - 1);
    let sigma_hat = sigma * (1.0 + config.churn.gamma(sigma, n));
    let coefficient = config.churn.coefficient(sigma, sigma_hat);
    let mut step = step(config, sigma);
    if coefficient == 0.0 {
        let derivative = (Combination::sample() - Combination::x0()) / sigma;
        step.prev_sample = Combination::sample() + (sigmas[i + 1] - sigma) * derivative;
        return step;
    }
    let X0 { sample, model_output, .. } = x0(config, sigma_hat);
    let sample_hat = Combination::sample() + coefficient * Combination::noise();
    let x0 = sample * sample_hat.clone() + model_output * Combination::model_output();
    let derivative = (sample_hat.clone() - x0) / sigma_hat;
    step.prev_sample = sample_hat + (sigmas[i + 1] - sigma_hat) * derivative;
    step.draw = Draw::Fresh;
    step
}

/// The defaults of the paper.
const SIGMA_MIN: f64 = 0.002;
const SIGMA_MAX: f64 = 80.0;

/// The smallest and the largest noise level, also of consistency models.
///
/// # Errors
/// [`Error::Config`] for levels that rise.
pub(super) fn range(config: &SchedulerConfig) -> Result<(f64, f64)> {
    let (low, high) = (config.sigma_min.unwrap_or(SIGMA_MIN), config.sigma_max.unwrap_or(SIGMA_MAX));
    if low > high {
        return Err(Error::Config(format!(
            "scheduler: noise levels must fall, but go from {high} to {low}; see \"sigma_min\", \"sigma_max\""
        )));
    }
    Ok((low, high))
}

/// A step at the level σ that goes nowhere yet.
fn step(config: &SchedulerConfig, sigma: f64) -> Step {
    let timestep = stored(0.25 * sigma.ln());
    let input_scale = 1.0 / sigma.hypot(config.sigma_data);
    Step { input_scale, ..Step::new(timestep, x0(config, sigma), Noising { signal: 1.0, noise: sigma }) }
}

/// The estimate of x_0 at the level σ.
fn x0(config: &SchedulerConfig, sigma: f64) -> X0 {
    let data = config.sigma_data;
    let radius = sigma.hypot(data);
    let sign = if config.prediction_type == PredictionType::VPrediction { -1.0 } else { 1.0 };
    X0 { sample: (data / radius).powi(2), model_output: sign * sigma * data / radius, clip: config.clip }
}

/// The noise levels of a run, and the one after it.
///
/// # Errors
/// [`Error::Usage`] for timesteps, which these models do not count; [`Error::Config`] for levels that rise.
fn sigmas(config: &SchedulerConfig, sampling: &Sampling) -> Result<Vec<f64>> {
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    let n = sampling.num_inference_steps;
    check_steps(config, n)?;
    let (low, high) = range(config)?;
    let mut sigmas: Vec<f64> = match config.sigma_schedule {
        SigmaSchedule::Karras => {
            let root = |sigma: f64| sigma.powf(1.0 / config.rho);
            let ramp = linspace(0.0, 1.0, n).into_iter();
            ramp.map(|t| (root(high) + t * (root(low) - root(high))).powf(config.rho)).collect()
        }
        SigmaSchedule::Exponential => linspace(low.ln(), high.ln(), n).into_iter().rev().map(f64::exp).collect(),
    };
    sigmas.iter_mut().for_each(|sigma| *sigma = stored(*sigma));
    sigmas.push(match config.final_sigmas_type {
        FinalSigmasType::Zero => 0.0,
        FinalSigmasType::SigmaMin => sigmas[n - 1],
    });
    Ok(sigmas)
}
