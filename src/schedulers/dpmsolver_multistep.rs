//! DPM-Solver++ (2M, 3M and their SDE forms): Lu, Zhou, Bao, Chen, Li & Zhu 2022, "DPM-Solver++: Fast Solver for Guided
//! Sampling of Diffusion Probabilistic Models" (arXiv:2211.01095), algorithm 2; `dpmsolver` is the same in terms of ε,
//! "DPM-Solver" (arXiv:2206.00927).
//!
//! Each step calls the model once, and takes the differences that a higher order needs from the previous steps.

use super::combination::Combination;
use super::config::SchedulerConfig;
use super::exponential::{Differences, Level, dpm_output, dpm_update, is_sde};
use super::options::{FinalSigmasType, SolverType};
use super::sigmas::exponential_integrator;
use super::step::{Schedule, Step};
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::Draw;

/// Runs shorter than this end with lower orders (`lower_order_final`).
const SHORT: usize = 15;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let run = exponential_integrator(scheduler, sampling)?;
    let levels: Vec<Level> = run.sigmas.iter().map(|sigma| Level::new(*sigma)).collect();
    let begin = sampling.begin(run.timesteps.len())?;
    let steps = multistep(config, &levels, begin, |i| levels[i].step(run.timesteps[i], config));
    Ok(Schedule { memory_slots: config.solver_order - 1, steps, ..Schedule::new(1.0) })
}

/// The steps from level `begin` on, one for each level but the last; `step` gives what each is before it goes anywhere.
pub(super) fn multistep(
    config: &SchedulerConfig,
    levels: &[Level],
    begin: usize,
    step: impl Fn(usize) -> Step,
) -> Vec<Step> {
    let n = levels.len() - 1;
    let short = config.lower_order_final && n < SHORT;
    let memory_slots = config.solver_order - 1;
    let steps = (begin..n).map(|i| {
        let last_is_first_order = config.euler_at_final || short || config.final_sigmas_type == FinalSigmasType::Zero;
        let order = match i {
            i if i == n - 1 && last_is_first_order => 1,
            i if i + 2 == n && short => 2,
            _ => config.solver_order,
        };
        // No higher than the number of outputs there are.
        let order = order.min(config.solver_order).min(i - begin + 1);

        // Memory: the previous outputs, most recent first.
        let output = dpm_output(config, levels[i]);
        let m = |back: usize| if back == 0 { output.clone() } else { Combination::memory(back - 1) };
        let differences = differences(levels, i, order, m);
        let (from, to) = (levels[i], levels[i + 1]);
        // The third order has only one form.
        let solver_type = if order == 3 { SolverType::Heun } else { config.solver_type };
        Step {
            prev_sample: dpm_update(config.algorithm_type, solver_type, from, to, Combination::sample(), differences),
            memory: (0..memory_slots).map(m).collect(),
            draw: Draw::fresh_if(is_sde(config.algorithm_type)),
            ..step(i)
        }
    });
    steps.collect()
}

/// Divided differences of the last `order` outputs, in units of the coming step's length h.
fn differences(levels: &[Level], i: usize, order: usize, m: impl Fn(usize) -> Combination) -> Differences {
    let h = levels[i + 1].lambda - levels[i].lambda;
    // Length of the step that came `back` steps before this one, in units of h.
    let r = |back: usize| (levels[i - back].lambda - levels[i - back - 1].lambda) / h;
    let d0 = m(0);
    match order {
        1 => Differences { d0, d1: None, d2: None },
        2 => Differences { d0, d1: Some((m(0) - m(1)) / r(0)), d2: None },
        _ => {
            let (r0, r1) = (r(0), r(1));
            let d1_0 = (m(0) - m(1)) / r0;
            let d1_1 = (m(1) - m(2)) / r1;
            let d1 = d1_0.clone() + r0 / (r0 + r1) * (d1_0.clone() - d1_1.clone());
            let d2 = (d1_0 - d1_1) / (r0 + r1);
            Differences { d0, d1: Some(d1), d2: Some(d2) }
        }
    }
}
