//! IPNDM: the linear multistep of Liu, Ren, Lin & Zhao 2022, "Pseudo Numerical Methods for Diffusion Models on
//! Manifolds" (arXiv:2202.09778), eq. 9 and 12, without its Runge–Kutta steps, for models of a continuous time (Dance
//! Diffusion).
//!
//! Their samples are α x_0 + σ ε with α² + σ² = 1, a point on a circle, and the model is told the angle, as time from 0
//! (the picture) to 1 (noise). It predicts v. The levels of a run are σ = sin²(π s/2), s evenly from 1 to 0.

use std::f64::consts::PI;

use super::betas::{Noising, linspace, stored};
use super::combination::Combination;
use super::options::{Clip, PredictionType};
use super::step::{Schedule, Step, X0};
use super::timesteps::check_steps;
use super::{Sampling, Scheduler};
use crate::Result;

/// Memory: the last three ε, most recent first.
const MEMORY: usize = 3;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    sampling.refuse_custom(scheduler.config.class, &["timesteps", "sigmas"])?;
    let n = sampling.num_inference_steps;
    check_steps(&scheduler.config, n)?;
    let levels: Vec<Level> = linspace(1.0, 0.0, n + 1).into_iter().map(Level::new).collect();
    let begin = sampling.begin(n)?;
    let steps = (begin..n).map(|i| {
        let (from, to) = (&levels[i], &levels[i + 1]);
        let epsilon = from.sigma * Combination::sample() + from.alpha * Combination::model_output();
        let e = |back: usize| if back == 0 { epsilon.clone() } else { Combination::memory(back - 1) };
        // Eq. 12, and what it begins with.
        let mean = match i - begin {
            0 => e(0),
            1 => (3.0 * e(0) - e(1)) / 2.0,
            2 => (23.0 * e(0) - 16.0 * e(1) + 5.0 * e(2)) / 12.0,
            _ => (55.0 * e(0) - 59.0 * e(1) + 37.0 * e(2) - 9.0 * e(3)) / 24.0,
        };
        // Eq. 9. At the first level there is nothing of x_0 in the sample, and x_0 is taken for 0, as in diffusers.
        let x0 = (Combination::sample() - from.sigma * mean.clone()) / from.alpha.max(1e-8);
        let noising = Noising { signal: from.alpha, noise: from.sigma };
        Step {
            prev_sample: to.alpha * x0 + to.sigma * mean,
            memory: (0..MEMORY).map(e).collect(),
            ..Step::new(from.time, X0::new(PredictionType::VPrediction, from.alpha, from.sigma, Clip::None), noising)
        }
    });
    Ok(Schedule { memory_slots: MEMORY, steps: steps.collect(), ..Schedule::new(1.0) })
}

/// A point on the circle.
struct Level {
    alpha: f64,
    sigma: f64,
    time: f64,
}

impl Level {
    /// In float32 operation by operation: near noise alone, 1 − σ² keeps few digits, and α is their root.
    fn new(s: f64) -> Self {
        let sine = stored((stored(s * stored(PI)) / 2.0).sin());
        let sigma = stored(sine * sine);
        let alpha = stored(stored(1.0 - stored(sigma * sigma)).sqrt());
        Self { alpha, sigma, time: stored(stored(stored(sigma.atan2(alpha)) / stored(PI)) * 2.0) }
    }
}
