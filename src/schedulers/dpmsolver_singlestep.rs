//! DPM-Solver-2 and -3, and DPM-Solver++(2S): Lu, Zhou, Bao, Chen, Li & Zhu 2022, "DPM-Solver" (arXiv:2206.00927),
//! algorithms 1 and 2, and "DPM-Solver++" (arXiv:2211.01095), algorithm 1.
//!
//! Steps come in groups: a step of order 1, one of order 2, one of order 3, all from the same start and each reaching
//! further with the outputs that the ones before found on the way. A group's last step is its result.

use super::combination::Combination;
use super::config::SchedulerConfig;
use super::exponential::{Differences, Level, dpm_output, dpm_update, is_sde};
use super::options::{FinalSigmasType, SolverType};
use super::sigmas::exponential_integrator;
use super::step::{Schedule, Step};
use super::{Sampling, Scheduler};
use crate::Result;
use crate::rng::Draw;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let run = exponential_integrator(scheduler, sampling)?;
    let levels: Vec<Level> = run.sigmas.iter().map(|sigma| Level::new(*sigma)).collect();
    let n = run.timesteps.len();
    let begin = sampling.begin(n)?;
    let orders = order_list(config, n);

    // Memory: the previous outputs, most recent first, then the sample that the group started from.
    let outputs = config.solver_order - 1;
    let group_sample = outputs;
    let steps = (begin..n).map(|i| {
        // A run that begins in the middle of a group (image-to-image) has fewer outputs than the group's order needs.
        let order = orders[i].min(i - begin + 1);
        let output = dpm_output(config, levels[i]);
        let m = |back: usize| if back == 0 { output.clone() } else { Combination::memory(back - 1) };
        let sample = if order == 1 { Combination::sample() } else { Combination::memory(group_sample) };
        let from = levels[i + 1 - order];
        let differences = differences(&levels, i, order, config.solver_type, &m);
        let mut memory: Vec<Combination> = (0..outputs).map(m).collect();
        memory.push(sample.clone());
        Step {
            prev_sample: dpm_update(
                config.algorithm_type,
                solver_type(config, order),
                from,
                levels[i + 1],
                sample,
                differences,
            ),
            memory,
            draw: Draw::fresh_if(is_sde(config.algorithm_type)),
            ..levels[i].step(run.timesteps[i], config)
        }
    });
    let steps = steps.collect();
    Ok(Schedule { memory_slots: outputs + 1, steps, ..Schedule::new(1.0) })
}

/// Order 3 without its second difference still expands the first one exactly.
fn solver_type(config: &SchedulerConfig, order: usize) -> SolverType {
    if order == 3 { SolverType::Heun } else { config.solver_type }
}

/// The order of each of n steps: groups of `solver_order`, the last one cut short if it does not fit. A last group that
/// fits is done in two (1, 2, 1 in place of 1, 2, 3) with `lower_order_final`, and so is every one that ends without
/// noise.
fn order_list(config: &SchedulerConfig, n: usize) -> Vec<usize> {
    let order = config.solver_order;
    let mut orders: Vec<usize> = (0..n).map(|i| i % order + 1).collect();
    if config.final_sigmas_type == FinalSigmasType::Zero || (config.lower_order_final && n.is_multiple_of(order)) {
        orders[n - 1] = 1;
    }
    orders
}

/// Divided differences of a group's outputs at the level where the group started, in units of the coming step's length.
fn differences(
    levels: &[Level],
    i: usize,
    order: usize,
    solver_type: SolverType,
    m: &impl Fn(usize) -> Combination,
) -> Differences {
    let start = levels[i + 1 - order].lambda;
    let h = levels[i + 1].lambda - start;
    // How far from the start the output of `back` steps ago lies, in units of h.
    let r = |back: usize| (levels[i - back].lambda - start) / h;
    match order {
        1 => Differences { d0: m(0), d1: None, d2: None },
        2 => Differences { d0: m(1), d1: Some((m(0) - m(1)) / r(0)), d2: None },
        _ => {
            let (r0, r1) = (r(0), r(1));
            let d1_0 = (m(1) - m(2)) / r1;
            let d1_1 = (m(0) - m(2)) / r0;
            if solver_type == SolverType::Midpoint {
                return Differences { d0: m(2), d1: Some(d1_1), d2: None };
            }
            let d1 = (r0 * d1_0.clone() - r1 * d1_1.clone()) / (r0 - r1);
            let d2 = 2.0 / (r0 - r1) * (d1_1 - d1_0);
            Differences { d0: m(2), d1: Some(d1), d2: Some(d2) }
        }
    }
}
