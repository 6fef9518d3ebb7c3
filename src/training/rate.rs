//! Learning-rate schedules, by diffusers' names (`diffusers.optimization.get_scheduler`).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate changes, after a warm-up in which it rises from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateScheduleKind {
    /// It stays.
    #[default]
    Constant,
    /// It falls to 0 along a line.
    Linear,
    /// It falls to 0 along half a cosine.
    Cosine,
    /// It falls to 0 along the square of a line: torch's polynomial decay with power 2.
    Polynomial,
}

impl RateScheduleKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Constant, Self::Linear, Self::Cosine, Self::Polynomial];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Polynomial => "polynomial",
        }
    }
}

/// The learning rate by step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateSchedule {
    /// How it changes.
    pub kind: RateScheduleKind,
    /// Its highest value.
    pub peak: f64,
    /// Steps in which it rises from 0 to there.
    pub warmup: usize,
    /// All steps of the run.
    pub total: usize,
}

impl RateSchedule {
    /// The rate of the step that `step` others went before.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let rest = self.total.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / rest).min(1.0);
        self.peak
            * match self.kind {
                RateScheduleKind::Constant => 1.0,
                RateScheduleKind::Linear => 1.0 - done,
                RateScheduleKind::Cosine => 0.5 * (1.0 + (PI * done).cos()),
                RateScheduleKind::Polynomial => (1.0 - done).powi(2),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_diffusers() {
        let of = |kind| RateSchedule { kind, peak: 2.0, warmup: 4, total: 12 };
        // get_scheduler(NAME, optimizer, num_warmup_steps=4, num_training_steps=12) with a rate of 2.
        for (kind, expected) in [
            (RateScheduleKind::Constant, [0.0, 1.0, 2.0, 2.0, 2.0]),
            (RateScheduleKind::Linear, [0.0, 1.0, 2.0, 1.0, 0.25]),
            (RateScheduleKind::Cosine, [0.0, 1.0, 2.0, 1.0, 0.076_120_467_488_713_24]),
        ] {
            let found = [0, 2, 4, 8, 11].map(|step| of(kind).at(step));
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{}: {found:?}", kind.name());
        }
        assert_eq!(of(RateScheduleKind::Cosine).at(100), 0.0);
        let none = RateSchedule { kind: RateScheduleKind::Linear, peak: 1.0, warmup: 0, total: 0 };
        assert_eq!(none.at(0), 1.0);
    }
}
