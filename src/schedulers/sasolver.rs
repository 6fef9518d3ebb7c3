//! SA-Solver: Xue, Yi, Luo, Zhang, Sun, Li & Ma 2023, "SA-Solver: Stochastic Adams Solver for Fast Sampling of
//! Diffusion Models" (arXiv:2309.05019).
//!
//! A family of stochastic equations, with τ from 0 (the ODE) to 1 (the SDE) and beyond, has the same marginals. In λ =
//! ln(α/σ), with h = λ_t − λ_s and k = 1 + τ², a step from s to t is
//!
//! x_t = σ_t/σ_s e^(−τ²h) x_s + k α_t ∫ from −h to 0 of e^(k u) x_0(λ_t + u) du + σ_t √(1 − e^(−2τ²h)) z,
//!
//! or, in terms of ε,
//!
//! x_t = α_t/α_s x_s − k σ_t ∫ from −h to 0 of e^(−u) ε(λ_t + u) du + τ σ_t √(e^(2h) − 1) z.
//!
//! The model's output is interpolated through its last values (Adams–Bashforth); once the model has been called at the
//! end of the step, its output corrects the step with the same noise z (Adams–Moulton), at no extra call.

use super::combination::Combination;
use super::config::SchedulerConfig;
use super::exponential::Level;
use super::options::Clip;
use super::sigmas::exponential_integrator;
use super::step::{Schedule, Step};
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::Draw;

// Memory: the last step without the model's part, and the previous outputs, most recent first.
const LAST_BASE: usize = 0;
const LAST_OUTPUT: usize = 1;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let run = exponential_integrator(scheduler, sampling)?;
    let levels: Vec<Level> = run.sigmas.iter().map(|sigma| Level::new(*sigma)).collect();
    let n = run.timesteps.len();
    let begin = sampling.begin(n)?;
    let outputs = config.predictor_order.max(config.corrector_order) - 1;

    let mut steps = vec![];
    for i in begin..n {
        let output = match config.predict_x0 {
            true => Combination::x0(),
            false => levels[i].epsilon(config, config.clip != Clip::None),
        };
        let m = |back: usize| if back == 0 { output.clone() } else { Combination::memory(LAST_OUTPUT + back - 1) };

        // The step that ends at this level, with the output at its end.
        let sample = if i > begin {
            let order = order(config, config.corrector_order, n - i + 2).min(i - begin + 1);
            let interval = Interval::new(config, &levels, i - 1, run.timesteps[i - 1]);
            interval.end(Combination::memory(LAST_BASE), &lambdas(&levels, i, order), m)
        } else {
            Combination::sample()
        };

        // The step that begins here.
        let order = order(config, config.predictor_order, n - i).min(i - begin + 1);
        let interval = Interval::new(config, &levels, i, run.timesteps[i]);
        let base = interval.kept * sample + interval.noise * Combination::noise();
        let prev_sample = interval.end(base.clone(), &lambdas(&levels, i, order), m);
        let memory = std::iter::once(base).chain((0..outputs).map(m)).collect();
        let trained = scheduler.noise_schedule.alphas_cumprod.len();
        let noised_at = (run.timesteps[i] as usize).min(trained - 1);
        steps.push(Step {
            prev_sample,
            memory,
            // In every step, also where τ is 0, as in diffusers.
            draw: Draw::Fresh,
            add_noise: scheduler.noise_schedule.noising(noised_at)?,
            ..levels[i].step(run.timesteps[i], config)
        });
    }
    Ok(Schedule { memory_slots: 1 + outputs, steps, ..Schedule::new(1.0) })
}

/// The share of noise: diffusers' `tau_func`, which no config can hold and which is this one by default.
fn tau(timestep: f64) -> f64 {
    if (200.0..=800.0).contains(&timestep) { 1.0 } else { 0.0 }
}

/// At most `wanted`, and at most `left` if the run ends with lower orders.
fn order(config: &SchedulerConfig, wanted: usize, left: usize) -> usize {
    if config.lower_order_final { wanted.min(left) } else { wanted }
}

/// λ of level `last` and the ones before it, `count` in all.
fn lambdas(levels: &[Level], last: usize, count: usize) -> Vec<f64> {
    (0..count).map(|back| levels[last - back].lambda).collect()
}

/// The numbers of a step.
struct Interval {
    lambda_t: f64,
    h: f64,
    /// The exponent in the integral: k, or −1 for ε.
    rate: f64,
    /// What is kept of the sample, and what is added of the noise.
    kept: f64,
    noise: f64,
    /// The factor before the integral.
    scale: f64,
    /// Whether order 2 takes the difference of two outputs over the step with e^(k u) = 1. That changes it by O(h³),
    /// and short runs gain by it.
    flat: bool,
}

impl Interval {
    /// From level `i` to the next.
    fn new(config: &SchedulerConfig, levels: &[Level], i: usize, timestep: f64) -> Self {
        let (s, t) = (levels[i], levels[i + 1]);
        let (h, lambda_t) = (t.lambda - s.lambda, t.lambda);
        let tau = tau(timestep);
        let k = 1.0 + tau * tau;
        if config.predict_x0 {
            let kept = (-tau * tau * h).exp() * t.sigma / s.sigma;
            let noise = t.sigma * (-(-2.0 * tau * tau * h).exp_m1()).sqrt();
            Self { lambda_t, h, rate: k, kept, noise, scale: k * t.alpha, flat: true }
        } else {
            let noise = tau * t.sigma * (2.0 * h).exp_m1().sqrt();
            Self { lambda_t, h, rate: -1.0, kept: t.alpha / s.alpha, noise, scale: -k * t.sigma, flat: false }
        }
    }

    /// The sample at the end of the step: `base`, which is its part without the model, and the integral over the
    /// outputs m(0), m(1), … found at `lambdas`.
    fn end(&self, base: Combination, lambdas: &[f64], m: impl Fn(usize) -> Combination) -> Combination {
        let nodes: Vec<f64> = lambdas.iter().map(|lambda| lambda - self.lambda_t).collect();
        let moments = moments(self.rate, self.h);
        let mut weights: Vec<f64> = (0..nodes.len())
            .map(|j| lagrange(&nodes, j).iter().zip(moments).map(|(c, moment)| c * moment).sum())
            .collect();
        if self.flat && nodes.len() == 2 {
            let change = (self.h.powi(2) / 2.0 - (moments[1] + self.h * moments[0])) / (nodes[0] - nodes[1]);
            weights[0] += change;
            weights[1] -= change;
        }
        let term = |(j, weight): (usize, &f64)| self.scale * *weight * m(j);
        weights.iter().enumerate().map(term).fold(base, |sum, term| sum + term)
    }
}

/// The coefficients of u⁰, u¹, … in the polynomial that is 1 at `nodes[j]` and 0 at the others.
fn lagrange(nodes: &[f64], j: usize) -> Vec<f64> {
    let mut coefficients = vec![1.0];
    for other in (0..nodes.len()).filter(|other| *other != j).map(|other| nodes[other]) {
        // Times (u − other)/(node − other).
        let lower = coefficients.iter().map(|c| -other * c).chain([0.0]);
        let raised = std::iter::once(0.0).chain(coefficients.iter().copied());
        coefficients = lower.zip(raised).map(|(a, b)| (a + b) / (nodes[j] - other)).collect();
    }
    coefficients
}

/// ∫ from −h to 0 of e^(rate u) uᵖ du for p = 0 to 3.
fn moments(rate: f64, h: f64) -> [f64; 4] {
    let x = rate * h;
    std::array::from_fn(|p| {
        let power = (-h).powi(p as i32);
        if x.abs() < 1.0 {
            // Term by term, because the closed form cancels: (−h)ᵖ h Σ_n (−x)ⁿ/(n! (n + p + 1)).
            let mut term = 1.0;
            let mut sum = 0.0;
            for n in 0..20 {
                sum += term / (n + p + 1) as f64;
                term *= -x / (n + 1) as f64;
            }
            return power * h * sum;
        }
        // By parts: M_p = −(−h)ᵖ e^(−x)/rate − p/rate M_(p−1), M_0 = (1 − e^(−x))/rate.
        (1..=p).fold(-(-x).exp_m1() / rate, |lower, p| (-(-h).powi(p as i32) * (-x).exp() - p as f64 * lower) / rate)
    })
}
