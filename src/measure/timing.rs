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
    /// A GPU works for so many seconds before anything counts.
    pub warm_up: f64,
}

/// Seconds after which a GPU that was idle runs at its full clock. An H100 that had little to do for some seconds was 5
/// times slower in the 50 ms that followed (2026-11-26).
pub(super) const WARM_UP: f64 = 0.2;

impl Default for Effort {
    /// Half a second and ± 1 %, from 5 to 100 samples.
    fn default() -> Self {
        Self { least: 5, most: 100, seconds: 0.5, uncertainty: 0.01, warm_up: WARM_UP }
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
    warm_up(session, effort)?;
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
    Ok(time_side_by_side(&mut [session], effort)?.remove(0))
}

/// What takes this many times as long as the fastest is not timed again: one sample says enough.
const HOPELESS: f64 = 10.0;

/// As [`time_program`] for several programs in turn, one sample of each after the other, so that what disturbs the
/// machine disturbs all of them. Those that take more than ten times as long as the fastest get one sample.
///
/// # Errors
/// As [`time_program`].
pub fn time_side_by_side(sessions: &mut [&mut GpuSession], effort: &Effort) -> Result<Vec<Samples>> {
    let mut timed: Vec<(Timed, Samples)> = Vec::with_capacity(sessions.len());
    if let Some(first) = sessions.first_mut() {
        warm_up(first, effort)?;
    }
    for session in sessions.iter_mut() {
        session.run()?;
        session.wait()?;
        let mut once = Timed::default();
        let sample = once.sample(session)?;
        timed.push((once, Samples::new(vec![sample])));
    }
    let fastest = timed.iter().map(|(_, samples)| samples.least()).fold(f64::INFINITY, f64::min);
    let promising: Vec<bool> = timed.iter().map(|(_, samples)| samples.least() <= HOPELESS * fastest).collect();
    let started = Instant::now();
    // What is known well enough waits for the others, so that all samples are taken in turn.
    let known = |timed: &[(Timed, Samples)]| {
        timed.iter().zip(&promising).all(|((_, samples), more)| !more || effort.enough(started, samples))
    };
    while !known(&timed) {
        for ((session, (timed, samples)), more) in sessions.iter_mut().zip(&mut timed).zip(&promising) {
            if *more {
                samples.push(timed.sample(session)?);
            }
        }
    }
    Ok(timed.into_iter().map(|(_, samples)| samples).collect())
}

/// The time of whole runs by the wall clock, from submission until the device is done. No run before: the first one is
/// worth a figure of its own.
///
/// # Errors
/// [`Error::Device`] if the device was lost.
pub fn time_wall(session: &mut GpuSession, effort: &Effort) -> Result<Samples> {
    let mut samples = Samples::default();
    let started = Instant::now();
    while !effort.enough(started, &samples) {
        samples.push(wall(session, 1)?);
    }
    Ok(samples)
}

/// Runs a session once, for what the driver puts off until then; a GPU's for as long as `effort` says.
fn warm_up(session: &mut GpuSession, effort: &Effort) -> Result<()> {
    let seconds = if session.is_cpu() { 0.0 } else { effort.warm_up };
    let started = Instant::now();
    loop {
        let once = wall(session, 1)?;
        let left = seconds - started.elapsed().as_secs_f64();
        if left <= 0.0 {
            return Ok(());
        }
        wall(session, (left.min(SAMPLE_SECONDS) / once.max(1e-6)).clamp(1.0, 1000.0) as u32)?;
    }
}

/// How a session is timed.
#[derive(Default)]
struct Timed {
    /// Runs to one wait, on a device without timestamps.
    runs: Option<u32>,
}

impl Timed {
    fn sample(&mut self, session: &mut GpuSession) -> Result<f64> {
        match session.profile() {
            Ok(times) => Ok(times.iter().sum::<Duration>().as_secs_f64()),
            Err(Error::Unsupported(_)) => {
                let runs = match self.runs {
                    Some(runs) => runs,
                    None => *self.runs.insert((SAMPLE_SECONDS / wall(session, 1)?.max(1e-9)).clamp(1.0, RUNS) as u32),
                };
                wall(session, runs)
            }
            Err(other) => Err(other),
        }
    }
}

/// Seconds of one of `runs` runs by the wall clock.
fn wall(session: &mut GpuSession, runs: u32) -> Result<f64> {
    let start = Instant::now();
    (0..runs).try_for_each(|_| session.run())?;
    session.wait()?;
    Ok(start.elapsed().as_secs_f64() / f64::from(runs))
}
