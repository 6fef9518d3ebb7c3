//! UniPC: Zhao, Bai, Rao, Zhou & Lu 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
//! Diffusion Models" (arXiv:2302.04867), algorithms 1 and 2 (and 5 to 8 for x_0 instead of ε).
//!
//! When the model has been called at the sample that the previous step predicted, its output first *corrects* that step
//! (UniC), at no extra call; then the next step is *predicted* (UniP) from the corrected sample.

use super::combination::Combination;
use super::exponential::Level;
use super::options::SolverType;
use super::sigmas::exponential_integrator;
use super::step::{Schedule, Step};
use super::{Sampling, Scheduler};
use crate::Result;

// Memory: the corrected sample that the previous step started from, then the previous outputs, most recent first.
const LAST_SAMPLE: usize = 0;
const LAST_OUTPUT: usize = 1;

pub(super) fn schedule(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    let run = exponential_integrator(scheduler, sampling)?;
    let levels: Vec<Level> = run.sigmas.iter().map(|sigma| Level::new(*sigma)).collect();
    let n = run.timesteps.len();
    let begin = sampling.begin(n)?;

    let mut steps = vec![];
    let mut last_order = 0;
    for i in begin..n {
        let output = if config.predict_x0 { Combination::x0() } else { levels[i].epsilon(config, false) };
        let solver = Solver { levels: &levels, predict_x0: config.predict_x0, solver_type: config.solver_type };

        let correct = i > begin && !config.disable_corrector.contains(&(i - 1));
        let sample = if correct {
            let m = |back: usize| Combination::memory(LAST_OUTPUT + back);
            solver.correct(i - 1, last_order, Combination::memory(LAST_SAMPLE), m, output.clone())
        } else {
            Combination::sample()
        };

        let order = if config.lower_order_final { config.solver_order.min(n - i) } else { config.solver_order };
        let order = order.min(i - begin + 1);
        let m = |back: usize| if back == 0 { output.clone() } else { Combination::memory(LAST_OUTPUT + back - 1) };
        let prev_sample = solver.predict(i, order, sample.clone(), m);
        let memory = std::iter::once(sample).chain((0..config.solver_order).map(m)).collect();
        steps.push(Step { prev_sample, memory, ..levels[i].step(run.timesteps[i], config) });
        last_order = order;
    }
    Ok(Schedule { memory_slots: 1 + config.solver_order, steps, ..Schedule::new(1.0) })
}

struct Solver<'a> {
    levels: &'a [Level],
    predict_x0: bool,
    solver_type: SolverType,
}

/// The numbers of one step from level i: h and what follows from it.
struct Interval {
    /// Lengths r_k of the way back to the previous outputs, in units of h; negative.
    r: Vec<f64>,
    /// The right-hand side of the conditions on the weights, for each order (eq. 8 and 10).
    b: Vec<f64>,
    /// B(h), which the weights are relative to: h for bh1, e^h − 1 for bh2.
    b_h: f64,
    /// The exact part of the step: coefficients of the sample and of m_0.
    sample: f64,
    m0: f64,
    /// What B(h) is multiplied with: α_t for x_0, σ_t for ε.
    scale: f64,
}

impl Solver<'_> {
    fn interval(&self, i: usize, order: usize) -> Interval {
        let (s, t) = (self.levels[i], self.levels[i + 1]);
        let h = t.lambda - s.lambda;
        let hh = if self.predict_x0 { -h } else { h };
        let h_phi_1 = hh.exp_m1();
        let b_h = if self.solver_type == SolverType::Bh1 { hh } else { h_phi_1 };
        let mut h_phi_k = h_phi_1 / hh - 1.0;
        let mut factorial = 1.0;
        let mut b = vec![];
        for k in 1..=order {
            b.push(h_phi_k * factorial / b_h);
            factorial *= (k + 1) as f64;
            h_phi_k = h_phi_k / hh - 1.0 / factorial;
        }
        let (sample, scale) = if self.predict_x0 { (t.sigma / s.sigma, t.alpha) } else { (t.alpha / s.alpha, t.sigma) };
        let r = (1..order).map(|back| (self.levels[i - back].lambda - s.lambda) / h).collect();
        Interval { r, b, b_h, sample, m0: -scale * h_phi_1, scale }
    }

    /// UniP: the step from level i, with the outputs m(0) at level i, m(1) at level i − 1, …
    fn predict(&self, i: usize, order: usize, sample: Combination, m: impl Fn(usize) -> Combination) -> Combination {
        if self.levels[i].lambda == self.levels[i + 1].lambda {
            // A step of no length, as the last one where spaced levels end at the final one.
            return sample;
        }
        let interval = self.interval(i, order);
        let mut step = interval.sample * sample + interval.m0 * m(0);
        // Order 2 has one condition, which ρ = ½ meets to first order whatever h is.
        let rhos = match order {
            1 => vec![],
            2 => vec![0.5],
            _ => solve(&interval.r, &interval.b[..order - 1]),
        };
        for (k, rho) in rhos.iter().enumerate() {
            step = step - interval.scale * interval.b_h * rho / interval.r[k] * (m(k + 1) - m(0));
        }
        step
    }

    /// UniC: the same step done again, with the output at its end as one more.
    fn correct(
        &self,
        i: usize,
        order: usize,
        sample: Combination,
        m: impl Fn(usize) -> Combination,
        at_end: Combination,
    ) -> Combination {
        let interval = self.interval(i, order);
        let mut step = interval.sample * sample + interval.m0 * m(0);
        let mut r = interval.r.clone();
        r.push(1.0);
        let rhos = if order == 1 { vec![0.5] } else { solve(&r, &interval.b) };
        for (k, rho) in rhos.iter().enumerate() {
            let output = if k + 1 == order { at_end.clone() } else { m(k + 1) };
            step = step - interval.scale * interval.b_h * rho / r[k] * (output - m(0));
        }
        step
    }
}

/// The weights ρ with Σ_k ρ_k r_k^j = b_j for j = 0, 1, …: a Vandermonde system of at most three unknowns, by Gaussian
/// elimination with pivoting.
fn solve(r: &[f64], b: &[f64]) -> Vec<f64> {
    let n = r.len();
    let mut rows: Vec<Vec<f64>> = (0..n).map(|j| r.iter().map(|r| r.powi(j as i32)).chain([b[j]]).collect()).collect();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, pivot.expect("there is at least this row"));
        let pivot_row = rows[column].clone();
        for row in &mut rows[column + 1..] {
            let factor = row[column] / pivot_row[column];
            row.iter_mut().zip(&pivot_row).for_each(|(x, p)| *x -= factor * p);
        }
    }
    let mut rhos = vec![0.0; n];
    for j in (0..n).rev() {
        let known: f64 = (j + 1..n).map(|k| rows[j][k] * rhos[k]).sum();
        rhos[j] = (rows[j][n] - known) / rows[j][j];
    }
    rhos
}
