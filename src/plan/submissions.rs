//! How launches are grouped into submissions, on any kind of session.

use std::sync::Mutex;
use std::time::Duration;

use super::Launch;
use crate::clock::Instant;
use crate::error::Result;

/// Work per submission on a device of unknown speed: like [`super::PlanOptions::max_launch_flops`], for the sum of many
/// launches.
pub const SUBMISSION_FLOPS: u64 = 50_000_000_000;

/// What a submission should take at most. Drivers' watchdogs wait two seconds; kernels differ in speed by far less than
/// the factor between.
const SUBMISSION_SECONDS: f64 = 0.2;

/// Submissions of less work tell nothing: waiting for them takes as long as they do.
const TELLING_FLOPS: u64 = 1_000_000_000;

/// Splits launches into runs of at most `flops`, so that none outlasts a driver's watchdog; returns the number of
/// launches in each. No launches make one empty run.
pub fn submissions(launches: &[Launch], flops: u64) -> Vec<usize> {
    let mut groups = Vec::new();
    let (mut count, mut sum) = (0, 0);
    for launch in launches {
        if count > 0 && sum + launch.cost.flops > flops {
            groups.push(std::mem::take(&mut count));
            sum = 0;
        }
        count += 1;
        sum += launch.cost.flops;
    }
    groups.push(count);
    groups
}

/// How fast a device has been so far, and so how much work one submission may hold.
#[derive(Debug, Default)]
pub struct Pace {
    /// Floating-point operations a second: the slowest seen lately; none yet at first.
    slowest: Mutex<Option<f64>>,
}

impl Pace {
    /// A submission of this much work took this long, waiting included.
    pub fn took(&self, flops: u64, time: Duration) {
        if flops < TELLING_FLOPS {
            return;
        }
        let seen = flops as f64 / time.as_secs_f64().max(1e-6);
        let mut slowest = self.slowest.lock().expect("no holder of this lock panics");
        // Slower counts at once, faster only bit by bit: the device may be shared.
        *slowest = Some(slowest.map_or(seen, |known| if seen < known { seen } else { known + (seen - known) / 8.0 }));
    }

    /// The work that one submission may hold.
    pub fn submission_flops(&self) -> u64 {
        let slowest = *self.slowest.lock().expect("no holder of this lock panics");
        slowest.map_or(SUBMISSION_FLOPS, |flops| SUBMISSION_FLOPS.max((SUBMISSION_SECONDS * flops) as u64))
    }
}

/// What a session has last given its device to do. Each submission is encoded while another runs, no more: progress
/// stays honest and the queue short.
#[derive(Debug)]
pub struct InFlight<S> {
    last: Option<Submitted<S>>,
}

#[derive(Debug)]
struct Submitted<S> {
    submission: S,
    flops: u64,
    /// When it was submitted, or when the one before was seen to have ended if that was later.
    since: Instant,
}

impl<S> Default for InFlight<S> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<S> InFlight<S> {
    /// A submission of this much work was made: waits for the one before it.
    ///
    /// # Errors
    /// As `wait`.
    pub fn push(&mut self, submission: S, flops: u64, pace: &Pace, wait: impl FnOnce(S) -> Result<()>) -> Result<()> {
        match self.last.replace(Submitted { submission, flops, since: Instant::now() }) {
            Some(previous) => self.end(previous, pace, wait),
            None => Ok(()),
        }
    }

    /// Waits for what was submitted last, so that the time until more is submitted does not count as its own.
    ///
    /// # Errors
    /// As `wait`.
    pub fn finish(&mut self, pace: &Pace, wait: impl FnOnce(S) -> Result<()>) -> Result<()> {
        self.last.take().map_or(Ok(()), |last| self.end(last, pace, wait))
    }

    /// Waits for a submission, and learns from it how fast the device is.
    fn end(&mut self, submitted: Submitted<S>, pace: &Pace, wait: impl FnOnce(S) -> Result<()>) -> Result<()> {
        wait(submitted.submission)?;
        let now = Instant::now();
        pace.took(submitted.flops, now - submitted.since);
        if let Some(next) = &mut self.last {
            next.since = now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Cost;

    #[test]
    fn submissions_grow_with_the_device() {
        let launch = |flops| Launch {
            value: 0,
            variant: String::new(),
            kernel: 0,
            bindings: Vec::new(),
            params: Vec::new(),
            workgroups: [1; 3],
            cost: Cost { flops, bytes: 0 },
        };
        let launches: Vec<Launch> = [20, 20, 20, 90, 5].map(|gigaflops| launch(gigaflops * 1_000_000_000)).into();
        let pace = Pace::default();
        let groups = || submissions(&launches, pace.submission_flops());
        assert_eq!(groups(), [2, 1, 1, 1], "a launch that is too long stands alone");
        pace.took(500_000_000, Duration::from_micros(1));
        assert_eq!(groups(), [2, 1, 1, 1], "too little work to tell");
        pace.took(50_000_000_000, Duration::from_millis(50)); // 1 TFLOP/s: 200 GFLOP in 0.2 s
        assert_eq!(groups(), [5]);
        pace.took(50_000_000_000, Duration::from_millis(150)); // another program takes two thirds
        assert_eq!(groups(), [3, 1, 1]);
        assert_eq!(submissions(&[], 1), [0]);
    }
}
