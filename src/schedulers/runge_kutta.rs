//! Runge and Kutta's method of order 5 with steps of its own choice: Dormand & Prince 1980, "A family of embedded
//! Runge-Kutta formulae" (J. Comput. Appl. Math. 6), with the control of steps of Hairer, Nørsett & Wanner 1993,
//! "Solving Ordinary Differential Equations I", section II.4. The choices that those leave open are made as in scipy's
//! `solve_ivp(method="RK45")`, which Song et al. 2021 use, so that as many evaluations lead to the same numbers.

use crate::{Error, Result};

/// Times of the stages, in steps.
const C: [f64; 6] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0];
/// What each stage takes of the derivatives before it.
const A: [&[f64]; 6] = [
    &[],
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
];
/// The step of order 5.
const B: [f64; 6] = [35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0];
/// How far the step of order 4, which also sees the derivative at the end, is from it.
const E: [f64; 7] =
    [-71.0 / 57600.0, 0.0, 71.0 / 16695.0, -71.0 / 1920.0, 17253.0 / 339_200.0, -22.0 / 525.0, 1.0 / 40.0];

/// The error is of order 5 in the step.
const EXPONENT: f64 = -1.0 / 5.0;
/// The next step is this part of what the error allows, at least and at most these factors of the last.
const SAFETY: f64 = 0.9;
const MIN_FACTOR: f64 = 0.2;
const MAX_FACTOR: f64 = 10.0;

/// The most evaluations that anyone waits for.
const MAX_EVALUATIONS: usize = 1_000_000;

/// How exactly an ODE is followed: the error of a step may be `atol` + `rtol`·|y|, as the root of the mean square over
/// all numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RungeKutta {
    /// Relative.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
}

/// dy/dt at t and y.
pub type Derivative<'a> = dyn FnMut(f64, &[f64]) -> Result<Vec<f64>> + 'a;

/// Where an ODE led.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// y at the end.
    pub y: Vec<f64>,
    /// How often the derivative was asked for.
    pub evaluations: usize,
    /// Steps that were done.
    pub steps: usize,
    /// Steps that were tried and were too long.
    pub rejected: usize,
}

impl RungeKutta {
    /// The least `rtol`: below, f64 rounds more than that.
    pub const LEAST_RTOL: f64 = 100.0 * f64::EPSILON;

    /// Follows dy/dt = `derivative(t, y)` from `start` to `end`, either of which may be larger. `arrived` is told t
    /// after each step that counts; the last call of `derivative` was at its end.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a derivative is no finite number, or no step is short enough; what `derivative` and
    /// `arrived` return.
    pub fn solve(
        &self,
        (start, end): (f64, f64),
        mut y: Vec<f64>,
        derivative: &mut Derivative<'_>,
        arrived: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Solution> {
        let mut evaluations = 0;
        let mut f = |t: f64, y: &[f64]| {
            evaluations += 1;
            let found = derivative(t, y)?;
            match found.iter().find(|v| !v.is_finite()) {
                Some(bad) => Err(failed(t, &format!("the derivative holds {bad}"))),
                None if evaluations > MAX_EVALUATIONS => Err(failed(t, "the steps do not come to an end")),
                None => Ok(found),
            }
        };
        let direction = (end - start).signum();
        let (mut t, mut slope) = (start, f(start, &y)?);
        let mut length = self.first_step((start, end), &y, &slope, &mut f)?;
        let (mut steps, mut rejected) = (0, 0);
        while t != end {
            let least = 10.0 * (if direction > 0.0 { t.next_up() } else { t.next_down() } - t).abs();
            length = length.max(least);
            let mut shortened = false;
            loop {
                if length < least {
                    return Err(failed(
                        t,
                        "no step is short enough: the derivative jumps, or too little error is allowed",
                    ));
                }
                let mut next = t + direction * length;
                if direction * (next - end) > 0.0 {
                    next = end;
                }
                let h = next - t;
                length = h.abs();
                let mut slopes = vec![slope.clone()];
                for stage in 1..6 {
                    let at = moved(&y, h, A[stage], &slopes);
                    slopes.push(f(t + C[stage] * h, &at)?);
                }
                let new = moved(&y, h, &B, &slopes);
                slopes.push(f(next, &new)?);
                let error = moved(&vec![0.0; y.len()], h, &E, &slopes);
                let scaled =
                    error.iter().zip(y.iter().zip(&new)).map(|(e, (a, b))| e / self.scale(a.abs().max(b.abs())));
                let norm = rms(scaled);
                if norm < 1.0 {
                    let allowed = if norm == 0.0 { MAX_FACTOR } else { MAX_FACTOR.min(SAFETY * norm.powf(EXPONENT)) };
                    length *= if shortened { allowed.min(1.0) } else { allowed };
                    (t, y, slope) = (next, new, slopes.pop().expect("it was pushed above"));
                    break;
                }
                length *= MIN_FACTOR.max(SAFETY * norm.powf(EXPONENT));
                (shortened, rejected) = (true, rejected + 1);
            }
            steps += 1;
            arrived(t)?;
        }
        Ok(Solution { y, evaluations, steps, rejected })
    }

    /// The error that a number of this size may have.
    fn scale(&self, size: f64) -> f64 {
        self.atol + self.rtol * size
    }

    /// The length to begin with: the book's algorithm for it, which tries a step of Euler's.
    fn first_step(&self, (start, end): (f64, f64), y: &[f64], slope: &[f64], f: &mut Derivative<'_>) -> Result<f64> {
        let (whole, direction) = ((end - start).abs(), (end - start).signum());
        let norm = |values: &mut dyn Iterator<Item = f64>| rms(values.zip(y).map(|(v, y)| v / self.scale(y.abs())));
        let (size, speed) = (norm(&mut y.iter().copied()), norm(&mut slope.iter().copied()));
        let tried = if size < 1e-5 || speed < 1e-5 { 1e-6 } else { 0.01 * size / speed }.min(whole);
        let other = f(start + direction * tried, &moved(y, direction * tried, &[1.0], &[slope.to_vec()]))?;
        let bend = norm(&mut other.iter().zip(slope).map(|(a, b)| a - b)) / tried;
        let length = match speed.max(bend) {
            most if most <= 1e-15 => (tried * 1e-3).max(1e-6),
            most => (0.01 / most).powf(1.0 / 5.0),
        };
        Ok(length.min(100.0 * tried).min(whole))
    }
}

/// y + h Σ `weights`·`slopes`.
fn moved(y: &[f64], h: f64, weights: &[f64], slopes: &[Vec<f64>]) -> Vec<f64> {
    let sum = |i: usize| weights.iter().zip(slopes).map(|(weight, slope)| weight * slope[i]).sum::<f64>();
    y.iter().enumerate().map(|(i, y)| y + h * sum(i)).collect()
}

/// √(mean of squares).
fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value * value));
    (sum / f64::from(count.max(1))).sqrt()
}

fn failed(t: f64, why: &str) -> Error {
    Error::Checkpoint(format!(
        "the probability flow at t = {t}: {why}; the scheduler's config does not belong to the U-Net, or its weights \
         are damaged"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(
        (rtol, atol): (f64, f64),
        span: (f64, f64),
        y: &[f64],
        f: impl Fn(f64, &[f64]) -> Vec<f64>,
    ) -> Result<Solution> {
        RungeKutta { rtol, atol }.solve(span, y.to_vec(), &mut |t, y| Ok(f(t, y)), &mut |_| Ok(()))
    }

    /// scipy 1.17: `solve_ivp(f, span, y, "RK45", rtol=rtol, atol=atol)`, its `y[:, -1]`, `nfev` and `len(t) - 1`.
    #[test]
    fn numbers_and_evaluations_are_those_of_scipy() {
        let spiral = |_: f64, y: &[f64]| vec![-0.1 * y[0] + y[1], -y[0] - 0.1 * y[1]];
        let stiff = |_: f64, y: &[f64]| vec![y[1], 5.0 * (1.0 - y[0] * y[0]) * y[1] - y[0]];
        let back = |t: f64, y: &[f64]| vec![y[0] * t.cos() / t];
        let usual = (1e-5, 1e-5);
        let check = |found: Result<Solution>, y: &[f64], evaluations: usize, steps: usize| {
            let found = found.expect("it is smooth");
            let off = found.y.iter().zip(y).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-9, "{found:?}, expected {y:?}");
            assert_eq!((found.evaluations, found.steps), (evaluations, steps), "{found:?}");
            assert_eq!(found.evaluations, 2 + 6 * (found.steps + found.rejected), "{found:?}");
        };
        check(solve(usual, (0.0, 10.0), &[1.0, 0.5], spiral), &[-0.4087179913495725, 0.045796797359462016], 140, 23);
        check(solve(usual, (0.0, 20.0), &[2.0, 0.0], stiff), &[-1.6012950472353193, 0.19833035818542694], 1100, 154);
        check(solve((1e-6, 1e-8), (3.0, 1e-3), &[1.0], back), &[0.001580234210629538], 218, 20);
        check(solve(usual, (0.0, 1.0), &[2.0], |_, _| vec![0.0]), &[2.0], 44, 7);
    }

    #[test]
    fn what_has_no_end_is_an_error() {
        let tolerance = (1e-6, 1e-6);
        let pole = solve(tolerance, (0.0, 2.0), &[1.0], |_, y| vec![y[0] * y[0]]).unwrap_err().to_string();
        assert!(pole.contains("t = 1") || pole.contains("t = 0.99"), "{pole}");
        let bad = solve(tolerance, (1.0, 0.0), &[1.0], |t, _| vec![1.0 / (t - 1.0)]).unwrap_err().to_string();
        assert!(bad.contains("holds inf"), "{bad}");
    }
}
