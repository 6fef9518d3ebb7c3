//! What the user sees while pictures are made.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::say;
use crate::pipelines::Progress;

/// A bar on a terminal, one line at the end elsewhere. The steps of a model and of its refiner are one count.
pub struct Reporter {
    bar: Option<ProgressBar>,
    times: Times,
    exact: bool,
}

impl Reporter {
    /// For a run of `total` steps, of which the first model begins to load. `exact`: a step is done when it is told of,
    /// as on the reference; a graphics device may lag behind.
    pub fn new(total: usize, exact: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{bar:40} {pos}/{len} steps{msg}").expect("the template is constant");
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr()).with_style(style);
            bar.with_message(", loading")
        });
        Self { bar, exact, times: Times::new(total, Instant::now()) }
    }

    /// A step is done, or has at least begun. The first of a model is done.
    pub fn step(&mut self, progress: &Progress<'_>) {
        if progress.done == 1 {
            self.times.load(progress.loaded);
        }
        self.times.step();
        if progress.done == 1 || self.exact {
            self.times.settle(Instant::now());
        }
        if let Some(bar) = &self.bar {
            bar.set_message(self.times.outlook(Instant::now()));
            bar.set_position(self.times.done as u64);
        }
    }

    /// All steps that have begun are done.
    pub fn settle(&mut self) {
        self.times.settle(Instant::now());
    }

    /// The next step, or the loading of the next model, begins: what happened since the last one, a preview, is the
    /// time of neither.
    pub fn resume(&mut self) {
        self.times.since = Instant::now();
    }

    /// All steps are done, and the pictures are decoded.
    pub fn decode(&mut self) {
        self.times.decoding = Some(Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_message(", decoding");
            bar.tick();
        }
    }

    pub fn finish(&mut self, pictures: usize) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        say(format_args!("{}", self.times.summary(pictures, Instant::now())));
    }
}

/// What takes how long. The device may lag behind by a step: times of steps are exact where it was waited for.
struct Times {
    total: usize,
    done: usize,
    start: Instant,
    /// Since when the present loading or steps run.
    since: Instant,
    /// Steps that have begun since then.
    begun: usize,
    /// Until a first step begins: weights, kernels, the condition, the picture to start from.
    loading: Duration,
    first_step: Option<Duration>,
    /// Steps after the first, and their time.
    timed: usize,
    time: Duration,
    decoding: Option<Instant>,
}

impl Times {
    fn new(total: usize, start: Instant) -> Self {
        let none = Duration::ZERO;
        Self {
            total,
            done: 0,
            start,
            since: start,
            begun: 0,
            loading: none,
            first_step: None,
            timed: 0,
            time: none,
            decoding: None,
        }
    }

    /// A model was ready to begin.
    fn load(&mut self, now: Instant) {
        self.loading += now - self.since;
        self.since = now;
    }

    fn step(&mut self) {
        self.done += 1;
        self.begun += 1;
    }

    /// Everything that has begun is done.
    fn settle(&mut self, now: Instant) {
        let (steps, time) = (std::mem::take(&mut self.begun), now - self.since);
        match steps {
            0 => {}
            1 if self.first_step.is_none() => self.first_step = Some(time),
            _ => {
                self.timed += steps;
                self.time += time;
            }
        }
        self.since = now;
    }

    /// Steps per second after the first. Of those that have begun the last may still run.
    fn rate(&self, now: Instant) -> Option<f64> {
        let (mut steps, mut time) = (self.timed, self.time);
        if self.begun > 1 {
            steps += self.begun - 1;
            time += now - self.since;
        }
        let seconds = time.as_secs_f64();
        (steps > 0 && seconds > 0.0).then(|| steps as f64 / seconds)
    }

    /// Behind the count of steps; nothing before a step after the first has been timed.
    fn outlook(&self, now: Instant) -> String {
        self.rate(now).map_or_else(String::new, |rate| {
            let left = (self.total.saturating_sub(self.done) as f64 / rate).ceil() as u64;
            let left = match (left / 3600, left / 60 % 60, left % 60) {
                (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
                (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
            };
            format!(", {rate:.2}/s, {left} left")
        })
    }

    fn summary(&self, pictures: usize, now: Instant) -> String {
        let s = |count: usize| if count == 1 { "" } else { "s" };
        let (all, done) = ((now - self.start).as_secs_f64(), self.done);
        let mut line = format!("{done} step{} for {pictures} picture{} in {all:.1} s (", s(done), s(pictures));
        line += &format!("loading {}", seconds(self.loading));
        if let Some(first) = self.first_step {
            line += &format!(", first step {}", seconds(first));
        }
        if let Some(rate) = self.rate(now) {
            line += &format!(", then {rate:.2} steps/s");
        }
        if let Some(decoding) = self.decoding {
            line += &format!(", decoding {}", seconds(now - decoding));
        }
        line + ")"
    }
}

/// `1.2 s`, or of less than a second `0.12 s`.
fn seconds(time: Duration) -> String {
    let places = if time < Duration::from_secs(1) { 2 } else { 1 };
    format!("{:.places$} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A base of three steps and a refiner of two; loading takes 10 s each, a step 2 s, a preview 5 s, decoding 1 s.
    /// The device lags behind by a step, so that one seems to take no time where nothing waits for it.
    #[test]
    fn every_part_has_its_own_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut times = Times::new(5, start);
        assert_eq!(times.outlook(start), "");
        times.load(at(10));
        times.step();
        times.settle(at(12));
        assert_eq!(times.outlook(at(12)), "", "the first step says nothing about the next");
        times.step();
        assert_eq!(times.outlook(at(12)), "", "the second has only begun");
        times.step();
        assert_eq!(times.outlook(at(14)), ", 0.50/s, 0:04 left");
        times.settle(at(16));
        times.since = at(21);
        // The refiner; its first step is one more.
        times.load(at(31));
        times.step();
        times.settle(at(33));
        times.step();
        assert_eq!(times.outlook(at(33)), ", 0.50/s, 0:00 left");
        times.settle(at(35));
        times.decoding = Some(at(35));
        let expected = "5 steps for 2 pictures in 36.0 s (loading 20.0 s, first step 2.0 s, then 0.50 steps/s, \
                        decoding 1.0 s)";
        assert_eq!(times.summary(2, at(36)), expected);
    }

    #[test]
    fn one_step_has_no_rate() {
        let start = Instant::now();
        let mut times = Times::new(1, start);
        times.load(start + Duration::from_secs(3));
        times.step();
        let end = start + Duration::from_secs(4);
        times.settle(end);
        times.settle(end);
        assert_eq!(times.summary(1, end), "1 step for 1 picture in 4.0 s (loading 3.0 s, first step 1.0 s)");
    }

    #[test]
    fn long_times_are_in_minutes_and_hours() {
        let start = Instant::now();
        for (total, left) in [(62, "2:00"), (3700, "2:03:16")] {
            let mut times = Times::new(total, start);
            times.step();
            times.settle(start);
            times.step();
            times.settle(start + Duration::from_secs(2));
            assert_eq!(times.outlook(start), format!(", 0.50/s, {left} left"));
        }
    }
}
