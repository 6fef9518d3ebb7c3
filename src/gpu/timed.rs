//! Launches between timestamps: for measuring single ones, and for the record of a run.

use super::device::GpuDevice;
use crate::error::Result;
use crate::graph::Rate;
use crate::plan::{Launch, Program};
use crate::trace;

/// Launches timed in one set of queries: two each, and wgpu allows 4096 in a set.
pub(super) const MAX_LAUNCHES: usize = 2048;
/// Tries to read both clocks at once.
const TRIES: usize = 10;

/// Launches whose times the device has, and that nobody has asked it for yet.
pub(super) struct Pending {
    ticks: wgpu::Buffer,
    launches: Vec<Label>,
}

/// What a record says of a launch.
struct Label {
    kernel: String,
    args: serde_json::Value,
    flops: f64,
}

/// The host's clock beside the device's.
#[derive(Clone, Copy)]
pub(super) struct Anchor {
    /// Microseconds since the recording began.
    host: f64,
    ticks: u64,
    /// How far off `host` may be, microseconds.
    error: f64,
}

/// Begin and end of each launch, in ticks.
pub(super) fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u64; 2]> + '_ {
    let tick = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("chunks of 8"));
    bytes.chunks_exact(16).map(move |pair| [tick(&pair[..8]), tick(&pair[8..])])
}

impl GpuDevice {
    /// Whether single launches can be timed.
    pub(super) fn has_timestamps(&self) -> bool {
        self.device().features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Encodes at most [`MAX_LAUNCHES`] launches, each in a pass of its own between two timestamps; returns the buffer
    /// that will hold those ([`pairs`]).
    pub(super) fn encode_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        count: usize,
        mut dispatch: impl FnMut(&mut wgpu::ComputePass<'_>, usize),
    ) -> wgpu::Buffer {
        let queries = self.device().create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * count as u32,
        });
        let ticks = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: 16 * count as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        for i in 0..count {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("timed"),
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * i as u32),
                    end_of_pass_write_index: Some(2 * i as u32 + 1),
                }),
            });
            dispatch(&mut pass, i);
        }
        encoder.resolve_query_set(&queries, 0..2 * count as u32, &ticks, 0);
        ticks
    }

    /// Encodes launches of the list of this rate in a run that is recorded.
    pub(super) fn encode_traced(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        program: &Program,
        rate: Rate,
        launches: &[Launch],
        mut dispatch: impl FnMut(&mut wgpu::ComputePass<'_>, usize),
    ) {
        for (chunk, launches) in launches.chunks(MAX_LAUNCHES).enumerate() {
            let first = chunk * MAX_LAUNCHES;
            let ticks = self.encode_timed(encoder, launches.len(), |pass, i| dispatch(pass, first + i));
            let launches = launches.iter().map(|launch| label(program, rate, launch)).collect();
            self.add_pending(Pending { ticks, launches });
        }
    }

    /// Whether launches are recorded one by one.
    pub(super) fn is_traced(&self) -> bool {
        trace::is_on() && self.has_timestamps()
    }

    /// Reads both clocks: the device's in an empty pass between two looks at the host's. The nearest of several tries
    /// counts, and the middle between its looks.
    pub(super) fn anchor(&self) -> Result<Option<Anchor>> {
        let _span = trace::span("read both clocks");
        let mut best: Option<Anchor> = None;
        for _ in 0..TRIES {
            let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let ticks = self.encode_timed(&mut encoder, 1, |_, _| ());
            let commands = encoder.finish();
            let before = trace::now();
            self.queue().submit([commands]);
            self.wait()?;
            let after = trace::now();
            let [_, end] = pairs(&self.fetch(&ticks, 0, 16)?).next().expect("there are 16 bytes");
            let error = (after - before) / 2.0;
            if end > 0 && best.is_none_or(|best| error < best.error) {
                best = Some(Anchor { host: before + error, ticks: end, error });
            }
        }
        Ok(best)
    }

    /// Hands the times of all launches since the recording began to it. To be called once, at its end, when the work
    /// is done.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device was lost.
    pub fn end_trace(&self) -> Result<()> {
        if !trace::is_on() {
            return Ok(());
        }
        trace::device(self.describe());
        if !self.has_timestamps() {
            trace::note(format!("{} has no timestamp queries: the record has the host's spans alone", self.describe()));
            return Ok(());
        }
        let (first, last) = (self.first_anchor(), self.anchor()?);
        let Some(first) = first.or(last) else {
            trace::note(format!("{}: its timestamps say nothing", self.describe()));
            return Ok(());
        };
        let period = f64::from(self.queue().get_timestamp_period()) / 1e3; // microseconds a tick
        // Clocks drift apart, a little: more is an error of reading them.
        let since = |ticks: u64| (i128::from(ticks) - i128::from(first.ticks)) as f64 * period;
        let drift = last.map(|last| (last.host - first.host) / since(last.ticks));
        let drift = drift.filter(|drift| (drift - 1.0).abs() < 1e-3).unwrap_or(1.0);
        let pending = self.take_pending();
        let ranges: Vec<_> = pending.iter().map(|p| (&p.ticks, 0, 16 * p.launches.len() as u64)).collect();
        let bytes = if ranges.is_empty() { Vec::new() } else { self.fetch_all(&ranges)? };
        let mut end = f64::NEG_INFINITY;
        let labels = pending.into_iter().flat_map(|pending| pending.launches);
        for (Label { kernel, mut args, flops }, ticks) in labels.zip(pairs(&bytes)) {
            let [from, to] = ticks.map(|ticks| first.host + drift * since(ticks));
            // Where a device begins one launch before the other ends, the second has what is left.
            let from = from.max(end);
            end = from.max(to);
            let length = end - from;
            if length > 0.0 {
                args["GFLOP/s"] = (flops / 1e3 / length).into();
            }
            trace::device_span(kernel, from, length, args);
        }
        let error = last.map_or(first.error, |last| last.error.max(first.error));
        trace::note(format!(
            "the device's clock was read together with the host's at the beginning and at the end; its spans may lie \
            up to {error:.0} µs beside the host's"
        ));
        Ok(())
    }
}

fn label(program: &Program, rate: Rate, launch: &Launch) -> Label {
    let (kernel, value) = (&program.kernels[launch.kernel], &program.values[launch.value]);
    let args = serde_json::json!({
        "node": value.name, "rate": rate.name(), "operation": value.op, "output": value.label(),
        "variant": launch.variant, "settings": kernel.settings, "workgroups": launch.workgroups,
        "GFLOP": launch.cost.flops as f64 / 1e9, "GB": launch.cost.bytes as f64 / 1e9,
    });
    Label { kernel: kernel.name.clone(), args, flops: launch.cost.flops as f64 }
}
