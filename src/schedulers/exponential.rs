//! What the exponential integrators share: noise levels in the variables that they integrate in, and the DPM-Solver
//! update.
//!
//! In λ = ln(α/σ) (half the log signal-to-noise ratio) the diffusion equation is linear in x but for the model's term,
//! so that a step from λ_s to λ_t is exact in x and expands only the model's output in powers of λ − λ_s: Lu et al.
//! 2022 (arXiv:2206.00927), prop. 3.1, in terms of ε; Lu et al. 2022 (arXiv:2211.01095), prop. 4.1, in terms of x_0;
//! eq. 18 and 19 there for the SDE.

use super::betas::Noising;
use super::combination::Combination;
use super::config::SchedulerConfig;
use super::options::{AlgorithmType, SolverType};
use super::step::{NoiseScale, Step, X0, pred_epsilon};

/// A noise level of a sample x = `alpha`·x_0 + `sigma`·ε with α² + σ² = 1.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    pub alpha: f64,
    pub sigma: f64,
    /// ln(α/σ); infinite where there is no noise.
    pub lambda: f64,
}

impl Level {
    /// From the noise-to-signal ratio σ/α.
    pub fn new(ratio: f64) -> Self {
        let alpha = 1.0 / ratio.hypot(1.0);
        Self { alpha, sigma: ratio * alpha, lambda: -ratio.ln() }
    }

    /// A step at this level that does nothing yet.
    pub fn step(&self, timestep: f64, config: &SchedulerConfig) -> Step {
        let x0 = X0::new(config.prediction_type, self.alpha, self.sigma, config.clip);
        let noise_scale = if config.learns_variance() { NoiseScale::Ignored } else { NoiseScale::One };
        Step { noise_scale, ..Step::new(timestep, x0, Noising { signal: self.alpha, noise: self.sigma }) }
    }

    /// The noise that the model's output implies, after clipping if `clipped`.
    pub fn epsilon(&self, config: &SchedulerConfig, clipped: bool) -> Combination {
        if clipped {
            (Combination::sample() - self.alpha * Combination::x0()) / self.sigma
        } else {
            pred_epsilon(config.prediction_type, self.alpha, self.sigma)
        }
    }
}

/// The model's output and its divided differences at the level where a step starts: as many of them as the step's
/// order.
pub struct Differences {
    pub d0: Combination,
    pub d1: Option<Combination>,
    pub d2: Option<Combination>,
}

/// A DPM-Solver step of `sample` from level `s` to level `t`: order 1, 2 or 3 by the differences given.
///
/// The second order has two forms: `midpoint`, which is the one that a midpoint rule gives, and `heun`, which expands
/// to the first power exactly. The third order continues the latter.
pub fn dpm_update(
    algorithm_type: AlgorithmType,
    solver_type: SolverType,
    s: Level,
    t: Level,
    sample: Combination,
    differences: Differences,
) -> Combination {
    use AlgorithmType::*;
    let h = t.lambda - s.lambda;
    if h == 0.0 {
        // A step of no length, as the last one where spaced levels end at the final one.
        return sample;
    }
    let Differences { d0, d1, d2 } = differences;
    // Coefficients of the sample, of D0, D1 (expanded) and D2, and of fresh noise.
    let (x, c0, c1, c2, noise) = match algorithm_type {
        DpmSolverPlusPlus | Deis => {
            let phi = (-h).exp_m1();
            let c1 = t.alpha * (phi / h + 1.0);
            (t.sigma / s.sigma, -t.alpha * phi, c1, -t.alpha * ((phi + h) / h.powi(2) - 0.5), 0.0)
        }
        DpmSolver => {
            let phi = h.exp_m1();
            let c1 = -t.sigma * (phi / h - 1.0);
            (t.alpha / s.alpha, -t.sigma * phi, c1, -t.sigma * ((phi - h) / h.powi(2) - 0.5), 0.0)
        }
        SdeDpmSolverPlusPlus => {
            let phi = -(-2.0 * h).exp_m1();
            let c1 = t.alpha * (phi / (-2.0 * h) + 1.0);
            let c2 = t.alpha * ((phi - 2.0 * h) / (2.0 * h).powi(2) - 0.5);
            (t.sigma / s.sigma * (-h).exp(), t.alpha * phi, c1, c2, t.sigma * phi.sqrt())
        }
        SdeDpmSolver => {
            let phi = h.exp_m1();
            let c1 = -2.0 * t.sigma * (phi / h - 1.0);
            // Order 3 is refused with the config, so c2 is never read.
            (t.alpha / s.alpha, -2.0 * t.sigma * phi, c1, 0.0, t.sigma * (2.0 * h).exp_m1().sqrt())
        }
    };
    let c1 = if solver_type == SolverType::Midpoint && d2.is_none() { 0.5 * c0 } else { c1 };
    let mut update = x * sample + c0 * d0;
    if let Some(d1) = d1 {
        update = update + c1 * d1;
    }
    if let Some(d2) = d2 {
        update = update + c2 * d2;
    }
    update + noise * Combination::noise()
}

/// Whether the algorithm adds fresh noise in each step.
pub fn is_sde(algorithm_type: AlgorithmType) -> bool {
    matches!(algorithm_type, AlgorithmType::SdeDpmSolver | AlgorithmType::SdeDpmSolverPlusPlus)
}

/// What the DPM-Solvers integrate and remember: x_0 or ε.
pub fn dpm_output(config: &SchedulerConfig, level: Level) -> Combination {
    use AlgorithmType::*;
    match config.algorithm_type {
        DpmSolver | SdeDpmSolver => level.epsilon(config, config.clip != super::options::Clip::None),
        DpmSolverPlusPlus | SdeDpmSolverPlusPlus | Deis => Combination::x0(),
    }
}
