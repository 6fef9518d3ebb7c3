//! DEIS: Zhang & Chen 2022, "Fast Sampling of Diffusion Models with Exponential Integrator" (arXiv:2204.13902), the
//! multistep variant ρAB in the variable log ρ.
//!
//! With ρ = σ/α, x/α obeys d(x/α)/dρ = ε; ε is interpolated through its last values by a polynomial in ln ρ, and
//! integrated over ρ.

use super::combination::Combination;
use super::exponential::Level;
use super::sigmas::exponential_integrator;
use super::step::{Schedule, Step};
use super::{Sampling, Scheduler};
use crate::Result;

/// Runs shorter than this end with lower orders (`lower_order_final`).
const SHORT: usize = 15;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let run = exponential_integrator(scheduler, sampling)?;
    let rhos = &run.sigmas;
    let n = run.timesteps.len();
    let begin = sampling.begin(n)?;
    let short = config.lower_order_final && n < SHORT;
    let memory_slots = config.solver_order - 1;

    let steps = (begin..n).map(|i| {
        let order = match i {
            i if i + 1 == n && short => 1,
            i if i + 2 == n && short => 2,
            _ => config.solver_order,
        };
        // No higher than the number of outputs there are.
        let order = order.min(config.solver_order).min(i - begin + 1);

        // Memory: the previous ε, most recent first.
        let (from, to) = (Level::new(rhos[i]), Level::new(rhos[i + 1]));
        let epsilon = from.epsilon(config, true);
        let m = |back: usize| if back == 0 { epsilon.clone() } else { Combination::memory(back - 1) };
        let nodes: Vec<f64> = (0..order).map(|back| rhos[i - back].ln()).collect();
        let integral = (0..order).map(|j| integrated_lagrange(&nodes, j, rhos[i], rhos[i + 1]) * m(j));
        let increment = integral.fold(Combination::zero(), |sum, term| sum + term);
        Step {
            prev_sample: to.alpha * (Combination::sample() / from.alpha + increment),
            memory: (0..memory_slots).map(m).collect(),
            ..from.step(run.timesteps[i], config)
        }
    });
    let steps = steps.collect();
    Ok(Schedule { memory_slots, steps, ..Schedule::new(1.0) })
}

/// ∫ from ρ_s to ρ_t of the j-th Lagrange polynomial in u = ln ρ through `nodes`, at most three of them. In closed
/// form: ∫ dρ = ρ, ∫ u dρ = ρ(u − 1), ∫ u² dρ = ρ(u² − 2u + 2).
fn integrated_lagrange(nodes: &[f64], j: usize, rho_s: f64, rho_t: f64) -> f64 {
    let others: Vec<f64> = (0..nodes.len()).filter(|k| *k != j).map(|k| nodes[k]).collect();
    let denominator: f64 = others.iter().map(|other| nodes[j] - other).product();
    let antiderivative = |rho: f64| {
        let u = rho.ln();
        rho * match others[..] {
            [] => 1.0,
            [a] => u - 1.0 - a,
            [a, b] => u * u - 2.0 * u + 2.0 - (a + b) * (u - 1.0) + a * b,
            _ => unreachable!("solver_order is at most 3"),
        }
    };
    (antiderivative(rho_t) - antiderivative(rho_s)) / denominator
}
