//! Linear combinations of the tensors at hand in one step of a scheduler.
//!
//! Every scheduler's update is such a combination, with coefficients that depend on the step alone. Writing the update
//! with [`Combination`] values in place of tensors gives those coefficients: the code reads like the paper, and the
//! sample itself is only touched later, by one kernel that serves them all.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// Coefficients of a linear combination, one a tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Combination {
    /// Of `sample`, x_t.
    pub sample: f64,
    /// Of `model_output` (without the channels of a learned variance).
    pub model_output: f64,
    /// Of `pred_original_sample`, the clipped or thresholded estimate of x_0.
    pub x0: f64,
    /// Of the fresh N(0, 1) noise of this step, after its [`NoiseScale`](super::NoiseScale).
    pub noise: f64,
    /// Of each memory slot's value before this step; slots beyond the end have coefficient 0.
    pub memory: Vec<f64>,
}

impl Combination {
    /// Nothing: all coefficients 0.
    pub fn zero() -> Self {
        Self::default()
    }

    /// x_t, the sample before the step.
    pub fn sample() -> Self {
        Self { sample: 1.0, ..Self::default() }
    }

    /// What the model returned for this step.
    pub fn model_output() -> Self {
        Self { model_output: 1.0, ..Self::default() }
    }

    /// `pred_original_sample`, after clipping.
    pub fn x0() -> Self {
        Self { x0: 1.0, ..Self::default() }
    }

    /// Fresh standard normal noise.
    pub fn noise() -> Self {
        Self { noise: 1.0, ..Self::default() }
    }

    /// Memory slot `slot`, as the previous steps left it.
    pub fn memory(slot: usize) -> Self {
        let mut memory = vec![0.0; slot + 1];
        memory[slot] = 1.0;
        Self { memory, ..Self::default() }
    }

    /// The coefficients in the order that kernels take them: sample, model_output, x0, noise, slot 0, slot 1, …
    /// (`slots` of them).
    pub fn coefficients(&self, slots: usize) -> Vec<f64> {
        let mut all = vec![self.sample, self.model_output, self.x0, self.noise];
        all.extend_from_slice(&self.memory);
        all.resize(4 + slots, 0.0);
        all
    }

    fn zip(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        let slots = self.memory.len().max(other.memory.len());
        let slot = |of: &Self, i: usize| of.memory.get(i).copied().unwrap_or(0.0);
        Self {
            sample: f(self.sample, other.sample),
            model_output: f(self.model_output, other.model_output),
            x0: f(self.x0, other.x0),
            noise: f(self.noise, other.noise),
            memory: (0..slots).map(|i| f(slot(&self, i), slot(&other, i))).collect(),
        }
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        self.zip(Self::zero(), |a, _| f(a))
    }
}

impl Add for Combination {
    type Output = Combination;
    fn add(self, other: Combination) -> Combination {
        self.zip(other, |a, b| a + b)
    }
}

impl Sub for Combination {
    type Output = Combination;
    fn sub(self, other: Combination) -> Combination {
        self.zip(other, |a, b| a - b)
    }
}

impl Neg for Combination {
    type Output = Combination;
    fn neg(self) -> Combination {
        self.map(|a| -a)
    }
}

impl Mul<Combination> for f64 {
    type Output = Combination;
    fn mul(self, of: Combination) -> Combination {
        of.map(|a| self * a)
    }
}

impl Div<f64> for Combination {
    type Output = Combination;
    fn div(self, by: f64) -> Combination {
        self.map(|a| a / by)
    }
}
