//! DDIM's steps in the other direction, from a picture to the noise that it comes from: Song, Meng & Ermon 2020
//! (arXiv:2010.02502), section 4.3; as a tool, Mokady et al. 2022, "Null-text Inversion" (arXiv:2211.09794), eq. 3.
//!
//! A deterministic step follows an ODE, and an ODE runs both ways. From x_t to the noisier x_s, x_s = √ᾱ_s x_0 +
//! √(1 − ᾱ_s) ε, where x_0 and ε are what the model sees in x_t. As in diffusers, it is told s: what DDIM is told when
//! it comes back.

use super::combination::Combination;
use super::options::TimestepSpacing;
use super::step::{Schedule, Step, X0, pred_epsilon};
use super::{Sampling, Scheduler, timesteps};
use crate::refusal::Refusal;
use crate::schedulers::Noising;
use crate::{Error, Result};

/// From the clean picture to the noise, or by `strength` a part of the way.
pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    if let Some((field, share)) =
        [("denoising_start", sampling.denoising_start), ("denoising_end", sampling.denoising_end)]
            .into_iter()
            .find_map(|(field, share)| Some((field, share?)))
    {
        let why = format!("{} adds noise and takes none away", config.class.name());
        return Err(Refusal::of_value(field, share, why).into());
    }
    if config.timestep_spacing == TimestepSpacing::Linspace {
        let why = "\"timestep_spacing\": \"linspace\" is not defined for it; it has \"leading\" and \"trailing\"";
        return Err(Error::Unsupported(format!("scheduler config: {}: {why}", config.class.name())));
    }
    let mut timesteps = timesteps::spaced(config, sampling.num_inference_steps)?;
    timesteps.reverse();
    // The stride is that of "leading" whatever the spacing, as in diffusers.
    let stride = config.num_train_timesteps / sampling.num_inference_steps;
    let done = timesteps.len() - sampling.begin(timesteps.len())?;
    let steps = timesteps[..done].iter().map(|&t| step(scheduler, t.checked_sub(stride), t));
    Ok(Schedule { steps: steps.collect::<Result<_>>()?, ..Schedule::new(1.0) })
}

/// From x_{timestep} to x_{next_timestep}; `None` is before timestep 0, the picture itself.
fn step(scheduler: &Scheduler, timestep: Option<usize>, next_timestep: usize) -> Result<Step> {
    let Scheduler { config, noise_schedule } = scheduler;
    let at = |alpha_prod: f64| Noising { signal: alpha_prod.sqrt(), noise: (1.0 - alpha_prod).sqrt() };
    let alphas_cumprod = &noise_schedule.alphas_cumprod;
    let initial_alpha_cumprod = if config.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
    let now = at(timestep.map_or(initial_alpha_cumprod, |t| alphas_cumprod[t]));
    let next = at(alphas_cumprod[next_timestep]);
    let x0 = X0::new(config.prediction_type, now.signal, now.noise, config.clip);
    let epsilon = pred_epsilon(config.prediction_type, now.signal, now.noise);
    let prev_sample = next.signal * Combination::x0() + next.noise * epsilon;
    Ok(Step { prev_sample, ..Step::new(next_timestep as f64, x0, now) })
}
