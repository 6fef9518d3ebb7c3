//! Which of the training timesteps a shorter sampling run visits.
//!
//! The three spacings are rows of table 2 in Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are
//! Flawed" (arXiv:2305.08891). Rounding is to nearest, ties to even, as numpy's.

use super::Sampling;
use super::config::SchedulerConfig;
use super::options::TimestepSpacing;
use crate::refusal::{Refusal, Remedy};
use crate::{Error, Result};

/// Picks `num_inference_steps` of the timesteps that a distilled model was trained at (LCM, TCD). Those are every
/// (T/`original_inference_steps`)-th; the picked ones lie at even distances, beginning at the last, or where
/// `distilled_strength` says.
///
/// # Errors
/// A refusal for zero steps or more than it was distilled with, and for a strength outside (0, 1].
pub fn distilled(config: &SchedulerConfig, sampling: &Sampling) -> Result<Vec<usize>> {
    if sampling.sigmas.is_some() {
        return Err(Error::Usage(format!("{} takes custom timesteps, not sigmas", config.class.name())));
    }
    if let Some(timesteps) = &sampling.timesteps {
        return custom(config, timesteps);
    }
    let (n, original, strength) =
        (sampling.num_inference_steps, config.original_inference_steps, sampling.distilled_strength);
    if original > config.num_train_timesteps {
        return Err(Error::Config(format!(
            "{}: original_inference_steps = {original} are more than the {} of num_train_timesteps",
            config.class.name(),
            config.num_train_timesteps
        )));
    }
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(Refusal::of_value("strength", strength, "expected a number above 0 and up to 1").into());
    }
    let reached = (original as f64 * strength) as usize;
    if n == 0 || n > reached {
        let name = config.class.name();
        let why = format!(
            "{name} takes 1 to {reached} steps (original_inference_steps times the strength); 4 to 8 are usual"
        );
        return Err(Refusal::of_value("steps", n, why).into());
    }
    let stride = config.num_train_timesteps / original;
    let index = |i: usize| (i as f64 * (reached as f64 / n as f64)).floor() as usize;
    Ok((0..n).map(|i| (reached - index(i)) * stride - 1).collect())
}

/// `num_inference_steps` integer timesteps, descending, spaced as the config says (DDPM, DDIM and their relatives).
///
/// # Errors
/// A refusal for zero steps or more than were trained, or if `steps_offset` leads past the last trained one.
pub fn spaced(config: &SchedulerConfig, num_inference_steps: usize) -> Result<Vec<usize>> {
    let trained = config.num_train_timesteps;
    let n = num_inference_steps;
    check_steps(config, n)?;
    let timesteps: Vec<usize> = match config.timestep_spacing {
        TimestepSpacing::Linspace => {
            linspace(0.0, (trained - 1) as f64, n).into_iter().rev().map(|t| t.round_ties_even() as usize).collect()
        }
        TimestepSpacing::Leading => (0..n).rev().map(|i| i * (trained / n) + config.steps_offset).collect(),
        TimestepSpacing::Trailing => trailing(trained, trained, n).into_iter().map(|t| t as usize - 1).collect(),
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

/// # Errors
/// A refusal for zero steps or more than were trained.
pub fn check_steps(config: &SchedulerConfig, num_inference_steps: usize) -> Result<()> {
    let trained = config.num_train_timesteps;
    if num_inference_steps == 0 || num_inference_steps > trained {
        let why = format!("this model takes 1 to {trained} steps (num_train_timesteps)");
        return Err(Refusal::of_value("steps", num_inference_steps, why).into());
    }
    Ok(())
}

/// `last`, `last` − T/n, `last` − 2T/n, …: the values above 0, rounded. (numpy's arange, which diffusers takes for
/// this, adds one value at 0 for some n because of rounding; it is no timestep.)
pub fn trailing(last: usize, trained: usize, n: usize) -> Vec<f64> {
    let first = last as f64;
    // numpy's arange takes the difference of its first two values as the increment.
    let increment = (first - trained as f64 / n as f64) - first;
    (0..n).map(|i| (first + i as f64 * increment).round_ties_even()).take_while(|t| *t > 0.0).collect()
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

/// # Errors
/// A refusal of steps that `steps_offset` leads past the last trained timestep.
pub fn check(config: &SchedulerConfig, timesteps: &[usize]) -> Result<()> {
    match timesteps.iter().max() {
        Some(&t) if t >= config.num_train_timesteps => {
            let why = format!(
                "they lead to timestep {t} (steps_offset is {}), but this model has timesteps 0 to {}",
                config.steps_offset,
                config.num_train_timesteps - 1
            );
            Err(Refusal::of_value("steps", timesteps.len(), why).instead(Remedy::Lower(&["steps"])).into())
        }
        _ => Ok(()),
    }
}
