//! Runs a session until its time is known.

use std::time::{Duration, Instant};

use super::samples::Samples;
use crate::error::{Error, Result};
use crate::gpu::GpuSession;
use crate::session::Session;

/// How much may be spent on one timing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// At least this many samples, whatever they cost.
    pub least: usize,
    /// At most this many.
    pub most: usize,
    /// No more once these seconds are spent,
    pub seconds: f64,
    /// or once the uncertainty ([`Samples::uncertainty`]) is below this.
    pub uncertainty: f64,
}

impl Default for Effort {
    /// Half a second and ± 1 %, from 5 to 100 samples.
    fn default() -> Self {
        Self { least: 5, most: 100, seconds: 0.5, uncertainty: 0.01 }
    }
}

impl Effort {
    fn enough(&self, started: Instant, samples: &Samples) -> bool {
        let enough = started.elapsed().as_secs_f64() >= self.seconds || samples.uncertainty() < self.uncertainty;
        samples.len() >= self.most.max(1) || (samples.len() >= self.least && enough)
    }
}

/// Runs within one wall-clock sample, so that waiting for the device is shared among them.
const RUNS: f64 = 20.0;
/// About how many seconds such a sample takes.
const SAMPLE_SECONDS: f64 = 0.02;

/// The time of each launch of the step list, by the device's clock; one more run before, which includes what the driver
/// puts off until then.
///
/// # Errors
/// As [`GpuSession::profile`].
pub fn time_launches(session: &mut GpuSession, effort: &Effort) -> Result<Vec<Samples>> {
    session.run()?;
    session.wait()?;
    let mut launches = vec![Samples::default(); session.program().step.len()];
    let mut all = Samples::default();
    let started = Instant::now();
    while !effort.enough(started, &all) {
        let times = session.profile()?;
        all.push(times.iter().sum::<Duration>().as_secs_f64());
        launches.iter_mut().zip(&times).for_each(|(samples, time)| samples.push(time.as_secs_f64()));
    }
    Ok(launches)
}

/// The time of the step list as a whole: by the device's clock, launch by launch, so that neither submission nor
/// waiting counts; on devices without timestamps by the wall clock, several runs to one wait.
///
/// # Errors
/// [`Error::Device`] if the device was lost.
pub fn time_program(session: &mut GpuSession, effort: &Effort) -> Result<Samples> {
    session.run()?;
    session.wait()?;
    let mut samples = Samples::default();
    let mut runs = None;
    let started = Instant::now();
    while !effort.enough(started, &samples) {
        match session.profile() {
            Ok(times) => samples.push(times.iter().sum::<Duration>().as_secs_f64()),
            Err(Error::Unsupported(_)) => {
                let runs = match runs {
                    Some(runs) => runs,
                    None => *runs.insert((SAMPLE_SECONDS / wall(session, 1)?.max(1e-9)).clamp(1.0, RUNS) as u32),
                };
                samples.push(wall(session, runs)?);
            }
            Err(other) => return Err(other),
        }
    }
    Ok(samples)
}

/// Seconds of one of `runs` runs by the wall clock.
fn wall(session: &mut GpuSession, runs: u32) -> Result<f64> {
    let start = Instant::now();
    (0..runs).try_for_each(|_| session.run())?;
    session.wait()?;
    Ok(start.elapsed().as_secs_f64() / f64::from(runs))
}
