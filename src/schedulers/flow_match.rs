//! Flow matching along straight lines: Lipman et al. 2022, "Flow Matching for Generative Modeling" (arXiv:2210.02747),
//! and Liu, Gong & Liu 2022, "Flow Straight and Fast" (rectified flow, arXiv:2209.03003).
//!
//! The sample is x_σ = (1 − σ) x_0 + σ ε with σ from 1 to 0, and the model returns its velocity along the line,
//! v = dx/dσ = ε − x_0. Steps are Euler's, or Heun's with two calls of the model each; `stochastic_sampling` goes to
//! x_0 and noises it afresh.

use super::beta_quantile::beta_quantile;
use super::betas::{Noising, stored};
use super::combination::Combination;
use super::config::SchedulerConfig;
use super::options::{Clip, SchedulerClass, SigmaSpacing};
use super::step::{Schedule, Step, X0};
use super::timesteps::{check_steps, linspace};
use super::{Sampling, Scheduler};
use crate::rng::Draw;
use crate::{Error, Result};

// Memory of Heun's steps: where the step started, and the velocity there.
const SAMPLE: usize = 0;
const VELOCITY: usize = 1;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let sigmas = sigmas(config, sampling)?;
    let n = sigmas.len() - 1;
    let begin = sampling.begin(n)?;
    // A step at σ_i that goes nowhere yet. Inverted levels say how much of the sample is picture, and rise.
    let step = |i: usize| {
        let (signal, noise, from_x0) = match config.invert_sigmas {
            true => (sigmas[i], 1.0 - sigmas[i], 1.0 - sigmas[i]),
            false => (1.0 - sigmas[i], sigmas[i], -sigmas[i]),
        };
        let x0 = X0 { sample: 1.0, model_output: from_x0, clip: Clip::None };
        Step::new(stored(sigmas[i] * config.num_train_timesteps as f64), x0, Noising { signal, noise })
    };
    let mut steps = vec![];
    for i in begin..n {
        let (sigma_next, dt) = (sigmas[i + 1], sigmas[i + 1] - sigmas[i]);
        let euler = Combination::sample() + dt * Combination::model_output();
        if config.class == SchedulerClass::FlowMatchHeunDiscrete {
            let memory = vec![Combination::sample(), Combination::model_output()];
            steps.push(Step { prev_sample: euler, memory, ..step(i) });
            if i + 1 < n {
                let mean = (Combination::memory(VELOCITY) + Combination::model_output()) / 2.0;
                let prev_sample = Combination::memory(SAMPLE) + dt * mean;
                let memory = vec![Combination::memory(SAMPLE), Combination::memory(VELOCITY)];
                steps.push(Step { prev_sample, memory, continues: true, ..step(i + 1) });
            }
        } else if config.stochastic_sampling {
            let prev_sample = (1.0 - sigma_next) * Combination::x0() + sigma_next * Combination::noise();
            steps.push(Step { prev_sample, draw: Draw::Fresh, ..step(i) });
        } else {
            steps.push(Step { prev_sample: euler, ..step(i) });
        }
    }
    let memory_slots = if config.class == SchedulerClass::FlowMatchHeunDiscrete { 2 } else { 0 };
    Ok(Schedule { memory_slots, steps, ..Schedule::new(1.0) })
}

/// The noise levels of a run, and 0 after them. As in diffusers, the range of the trained levels is shifted already
/// when the levels within it are shifted (Esser et al. 2024, arXiv:2403.03206, eq. 23): σ ↦ sσ / (1 + (s − 1)σ). Then
/// `shift_terminal` stretches 1 − σ so that the last level is that, and `invert_sigmas` makes 1 − σ of every level.
///
/// # Errors
/// [`crate::Error::Usage`] for custom timesteps and noise levels, and for a number of steps that is too large, or is 1
/// where levels are stretched.
fn sigmas(config: &SchedulerConfig, sampling: &Sampling) -> Result<Vec<f64>> {
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    let n = sampling.num_inference_steps;
    check_steps(config, n)?;
    let shifted = |sigma: f64| config.shift * sigma / (1.0 + (config.shift - 1.0) * sigma);
    let (low, high) = (stored(shifted(1.0 / config.num_train_timesteps as f64)), 1.0);
    let mut sigmas: Vec<f64> = evenly(high, low, n).map(shifted).collect();
    if let Some(terminal) = config.shift_terminal {
        let factor = (1.0 - sigmas[n - 1]) / (1.0 - terminal);
        if factor <= 0.0 {
            return Err(Error::Usage(format!(
                "expected at least 2 steps, found {n}: the first one's level is 1, and the scheduler's config has \
                \"shift_terminal\" {terminal} for the last one's"
            )));
        }
        sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / factor);
    }
    let (high, low) = (sigmas[0], sigmas[n - 1]);
    // Karras et al. 2022, eq. 5, with ρ = 7.
    let root = |sigma: f64| sigma.powf(1.0 / 7.0);
    match config.sigma_spacing {
        SigmaSpacing::Karras => sigmas = evenly(root(high), root(low), n).map(|sigma| sigma.powi(7)).collect(),
        SigmaSpacing::Exponential => sigmas = evenly(high.ln(), low.ln(), n).map(f64::exp).collect(),
        SigmaSpacing::Beta => {
            let quantile = |i: f64| low + beta_quantile(i) * (high - low);
            sigmas = linspace(0.0, 1.0, n).into_iter().rev().map(quantile).collect();
        }
        SigmaSpacing::Timesteps | SigmaSpacing::Lu => {}
    }
    sigmas.push(0.0);
    sigmas.iter_mut().for_each(|sigma| {
        *sigma = stored(*sigma);
        if config.invert_sigmas {
            *sigma = stored(1.0 - *sigma);
        }
    });
    Ok(sigmas)
}

/// `n` numbers from `first` to `last`; `first` alone if it is one.
fn evenly(first: f64, last: f64, n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| if i == 0 { first } else { first + (last - first) * i as f64 / (n - 1) as f64 })
}
