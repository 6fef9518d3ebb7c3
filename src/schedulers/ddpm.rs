//! DDPM: Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models" (arXiv:2006.11239), algorithm 2.
//!
//! p(x_{t-1} | x_t) = N(μ̃_t(x_t, x_0), σ_t² I) with the estimate of x_0 in place of x_0. Visiting only some of the
//! trained timesteps, "t − 1" is the next one visited, and α_t, β_t are those of the whole stride.

use super::betas::stored;
use super::combination::Combination;
use super::options::VarianceType;
use super::step::{NoiseScale, Schedule, Step, X0};
use super::{Sampling, Scheduler, timesteps};
use crate::rng::Draw;
use crate::{Error, Result};

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    if sampling.sigmas.is_some() {
        return Err(Error::Usage("DDPMScheduler takes custom timesteps, not sigmas".into()));
    }
    let timesteps = match &sampling.timesteps {
        Some(custom) => timesteps::custom(&scheduler.config, custom)?,
        None => timesteps::spaced(&scheduler.config, sampling.num_inference_steps)?,
    };
    let begin = sampling.begin(timesteps.len())?;
    let prev_timestep = |i: usize| timesteps.get(i + 1).copied();
    let steps = (begin..timesteps.len()).map(|i| step(scheduler, timesteps[i], prev_timestep(i)));
    Ok(Schedule { steps: steps.collect::<Result<_>>()?, ..Schedule::new(1.0) })
}

/// From x_t to x_{prev_t}; `None` is the clean picture, ᾱ = 1.
fn step(scheduler: &Scheduler, t: usize, prev_t: Option<usize>) -> Result<Step> {
    let Scheduler { config, noise_schedule } = scheduler;
    let alphas_cumprod = &noise_schedule.alphas_cumprod;
    let alpha_prod_t = alphas_cumprod[t];
    let alpha_prod_t_prev = prev_t.map_or(1.0, |prev_t| alphas_cumprod[prev_t]);
    let beta_prod_t = 1.0 - alpha_prod_t;
    let beta_prod_t_prev = 1.0 - alpha_prod_t_prev;
    let current_alpha_t = stored(alpha_prod_t / alpha_prod_t_prev);
    let current_beta_t = 1.0 - current_alpha_t;

    // Eq. 7, the mean: μ̃_t = √ᾱ_{t-1} β_t / (1 − ᾱ_t) x_0 + √α_t (1 − ᾱ_{t-1}) / (1 − ᾱ_t) x_t.
    let pred_original_sample_coeff = alpha_prod_t_prev.sqrt() * current_beta_t / beta_prod_t;
    let current_sample_coeff = current_alpha_t.sqrt() * beta_prod_t_prev / beta_prod_t;
    let pred_prev_sample =
        pred_original_sample_coeff * Combination::x0() + current_sample_coeff * Combination::sample();

    // Eq. 7, the variance: β̃_t = (1 − ᾱ_{t-1}) / (1 − ᾱ_t) β_t; kept above 0 for its logarithm, as diffusers does.
    let variance_small = (beta_prod_t_prev / beta_prod_t * current_beta_t).max(1e-20);
    let (noise_coeff, noise_scale) = match config.variance_type {
        VarianceType::FixedSmall | VarianceType::FixedSmallLog => (variance_small.sqrt(), NoiseScale::One),
        // Section 3.2: σ_t² = β_t. (diffusers takes the root of the *logarithm* for fixed_large_log, which is not a
        // number.)
        VarianceType::FixedLarge | VarianceType::FixedLargeLog => (current_beta_t.sqrt(), NoiseScale::One),
        VarianceType::Learned => (1.0, NoiseScale::Learned),
        VarianceType::LearnedRange => {
            (1.0, NoiseScale::LearnedRange { min_log: variance_small.ln(), max_log: current_beta_t.ln() })
        }
    };

    // Algorithm 2: x_{t-1} = μ̃_t + σ_t z, without noise at timestep 0 (but with it at a last step that is not timestep
    // 0).
    let draws_noise = t > 0;
    let noise_coeff = if draws_noise { noise_coeff } else { 0.0 };
    // Eq. 15: x_0 ≈ (x_t − √(1−ᾱ_t) ε_θ) / √ᾱ_t.
    let x0 = X0::new(config.prediction_type, alpha_prod_t.sqrt(), beta_prod_t.sqrt(), config.clip);
    Ok(Step {
        prev_sample: pred_prev_sample + noise_coeff * Combination::noise(),
        draw: Draw::fresh_if(draws_noise),
        noise_scale,
        ..Step::new(t as f64, x0, noise_schedule.noising(t)?)
    })
}
