//! How long each launch of a program takes, by the device's own clock.

use std::time::Duration;

use super::session::GpuSession;
use crate::error::{Error, Result};
use crate::graph::Rate;
use crate::plan::{SUBMISSION_FLOPS, submissions};

/// Launches timed in one submission: two queries each, and wgpu allows 4096 in a set.
const MAX_LAUNCHES: usize = 2048;

impl GpuSession {
    /// Runs the step list once and returns the time of each launch. The condition must have run before
    /// ([`crate::session::Session::run`]). Every launch is a compute pass of its own here, so that none overlaps the
    /// next: the sum is more than an ordinary run takes. Outputs are computed; state is not carried.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the device has no timestamp queries; [`Error::Device`] if it was lost.
    pub fn profile(&mut self) -> Result<Vec<Duration>> {
        let device = self.gpu.device().clone();
        let program = self.program().clone();
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::Unsupported(format!(
                "{}: it has no timestamp queries, so single launches cannot be timed",
                self.gpu.describe()
            )));
        }
        let period = f64::from(self.gpu.queue().get_timestamp_period());
        let mut times = Vec::with_capacity(self.program().step.len());
        for mut left in submissions(&program.step, SUBMISSION_FLOPS) {
            while left > 0 {
                let (first, count) = (times.len(), left.min(MAX_LAUNCHES));
                left -= count;
                let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("profile"),
                    ty: wgpu::QueryType::Timestamp,
                    count: 2 * count as u32,
                });
                let ticks = device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("profile"),
                    size: 16 * count as u64,
                    usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: false,
                });
                let mut encoder =
                    device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("profile") });
                for i in 0..count {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: Some(&program.values[program.step[first + i].value].name),
                        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                            query_set: &queries,
                            beginning_of_pass_write_index: Some(2 * i as u32),
                            end_of_pass_write_index: Some(2 * i as u32 + 1),
                        }),
                    });
                    self.dispatch(&mut pass, Rate::Step, first + i);
                }
                encoder.resolve_query_set(&queries, 0..2 * count as u32, &ticks, 0);
                self.gpu.queue().submit([encoder.finish()]);
                let bytes = self.gpu.fetch(&ticks, 0, 16 * count as u64)?;
                let tick = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("chunks of 8"));
                times.extend(bytes.chunks_exact(16).map(|pair| {
                    let ticks = tick(&pair[8..]).saturating_sub(tick(&pair[..8]));
                    Duration::from_nanos((ticks as f64 * period) as u64)
                }));
            }
        }
        self.gpu.check()?;
        Ok(times)
    }
}
