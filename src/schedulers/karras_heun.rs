//! The samplers of Karras, Aittala, Aila & Laine 2022, "Elucidating the Design Space of Diffusion-Based Generative
//! Models" (arXiv:2206.00364): algorithm 1, Heun's method, and algorithm 2, the same with "churn". From σ_i, noise is
//! added up to σ̂_i = (1 + γ) σ_i, γ = min(S_churn / N, √2 − 1) where S_tmin ≤ σ_i ≤ S_tmax; the model sees that, and
//! the step to σ_{i+1} takes the mean of the derivatives at its two ends. Without churn, this is algorithm 1.
//!
//! A [`Step`] begins with the model, so that the noise of each churn is added at the end of the step before it, and of
//! the first one to the initial noise.

use std::f64::consts::SQRT_2;

use super::combination::Combination;
use super::score_sde::{range, score_step, steps};
use super::step::{Schedule, Step};
use super::timesteps::linspace;
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::Draw;

/// How much noise is added where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// S_churn, over the whole run.
    pub amount: f64,
    /// S_tmin and S_tmax.
    pub range: [f64; 2],
    /// S_noise, a factor on the noise added.
    pub noise: f64,
}

impl Churn {
    /// γ at a level in a run of `n` steps.
    pub(super) fn gamma(&self, sigma: f64, n: usize) -> f64 {
        let [low, high] = self.range;
        if low <= sigma && sigma <= high { (self.amount / n as f64).min(SQRT_2 - 1.0) } else { 0.0 }
    }

    /// The coefficient of the noise that leads from `sigma` to `sigma_hat`.
    pub(super) fn coefficient(&self, sigma: f64, sigma_hat: f64) -> f64 {
        self.noise * (sigma_hat * sigma_hat - sigma * sigma).max(0.0).sqrt()
    }
}

// Memory: where the step started, and the derivative there.
const SAMPLE: usize = 0;
const DERIVATIVE: usize = 1;

/// Algorithm 2 over `sigmas` (one more than steps), from `begin` on, as part of a [`Schedule`]. `call` is the model at
/// a noise level, as a step that goes nowhere yet, and dx/dσ there; `always` draws noise even where γ is 0.
pub(super) fn heun(
    sigmas: &[f64],
    begin: usize,
    churn: Churn,
    always: bool,
    call: impl Fn(f64) -> (Step, Combination),
) -> Schedule {
    let n = sigmas.len() - 1;
    let hat = |i: usize| sigmas[i] * (1.0 + churn.gamma(sigmas[i], n));
    // What is drawn before step i, and its coefficient.
    let before = |i: usize| {
        if i >= n {
            return (Draw::None, 0.0);
        }
        let coefficient = churn.coefficient(sigmas[i], hat(i));
        (Draw::fresh_if(always || coefficient > 0.0), coefficient)
    };
    let mut steps = vec![];
    for i in begin..n {
        let (sigma_hat, sigma_next) = (hat(i), sigmas[i + 1]);
        let dt = sigma_next - sigma_hat;
        // Lines 7 and 8: the derivative at σ̂_i, and Euler's step.
        let (mut first, derivative) = call(sigma_hat);
        first.prev_sample = Combination::sample() + dt * derivative.clone();
        first.memory = vec![Combination::sample(), derivative];
        steps.push(first);
        // Lines 10 and 11: the derivative at σ_{i+1}, and the step with the mean of both.
        if sigma_next > 0.0 {
            let (mut second, derivative) = call(sigma_next);
            let mean = (Combination::memory(DERIVATIVE) + derivative) / 2.0;
            second.continues = true;
            second.prev_sample = Combination::memory(SAMPLE) + dt * mean;
            second.memory = vec![Combination::memory(SAMPLE), Combination::memory(DERIVATIVE)];
            steps.push(second);
        }
        let (draw, coefficient) = before(i + 1);
        let last = steps.last_mut().expect("one was pushed above");
        last.draw = draw;
        last.prev_sample = last.prev_sample.clone() + coefficient * Combination::noise();
    }
    let (start_draw, start_noise) = before(begin);
    Schedule { memory_slots: 2, steps, start_draw, start_noise, ..Schedule::new(1.0) }
}

/// The derivative dx/dσ of a model that returns the score at σ: −σ s. It is that of the probability flow, the ODE whose
/// x has the distribution of the SDE's at every σ (Song et al. 2021, eq. 13).
fn score_call(sigma: f64) -> (Step, Combination) {
    (score_step(sigma), -sigma * Combination::model_output())
}

/// The probability flow of a variance-exploding model between the levels of eq. 5, to σ = 0. With churn it is an SDE.
pub(super) fn probability_flow(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    let n = steps(sampling)?;
    let (low, high) = range(config)?;
    let root = |sigma: f64| sigma.powf(1.0 / config.rho);
    let levels = linspace(root(high), root(low), n).into_iter().map(|root| root.powf(config.rho));
    let sigmas: Vec<f64> = levels.chain([0.0]).collect();
    let schedule = heun(&sigmas, sampling.begin(n)?, config.churn, false, score_call);
    Ok(Schedule { init_noise_sigma: high, ..schedule })
}

/// diffusers' `KarrasVeScheduler` as its pipeline runs it, for models of the score of pictures from 0 to 1. That
/// pipeline keeps pictures from −1 to 1, and calls the model with (x + 1)/2 and σ/2 (eq. 213 of the paper); here the
/// sample is what the model sees, and every σ of the config is halved. The noise levels are *squares* of what the paper
/// says, σ_max² (σ_min² / σ_max²)^(i/(N−1)), as diffusers has them, and the initial noise is σ_max.
pub(super) fn karras_ve(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    let n = steps(sampling)?;
    let (low, high) = range(config)?;
    let share = |i: usize| i as f64 / (n - 1).max(1) as f64;
    let level = |i: usize| f64::from((high.powi(2) * (low / high).powf(2.0 * share(i))) as f32);
    let sigmas: Vec<f64> = (0..n).map(level).chain([0.0]).map(|sigma| sigma / 2.0).collect();
    let Churn { amount, range: [from, to], noise } = config.churn;
    let churn = Churn { amount, range: [from / 2.0, to / 2.0], noise };
    // diffusers draws at every level; what it draws counts for nothing without churn.
    let schedule = heun(&sigmas, sampling.begin(n)?, churn, amount > 0.0, score_call);
    Ok(Schedule { init_mean: 0.5, init_noise_sigma: high / 2.0, ..schedule })
}
