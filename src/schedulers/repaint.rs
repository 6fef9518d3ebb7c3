//! RePaint: Lugmayr, Danelljan, Romero, Yu, Timofte & Van Gool 2022, "RePaint: Inpainting using Denoising Diffusion
//! Probabilistic Models" (arXiv:2201.09865), algorithm 1.
//!
//! After each step, what stays of a picture is put back, noised to the level of the sample (line 5). That leaves seams,
//! since the model never saw both parts together: so the run goes back to more noise (line 10) and down again, several
//! times ([`timesteps`]). The steps are DDIM's, as in diffusers: with an η of 1 they have DDPM's variance.

use super::betas::{Noising, stored};
use super::combination::Combination;
use super::step::{Repaint, Schedule, Step, X0, pred_epsilon};
use super::{Sampling, Scheduler};
use crate::Result;
use crate::refusal::Refusal;
use crate::rng::Draw;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    let trained = config.num_train_timesteps;
    super::timesteps::check_steps(config, sampling.num_inference_steps)?;
    sampling.begin(sampling.num_inference_steps)?; // checks its numbers; every run is a whole one
    for (field, number) in [("jump_length", sampling.jump_length), ("jump_n_sample", sampling.jump_n_sample)] {
        if number == 0 || number > trained {
            return Err(Refusal::of_value(field, number, format!("expected 1 to {trained}")).into());
        }
    }
    let stride = trained / sampling.num_inference_steps;
    let mut steps: Vec<Step> = Vec::new();
    let mut last = usize::MAX;
    for number in timesteps(sampling) {
        let t = number * stride;
        match steps.last_mut().and_then(|step| step.repaint.as_mut()) {
            // Up again: from the level below the last timestep to its own, by each of the trained steps between them.
            Some(repaint) if t > last => {
                repaint.back.extend_from_slice(&scheduler.noise_schedule.betas[last..last + stride]);
            }
            _ => steps.push(step(scheduler, t, t.checked_sub(stride), sampling)?),
        }
        last = t;
    }
    Ok(Schedule { steps, ..Schedule::new(1.0) })
}

/// The steps of a run by their numbers, 0 the last: down, but `jump_length` of them up again at every multiple of it,
/// `jump_n_sample` − 1 times (appendix B there).
fn timesteps(sampling: &Sampling) -> Vec<usize> {
    let (n, jump) = (sampling.num_inference_steps, sampling.jump_length);
    let mut jumps = vec![0; n];
    (0..n.saturating_sub(jump)).step_by(jump).for_each(|at| jumps[at] = sampling.jump_n_sample - 1);
    let mut all = Vec::new();
    let mut t = n;
    while t > 0 {
        t -= 1;
        all.push(t);
        if jumps[t] > 0 {
            jumps[t] -= 1;
            all.extend(t + 1..=t + jump);
            t += jump;
        }
    }
    all
}

/// From x_t to x_{prev_t} where the picture is made, and to the noised picture where it stays; `None` is clean.
fn step(scheduler: &Scheduler, t: usize, prev_t: Option<usize>, sampling: &Sampling) -> Result<Step> {
    let Scheduler { config, noise_schedule } = scheduler;
    let alphas_cumprod = &noise_schedule.alphas_cumprod;
    let alpha_prod_t = alphas_cumprod[t];
    let alpha_prod_t_prev = prev_t.map_or(1.0, |t| alphas_cumprod[t]);
    let (alpha, sigma) = (alpha_prod_t.sqrt(), (1.0 - alpha_prod_t).sqrt());

    // DDIM's eqs. 16 and 12 (arXiv:2010.02502). The noise is that of line 5 too; none is left at timestep 0.
    let variance = (1.0 - alpha_prod_t_prev) / (1.0 - alpha_prod_t) * (1.0 - stored(alpha_prod_t / alpha_prod_t_prev));
    let std_dev_t = sampling.eta * variance.max(0.0).sqrt();
    let direction_squared = 1.0 - alpha_prod_t_prev - std_dev_t.powi(2);
    if direction_squared < -1e-6 {
        let why = format!("more noise than timestep {t} can take; 0 to 1 is usual");
        return Err(Refusal::of_value("eta", sampling.eta, why).into());
    }
    let pred_epsilon = pred_epsilon(config.prediction_type, alpha, sigma);
    let noise = if t > 0 { std_dev_t } else { 0.0 };
    let prev_sample = alpha_prod_t_prev.sqrt() * Combination::x0()
        + direction_squared.max(0.0).sqrt() * pred_epsilon
        + noise * Combination::noise();

    // Eq. 8a: q(x_{t−1} | x_0). (Line 5 as printed has the variance in place of its root.)
    let known = Noising { signal: alpha_prod_t_prev.sqrt(), noise: (1.0 - alpha_prod_t_prev).sqrt() };
    let x0 = X0::new(config.prediction_type, alpha, sigma, config.clip);
    Ok(Step {
        prev_sample,
        draw: Draw::Fresh,
        repaint: Some(Repaint { known, back: Vec::new() }),
        ..Step::new(t as f64, x0, noise_schedule.noising(t)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_goes_down_with_jumps() {
        let run = |steps, jump_length, jump_n_sample| {
            timesteps(&Sampling { jump_length, jump_n_sample, ..Sampling::steps(steps) })
        };
        assert_eq!(run(3, 10, 10), [2, 1, 0]);
        assert_eq!(run(4, 2, 2), [3, 2, 1, 0, 1, 2, 1, 0]);
        assert_eq!(run(5, 2, 3), [4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]);
        // Appendix B's own numbers: 250 steps, jumps of 10, 10 times each, 4570 timesteps.
        assert_eq!(run(250, 10, 10).len(), 250 + 2 * 10 * 9 * 24);
    }
}
