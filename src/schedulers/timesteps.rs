//! Which of the training timesteps a shorter sampling run visits.
//!
//! The three spacings are rows of table 2 in Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed"
//! (arXiv:2305.08891). Rounding is to nearest, ties to even, as numpy's.

use super::config::{SchedulerConfig, TimestepSpacing};
use crate::{Error, Result};

/// `num_inference_steps` integer timesteps, descending, spaced as the config says (DDPM, DDIM and their relatives).
///
/// # Errors
/// [`Error::Usage`] for zero steps or more than were trained; [`Error::Config`] if `steps_offset` leads past the last trained one.
pub fn spaced(config: &SchedulerConfig, num_inference_steps: usize) -> Result<Vec<usize>> {
    let trained = config.num_train_timesteps;
    let n = num_inference_steps;
    if n == 0 || n > trained {
        return Err(Error::Usage(format!("--steps {n}: this model takes 1 to {trained} steps (num_train_timesteps)")));
    }
    let timesteps: Vec<usize> = match config.timestep_spacing {
        TimestepSpacing::Linspace => {
            linspace(0.0, (trained - 1) as f64, n).into_iter().rev().map(|t| t.round_ties_even() as usize).collect()
        }
        TimestepSpacing::Leading => (0..n).rev().map(|i| i * (trained / n) + config.steps_offset).collect(),
        TimestepSpacing::Trailing => trailing(trained, n).into_iter().map(|t| t as usize - 1).collect(),
    };
    check(config, &timesteps)?;
    Ok(timesteps)
}

/// Timesteps given by the user.
///
/// # Errors
/// [`Error::Usage`] unless there is at least one, they descend strictly, and all are below `num_train_timesteps`.
pub fn custom(config: &SchedulerConfig, timesteps: &[usize]) -> Result<Vec<usize>> {
    if timesteps.is_empty() || !timesteps.is_sorted_by(|a, b| a > b) {
        return Err(Error::Usage(format!(
            "custom timesteps must descend strictly and be at least one, found {timesteps:?}"
        )));
    }
    if timesteps[0] >= config.num_train_timesteps {
        let last = config.num_train_timesteps - 1;
        return Err(Error::Usage(format!("custom timestep {} is beyond the last trained one, {last}", timesteps[0])));
    }
    Ok(timesteps.to_vec())
}

/// T, T − T/n, T − 2T/n, …: `n` values above 0, rounded.
pub fn trailing(trained: usize, n: usize) -> Vec<f64> {
    let first = trained as f64;
    // numpy's arange takes the difference of its first two values as the increment.
    let increment = (first - first / n as f64) - first;
    (0..n).map(|i| (first + i as f64 * increment).round_ties_even()).collect()
}

/// `n` values from `start` to `end` inclusive, as `numpy.linspace`; one value is `start`.
pub fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let step = if n > 1 { (end - start) / (n - 1) as f64 } else { 0.0 };
    let mut values: Vec<f64> = (0..n).map(|i| i as f64 * step + start).collect();
    if n > 1 {
        values[n - 1] = end;
    }
    values
}

fn check(config: &SchedulerConfig, timesteps: &[usize]) -> Result<()> {
    match timesteps.iter().max() {
        Some(&t) if t >= config.num_train_timesteps => Err(Error::Config(format!(
            "scheduler: steps_offset {} with {} steps leads to timestep {t}, but num_train_timesteps is {}; take fewer steps",
            config.steps_offset,
            timesteps.len(),
            config.num_train_timesteps
        ))),
        _ => Ok(()),
    }
}
