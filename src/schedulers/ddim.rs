//! DDIM: Song, Meng & Ermon 2020, "Denoising Diffusion Implicit Models" (arXiv:2010.02502), eqs. 12 and 16.
//!
//! x_{t-1} = √ᾱ_{t-1} x_0 + √(1 − ᾱ_{t-1} − σ_t²) ε + σ_t z: the predicted picture, the direction that points back to
//! x_t, and fresh noise of which `eta` gives the share (0: deterministic, 1: DDPM's). (The paper writes α for ᾱ.)

use super::betas::stored;
use super::combination::Combination;
use super::step::{Schedule, Step, X0, pred_epsilon};
use super::{Sampling, Scheduler, timesteps};
use crate::refusal::Refusal;
use crate::rng::Draw;
use crate::{Error, Result};

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    if sampling.timesteps.is_some() || sampling.sigmas.is_some() {
        return Err(Error::Usage("DDIMScheduler takes a number of steps, not custom timesteps or sigmas".into()));
    }
    let timesteps = timesteps::spaced(&scheduler.config, sampling.num_inference_steps)?;
    // The stride is that of "leading" whatever the spacing, as in diffusers.
    let stride = scheduler.config.num_train_timesteps / timesteps.len();
    let begin = sampling.begin(timesteps.len())?;
    let steps = timesteps[begin..].iter().map(|&t| step(scheduler, t, t.checked_sub(stride), sampling));
    Ok(Schedule { steps: steps.collect::<Result<_>>()?, ..Schedule::new(1.0) })
}

/// From x_t to x_{prev_timestep}; `None` is beyond timestep 0.
fn step(scheduler: &Scheduler, timestep: usize, prev_timestep: Option<usize>, sampling: &Sampling) -> Result<Step> {
    let Scheduler { config, noise_schedule } = scheduler;
    let alphas_cumprod = &noise_schedule.alphas_cumprod;
    let final_alpha_cumprod = if config.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
    let alpha_prod_t = alphas_cumprod[timestep];
    let alpha_prod_t_prev = prev_timestep.map_or(final_alpha_cumprod, |t| alphas_cumprod[t]);
    let beta_prod_t = 1.0 - alpha_prod_t;
    let (alpha, sigma) = (alpha_prod_t.sqrt(), beta_prod_t.sqrt());

    // Eq. 16: σ_t = η √((1 − ᾱ_{t-1}) / (1 − ᾱ_t)) √(1 − ᾱ_t / ᾱ_{t-1}).
    let variance = (1.0 - alpha_prod_t_prev) / beta_prod_t * (1.0 - stored(alpha_prod_t / alpha_prod_t_prev));
    let std_dev_t = sampling.eta * variance.max(0.0).sqrt();

    let pred_epsilon = if sampling.use_clipped_model_output {
        // GLIDE: the noise that, with the clipped x_0, gives x_t.
        (Combination::sample() - alpha * Combination::x0()) / sigma
    } else {
        pred_epsilon(config.prediction_type, alpha, sigma)
    };

    // Eq. 12. Rounding may leave the direction's square a hair below zero.
    let direction_squared = 1.0 - alpha_prod_t_prev - std_dev_t.powi(2);
    if direction_squared < -1e-6 {
        let why = format!("more noise than timestep {timestep} can take; 0 to 1 is usual");
        return Err(Refusal::of_value("eta", sampling.eta, why).into());
    }
    let pred_sample_direction = direction_squared.max(0.0).sqrt() * pred_epsilon;
    let prev_sample =
        alpha_prod_t_prev.sqrt() * Combination::x0() + pred_sample_direction + std_dev_t * Combination::noise();

    let x0 = X0::new(config.prediction_type, alpha, sigma, config.clip);
    let draw = Draw::fresh_if(sampling.eta > 0.0);
    Ok(Step { prev_sample, draw, ..Step::new(timestep as f64, x0, noise_schedule.noising(timestep)?) })
}
