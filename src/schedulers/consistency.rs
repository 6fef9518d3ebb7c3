//! Consistency models: Song, Dhariwal, Chen & Sutskever 2023 (arXiv:2303.01469), algorithm 1 (multistep sampling).
//!
//! The model jumps from any noise level to the clean picture in one call. More steps noise it again to a lower level
//! and jump once more.

use super::betas::{Noising, stored};
use super::combination::Combination;
use super::config::SchedulerConfig;
use super::edm::range;
use super::step::{Schedule, Step, X0};
use super::timesteps::{check_steps, custom};
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::Draw;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let (min, max) = range(config)?;
    let levels = levels(config, sampling)?;
    let n = levels.len();
    let steps = (sampling.begin(n)?..n).map(|i| {
        let sigma = stored(levels[i]);
        let sigma_next = stored(levels.get(i + 1).copied().unwrap_or(min)).clamp(min, max);
        // Appendix C: the jump from the smallest level leads nowhere.
        let (data, above) = (config.sigma_data, sigma - min);
        let c_skip = data.powi(2) / (above.powi(2) + data.powi(2));
        let c_out = above * data / sigma.hypot(data);
        let noise = (sigma_next.powi(2) - min.powi(2)).max(0.0).sqrt() * config.s_noise;
        Step {
            input_scale: 1.0 / sigma.hypot(data),
            prev_sample: Combination::x0() + noise * Combination::noise(),
            // Drawn after the last of several steps too, where it counts for nothing.
            draw: Draw::fresh_if(n > 1),
            ..Step::new(
                250.0 * levels[i].ln(),
                X0 { sample: c_skip, model_output: c_out, clip: config.clip },
                Noising { signal: 1.0, noise: sigma },
            )
        }
    });
    Ok(Schedule { steps: steps.collect(), ..Schedule::new(max) })
}

/// The noise levels of a run: of the trained ones (Karras et al. 2022, eq. 5), evenly spaced numbers, or those that the
/// user names.
///
/// # Errors
/// [`crate::Error::Usage`] for timesteps that rise or are beyond the trained ones, and for too many steps; as
/// [`range`].
fn levels(config: &SchedulerConfig, sampling: &Sampling) -> Result<Vec<f64>> {
    sampling.refuse_custom(config.class, &["sigmas"])?;
    let trained = config.num_train_timesteps;
    let numbers: Vec<usize> = match &sampling.timesteps {
        Some(timesteps) => custom(config, timesteps)?,
        None => {
            let n = sampling.num_inference_steps;
            check_steps(config, n)?;
            (0..n).rev().map(|i| i * (trained / n)).collect()
        }
    };
    let (min, max) = range(config)?;
    let root = |sigma: f64| sigma.powf(1.0 / config.rho);
    let level = |number: usize| {
        let ramp = number as f64 / (trained - 1).max(1) as f64;
        (root(max) + ramp * (root(min) - root(max))).powf(config.rho)
    };
    // Counted from the noisiest level, while timesteps are counted from the cleanest.
    Ok(numbers.into_iter().rev().map(level).collect())
}
