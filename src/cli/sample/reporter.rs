//! What the user sees while pictures are made.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::say;
use crate::pipelines::Progress;

/// A bar with steps per second on a terminal, one line at the end elsewhere.
pub(super) struct Reporter {
    bar: Option<ProgressBar>,
    start: Instant,
    first_step: Option<Duration>,
    done: usize,
}

impl Reporter {
    pub fn new() -> Self {
        Self { bar: None, start: Instant::now(), first_step: None, done: 0 }
    }

    pub fn step(&mut self, progress: &Progress<'_>) {
        self.first_step.get_or_insert(self.start.elapsed());
        self.done = progress.done;
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {per_sec}, {eta} left")
                .expect("the template is constant and valid");
            ProgressBar::with_draw_target(Some(progress.total as u64), ProgressDrawTarget::stderr()).with_style(style)
        });
        bar.set_position(progress.done as u64);
    }

    pub fn finish(&mut self, pictures: usize) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        let first = self.first_step.map_or(0.0, |d| d.as_secs_f64());
        let rate = if self.done > 1 && seconds > first {
            (self.done - 1) as f64 / (seconds - first)
        } else {
            self.done as f64 / seconds
        };
        say(format_args!(
            "{} steps for {pictures} picture{} in {seconds:.1} s (the first step after {first:.1} s, then {rate:.2} \
            steps/s)",
            self.done,
            if pictures == 1 { "" } else { "s" }
        ));
    }
}
