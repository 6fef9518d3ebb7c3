//! PNDM: Liu, Ren, Lin & Zhao 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds" (arXiv:2202.09778).
//!
//! A step moves x_t to another timestep along a fixed ε by the transfer φ (eq. 11, DDIM's step in another form);
//! classical solvers of ordinary differential equations then say which ε to take: a linear multistep (eq. 12) of the
//! last four, or, where there are none yet, Runge–Kutta's four evaluations (eq. 13) for each of the first three steps
//! (`prk`). With `skip_prk_steps` the history instead builds up over multistep formulas of lower order, the first of
//! which is done twice.

use super::combination::Combination;
use super::options::{PredictionType, TimestepSpacing};
use super::step::{Schedule, Step, X0};
use super::timesteps::{check, check_steps, linspace, trailing};
use super::{Sampling, Scheduler};
use crate::refusal::Refusal;
use crate::{Error, Result};

/// Calls of the model in the Runge–Kutta phase: three steps of four.
const PRK_CALLS: usize = 12;

// Memory: the last three model outputs (most recent first), the sample that a Runge–Kutta or a repeated step started
// from, and the weighted sum of the model outputs within a Runge–Kutta step.
const ETS: [usize; 3] = [0, 1, 2];
const CUR_SAMPLE: usize = 3;
const CUR_MODEL_OUTPUT: usize = 4;

/// A transfer: from which timestep to which, starting at which sample, along which model output.
struct Transfer {
    timestep: isize,
    prev_timestep: isize,
    sample: Combination,
    model_output: Combination,
}

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    if sampling.timesteps.is_some() || sampling.sigmas.is_some() {
        return Err(Error::Usage("PNDMScheduler takes a number of steps, not custom timesteps or sigmas".into()));
    }
    let n = sampling.num_inference_steps;
    let stride = (config.num_train_timesteps / n.max(1)) as isize;
    let visited = visited(scheduler, n)?;
    let timesteps = if config.skip_prk_steps { repeat_second(&visited) } else { prk_then_plms(&visited, stride)? };

    // As in diffusers, a run that begins later (image-to-image) goes through the same phases from its own first step.
    let begin = sampling.begin(n)?;
    let mut steps = vec![];
    let mut outputs = 0;
    for (counter, &timestep) in timesteps[begin..].iter().enumerate() {
        let runge_kutta = !config.skip_prk_steps && counter < PRK_CALLS;
        let continues = if runge_kutta { !counter.is_multiple_of(4) } else { counter == 1 };
        let (transfer, memory) = if runge_kutta {
            outputs += usize::from(counter.is_multiple_of(4));
            let start = timesteps[counter / 4 * 4];
            prk(counter, timestep, start, stride)
        } else {
            outputs += usize::from(counter != 1);
            plms(counter, timestep, outputs, stride)
        };
        let t = usize::try_from(timestep).expect("timesteps of the schedule are not negative");
        let noising = scheduler.noise_schedule.noising(t)?;
        let x0 = X0::new(config.prediction_type, noising.signal, noising.noise, config.clip);
        let prev_sample = prev_sample(scheduler, transfer)?;
        steps.push(Step { prev_sample, memory, continues, ..Step::new(t as f64, x0, noising) });
    }
    Ok(Schedule { memory_slots: 5, steps, ..Schedule::new(1.0) })
}

/// The n timesteps of the spacing, ascending.
fn visited(scheduler: &Scheduler, n: usize) -> Result<Vec<isize>> {
    let config = &scheduler.config;
    let trained = config.num_train_timesteps;
    check_steps(config, n)?;
    Ok(match config.timestep_spacing {
        TimestepSpacing::Linspace => {
            linspace(0.0, (trained - 1) as f64, n).into_iter().map(|t| t.round_ties_even() as isize).collect()
        }
        TimestepSpacing::Leading => {
            let timesteps: Vec<usize> = (0..n).map(|i| i * (trained / n) + config.steps_offset).collect();
            check(config, &timesteps)?;
            timesteps.into_iter().map(|t| t as isize).collect()
        }
        TimestepSpacing::Trailing => trailing(trained, trained, n).into_iter().rev().map(|t| t as isize - 1).collect(),
    })
}

/// Descending, the second one twice: t_0, t_1, t_1, t_2, …
fn repeat_second(visited: &[isize]) -> Vec<isize> {
    let mut timesteps: Vec<isize> = visited.iter().rev().copied().collect();
    if timesteps.len() > 1 {
        timesteps.insert(1, timesteps[1]);
    }
    timesteps
}

/// Three steps of Runge–Kutta between the four largest timesteps, each evaluated at its start, twice at its middle and
/// at its end; then the rest, descending.
fn prk_then_plms(visited: &[isize], stride: isize) -> Result<Vec<isize>> {
    let n = visited.len();
    if n < 4 {
        let why = "PNDM needs at least 4 steps, unless its config has skip_prk_steps";
        return Err(Refusal::of_value("steps", n, why).into());
    }
    let mut timesteps = vec![];
    for pair in visited[n - 4..].windows(2).rev() {
        let middle = pair[0] + stride / 2;
        timesteps.extend([pair[1], middle, middle, pair[0]]);
    }
    timesteps.extend(visited[..n - 3].iter().rev());
    Ok(timesteps)
}

/// One of the four evaluations of a Runge–Kutta step (eq. 13): ε = (e_1 + 2 e_2 + 2 e_3 + e_4)/6.
fn prk(counter: usize, timestep: isize, start: isize, stride: isize) -> (Transfer, Vec<Combination>) {
    let m = Combination::model_output();
    let sum = if counter.is_multiple_of(4) { Combination::zero() } else { Combination::memory(CUR_MODEL_OUTPUT) };
    let mut memory: Vec<Combination> = (0..5).map(Combination::memory).collect();
    let mut model_output = m.clone();
    match counter % 4 {
        0 => {
            memory = remember(&m);
            memory[CUR_SAMPLE] = Combination::sample();
            memory[CUR_MODEL_OUTPUT] = sum + m / 6.0;
        }
        1 | 2 => memory[CUR_MODEL_OUTPUT] = sum + m / 3.0,
        _ => model_output = sum + m / 6.0,
    }
    let sample = if counter.is_multiple_of(4) { Combination::sample() } else { Combination::memory(CUR_SAMPLE) };
    let to_prev = if counter.is_multiple_of(2) { stride / 2 } else { 0 };
    (Transfer { timestep: start, prev_timestep: timestep - to_prev, sample, model_output }, memory)
}

/// A linear multistep (eq. 12) of as many model outputs as there are, `outputs` with this one, up to four.
fn plms(counter: usize, timestep: isize, outputs: usize, stride: isize) -> (Transfer, Vec<Combination>) {
    let m = Combination::model_output();
    let e = |back: usize| if back == 0 { Combination::model_output() } else { Combination::memory(ETS[back - 1]) };
    let mut memory = remember(&m);
    let mut transfer =
        Transfer { timestep, prev_timestep: timestep - stride, sample: Combination::sample(), model_output: m.clone() };
    if counter == 0 {
        memory[CUR_SAMPLE] = Combination::sample();
    } else if counter == 1 {
        // The first step once more, from where it started, with the mean of both its ends. This output is not
        // remembered.
        transfer.timestep = timestep + stride;
        transfer.prev_timestep = timestep;
        transfer.sample = Combination::memory(CUR_SAMPLE);
        transfer.model_output = (m + Combination::memory(ETS[0])) / 2.0;
        memory = (0..5).map(Combination::memory).collect();
    } else {
        transfer.model_output = match outputs {
            2 => (3.0 * e(0) - e(1)) / 2.0,
            3 => (23.0 * e(0) - 16.0 * e(1) + 5.0 * e(2)) / 12.0,
            _ => (55.0 * e(0) - 59.0 * e(1) + 37.0 * e(2) - 9.0 * e(3)) / 24.0,
        };
    }
    (transfer, memory)
}

/// The memory with a new model output in front of the others.
fn remember(model_output: &Combination) -> Vec<Combination> {
    vec![
        model_output.clone(),
        Combination::memory(0),
        Combination::memory(1),
        Combination::memory(3),
        Combination::memory(4),
    ]
}

/// The transfer φ of eq. 11.
fn prev_sample(scheduler: &Scheduler, transfer: Transfer) -> Result<Combination> {
    let Transfer { timestep, prev_timestep, sample, mut model_output } = transfer;
    let alphas_cumprod = &scheduler.noise_schedule.alphas_cumprod;
    let final_alpha_cumprod = if scheduler.config.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
    let Some(&alpha_prod_t) = usize::try_from(timestep).ok().and_then(|t| alphas_cumprod.get(t)) else {
        return Err(Error::Config(format!(
            "scheduler: PNDM would step from timestep {timestep}, which was not trained"
        )));
    };
    let alpha_prod_t_prev = usize::try_from(prev_timestep).map_or(final_alpha_cumprod, |t| alphas_cumprod[t]);
    let beta_prod_t = 1.0 - alpha_prod_t;
    let beta_prod_t_prev = 1.0 - alpha_prod_t_prev;
    if scheduler.config.prediction_type == PredictionType::VPrediction {
        model_output = alpha_prod_t.sqrt() * model_output + beta_prod_t.sqrt() * sample.clone();
    }
    let sample_coeff = (alpha_prod_t_prev / alpha_prod_t).sqrt();
    let model_output_denom_coeff =
        alpha_prod_t * beta_prod_t_prev.sqrt() + (alpha_prod_t * beta_prod_t * alpha_prod_t_prev).sqrt();
    Ok(sample_coeff * sample - (alpha_prod_t_prev - alpha_prod_t) / model_output_denom_coeff * model_output)
}
