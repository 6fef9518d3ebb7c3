//! What the user sees while pictures are made.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::say;
use crate::pipelines::Progress;

/// A bar on a terminal, one line at the end elsewhere. The steps of a model and of its refiner are one count.
pub(super) struct Reporter {
    bar: Option<ProgressBar>,
    times: Times,
}

impl Reporter {
    /// For a run of `total` steps.
    pub fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{bar:40} {pos}/{len} steps{msg}").expect("the template is constant");
            ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr()).with_style(style)
        });
        Self { bar, times: Times::new(total, Instant::now()) }
    }

    /// A step is done.
    pub fn step(&mut self, progress: &Progress<'_>) {
        self.times.step(progress.done == 1, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_message(self.times.outlook());
            bar.set_position(self.times.done as u64);
        }
    }

    /// The next step begins: what happened since the last one, a preview, is not its time.
    pub fn resume(&mut self) {
        self.times.last = Instant::now();
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

/// When the steps of a run were done.
struct Times {
    total: usize,
    done: usize,
    start: Instant,
    first_step: Option<Duration>,
    last: Instant,
    /// Steps of which the beginning is known: each model's first one waits for its loading.
    timed: usize,
    time: Duration,
    decoding: Option<Instant>,
}

impl Times {
    fn new(total: usize, start: Instant) -> Self {
        let time = Duration::ZERO;
        Self { total, done: 0, start, first_step: None, last: start, timed: 0, time, decoding: None }
    }

    fn step(&mut self, first_of_a_model: bool, now: Instant) {
        self.done += 1;
        self.first_step.get_or_insert(now - self.start);
        if !first_of_a_model {
            self.timed += 1;
            self.time += now - self.last;
        }
        self.last = now;
    }

    /// Steps per second.
    fn rate(&self) -> Option<f64> {
        let seconds = self.time.as_secs_f64();
        (self.timed > 0 && seconds > 0.0).then(|| self.timed as f64 / seconds)
    }

    /// Behind the count of steps; nothing before a step has been timed.
    fn outlook(&self) -> String {
        self.rate().map_or_else(String::new, |rate| {
            let left = (self.total.saturating_sub(self.done) as f64 / rate).ceil() as u64;
            let left = match (left / 3600, left / 60 % 60, left % 60) {
                (0, 0, seconds) => format!("{seconds} s"),
                (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
                (hours, minutes, _) => format!("{hours} h {minutes} min"),
            };
            format!(", {rate:.2} steps/s, {left} left")
        })
    }

    fn summary(&self, pictures: usize, now: Instant) -> String {
        let s = if pictures == 1 { "" } else { "s" };
        let (all, done) = ((now - self.start).as_secs_f64(), self.done);
        let mut line = format!("{done} steps for {pictures} picture{s} in {all:.1} s: ");
        let first = self.first_step.unwrap_or_default().as_secs_f64();
        line += &format!("the first after {first:.1} s, with loading");
        if let Some(rate) = self.rate() {
            line += &format!(", then {rate:.2} steps/s");
        }
        if let Some(decoding) = self.decoding {
            line += &format!(", decoding {:.1} s", (now - decoding).as_secs_f64());
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A base of three steps and a refiner of two; loading takes 10 s each, a step 2 s, a preview 5 s, decoding 1 s.
    #[test]
    fn only_steps_count_for_the_rate() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut times = Times::new(5, start);
        assert_eq!(times.outlook(), "");
        times.step(true, at(12));
        assert_eq!(times.outlook(), "", "one step with the loading says nothing about the next");
        times.step(false, at(14));
        assert_eq!(times.outlook(), ", 0.50 steps/s, 6 s left");
        times.last = at(19);
        times.step(false, at(21));
        assert_eq!(times.outlook(), ", 0.50 steps/s, 4 s left");
        times.step(true, at(33));
        times.step(false, at(35));
        assert_eq!(times.outlook(), ", 0.50 steps/s, 0 s left");
        times.decoding = Some(at(35));
        let expected =
            "5 steps for 2 pictures in 36.0 s: the first after 12.0 s, with loading, then 0.50 steps/s, decoding 1.0 s";
        assert_eq!(times.summary(2, at(36)), expected);
    }

    #[test]
    fn long_times_are_in_minutes_and_hours() {
        let start = Instant::now();
        for (total, left) in [(62, "2 min 0 s"), (3700, "2 h 3 min")] {
            let mut times = Times::new(total, start);
            times.step(true, start);
            times.step(false, start + Duration::from_secs(2));
            assert_eq!(times.outlook(), format!(", 0.50 steps/s, {left} left"));
        }
    }
}
