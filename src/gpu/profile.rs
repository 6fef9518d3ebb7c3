//! How long each launch of a program takes, by the device's own clock.

use std::time::Duration;

use super::session::GpuSession;
use super::timed::{MAX_LAUNCHES, pairs};
use crate::error::{Error, Result};
use crate::graph::Rate;
use crate::plan::{SUBMISSION_FLOPS, submissions};

impl GpuSession {
    /// Runs the step list once and returns the time of each launch. The condition must have run before
    /// ([`crate::session::Session::run`]). Every launch is a compute pass of its own here, so that none overlaps the
    /// next: the sum is more than an ordinary run takes. Outputs are computed; state is not carried.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the device has no timestamp queries; [`Error::Device`] if it was lost.
    pub fn profile(&mut self) -> Result<Vec<Duration>> {
        if !self.gpu.has_timestamps() {
            return Err(Error::Unsupported(format!(
                "{}: it has no timestamp queries, so single launches cannot be timed",
                self.gpu.describe()
            )));
        }
        let program = self.program().clone();
        let period = f64::from(self.gpu.queue().get_timestamp_period());
        let mut times = Vec::with_capacity(program.step.len());
        for mut left in submissions(&program.step, SUBMISSION_FLOPS) {
            while left > 0 {
                let (first, count) = (times.len(), left.min(MAX_LAUNCHES));
                left -= count;
                let label = Some("profile");
                let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
                let dispatch = |pass: &mut wgpu::ComputePass<'_>, i| self.dispatch(pass, Rate::Step, first + i);
                let ticks = self.gpu.encode_timed(&mut encoder, count, dispatch);
                self.gpu.queue().submit([encoder.finish()]);
                let bytes = self.gpu.fetch(&ticks, 0, 16 * count as u64)?;
                times.extend(
                    pairs(&bytes)
                        .map(|[begin, end]| Duration::from_nanos((end.saturating_sub(begin) as f64 * period) as u64)),
                );
            }
        }
        self.gpu.check()?;
        Ok(times)
    }
}
