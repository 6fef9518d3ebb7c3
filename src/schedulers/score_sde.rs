//! Score-based models and the reverse of the process that noised their pictures: Song, Sohl-Dickstein, Kingma, Kumar,
//! Ermon & Poole 2021, "Score-Based Generative Modeling through Stochastic Differential Equations" (arXiv:2011.13456).
//!
//! dx = f(x, t) dt + g(t) dw makes noise of pictures, and dx = [f(x, t) − g(t)² ∇ log p_t(x)] dt + g(t) dw̄ pictures of
//! noise (eq. 6). The model estimates the score ∇ log p_t(x).

use super::betas::{Noising, stored};
use super::combination::Combination;
use super::config::SchedulerConfig;
use super::options::{Clip, PredictionType, SchedulerClass};
use super::step::{NoiseScale, Schedule, Step, X0};
use super::timesteps::linspace;
use super::{Sampling, Scheduler};
use crate::refusal::Refusal;
use crate::rng::Draw;
use crate::{Error, Result};

/// Where VE's noise levels begin and end, if the config does not say.
const SIGMA_MIN: f64 = 0.01;
const SIGMA_MAX: f64 = 1348.0;

/// The most steps of a run.
const MAX_STEPS: usize = 1_000_000;

/// The number of steps of a run.
///
/// # Errors
/// A refusal of none and of more than anyone waits for.
pub(super) fn steps(sampling: &Sampling) -> Result<usize> {
    let n = sampling.num_inference_steps;
    if n == 0 || n > MAX_STEPS {
        return Err(Refusal::of_value("steps", n, format!("this scheduler takes 1 to {MAX_STEPS}")).into());
    }
    Ok(n)
}

/// The smallest and the largest noise level.
///
/// # Errors
/// [`Error::Config`] for levels that rise.
pub(super) fn range(config: &SchedulerConfig) -> Result<(f64, f64)> {
    let (low, high) = if config.class == SchedulerClass::KarrasVe { (0.02, 100.0) } else { (SIGMA_MIN, SIGMA_MAX) };
    let (low, high) = (config.sigma_min.unwrap_or(low), config.sigma_max.unwrap_or(high));
    if low > high {
        return Err(Error::Config(format!(
            "scheduler: noise levels must fall, but \"sigma_max\" is {high} and \"sigma_min\" {low}"
        )));
    }
    Ok((low, high))
}

/// A call of a model that returns the score of x_0 + σ ε when it is told σ: x_0 ≈ x + σ² s (Tweedie's formula).
pub(super) fn score_step(sigma: f64) -> Step {
    let x0 = X0 { sample: 1.0, model_output: sigma * sigma, clip: Clip::None };
    Step::new(sigma, x0, Noising { signal: 1.0, noise: sigma })
}

/// Variance exploding: x = x_0 + σ(t) ε with σ(t) = σ_min (σ_max / σ_min)^t. Algorithm 2: at each level first
/// `correct_steps` steps of Langevin dynamics (algorithm 4), then the predictor's (eq. 47):
/// x ← x + (σ_i² − σ_{i−1}²) s(x, σ_i) + √(σ_i² − σ_{i−1}²) z, at the end without z.
pub(super) fn variance_exploding(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    let n = steps(sampling)?;
    let (low, high) = range(config)?;
    let discrete: Vec<f64> = linspace(low.ln(), high.ln(), n).into_iter().map(|log| stored(log.exp())).collect();
    let mut all = vec![];
    for (i, t) in linspace(1.0, config.sampling_eps, n).into_iter().enumerate().skip(sampling.begin(n)?) {
        let sigma = stored(low * (high / low).powf(t));
        for correction in 0..config.correct_steps {
            all.push(Step {
                continues: correction > 0,
                prev_sample: Combination::sample() + Combination::noise(),
                draw: Draw::Fresh,
                noise_scale: NoiseScale::Langevin { snr: config.snr },
                ..score_step(sigma)
            });
        }
        // diffusers looks the predictor's levels up in a table of as many as there are steps.
        let at = (t * (n - 1) as f64 + 1e-9).floor() as usize;
        let below = if at == 0 { 0.0 } else { discrete[at - 1] };
        let variance = discrete[at].powi(2) - below.powi(2);
        // The last noise is drawn, and left out of the picture.
        let noise = if i + 1 < n { variance.sqrt() } else { 0.0 };
        all.push(Step {
            continues: config.correct_steps > 0,
            prev_sample: Combination::sample() + variance * Combination::model_output() + noise * Combination::noise(),
            draw: Draw::Fresh,
            ..score_step(sigma)
        });
    }
    Ok(Schedule { steps: all, ..Schedule::new(high) })
}

/// Variance preserving: dx = −½ β(t) x dt + √β(t) dw with β(t) = β_min + t (β_max − β_min), so that x = α(t) x_0 +
/// σ(t) ε with log α = −¼ t² (β_max − β_min) − ½ t β_min (eq. 33). The model is told 999 t and returns ε, of which the
/// score is −ε / σ. Each step is Euler's and Maruyama's, at the end without noise.
pub(super) fn variance_preserving(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    let n = steps(sampling)?;
    let dt = 1.0 / n as f64;
    let (low, high) = (config.beta_min, config.beta_max);
    let begin = sampling.begin(n)?;
    let steps = linspace(1.0, config.sampling_eps, n).into_iter().enumerate().skip(begin).map(|(i, t)| {
        let log_alpha = -0.25 * t * t * (high - low) - 0.5 * t * low;
        let sigma = (1.0 - (2.0 * log_alpha).exp()).sqrt();
        let beta = low + t * (high - low);
        let score = -1.0 / sigma * Combination::model_output();
        let mean = Combination::sample() + dt * (0.5 * beta * Combination::sample() + beta * score);
        let noise = if i + 1 < n { (beta * dt).sqrt() } else { 0.0 };
        let alpha = log_alpha.exp();
        let x0 = X0::new(PredictionType::Epsilon, alpha, sigma, Clip::None);
        Step {
            prev_sample: mean + noise * Combination::noise(),
            draw: Draw::Fresh,
            ..Step::new(stored(999.0 * t), x0, Noising { signal: alpha, noise: sigma })
        }
    });
    Ok(Schedule { steps: steps.collect(), ..Schedule::new(1.0) })
}

/// Annealed Langevin dynamics: Song & Ermon 2019, "Generative Modeling by Estimating Gradients of the Data
/// Distribution" (arXiv:1907.05600), algorithm 1. At each of the noise levels, which fall geometrically, T steps
/// x ← x + ½ α_i s(x, σ_i) + √α_i z with α_i = ε σ_i² / σ_L².
pub(super) fn annealed_langevin(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    let n = steps(sampling)?;
    let (low, high) = range(config)?;
    if n.saturating_mul(config.langevin_steps) > MAX_STEPS {
        let why = format!("times {} at each level (\"langevin_steps\"), more than {MAX_STEPS}", config.langevin_steps);
        return Err(Refusal::of_value("steps", n, why).into());
    }
    let levels = linspace(high.ln(), low.ln(), n).into_iter().map(f64::exp).skip(sampling.begin(n)?);
    let steps = levels.flat_map(|sigma| {
        let alpha = config.langevin_epsilon * (sigma / low).powi(2);
        (0..config.langevin_steps).map(move |step| Step {
            continues: step > 0,
            prev_sample: Combination::sample()
                + 0.5 * alpha * Combination::model_output()
                + alpha.sqrt() * Combination::noise(),
            draw: Draw::Fresh,
            ..score_step(stored(sigma))
        })
    });
    Ok(Schedule { steps: steps.collect(), ..Schedule::new(high) })
}
