//! A program on a device: its buffers, bind groups, and one command stream per run.

use std::sync::Arc;

use super::device::{GpuDevice, Pipeline};
use super::load::{Target, bind_groups};
use super::memory::Memory;
use crate::encode::{decode, encode, padded_bytes};
use crate::error::{Error, Result};
use crate::graph::{Rate, WeightSource};
use crate::load::{Buffers, Loader};
use crate::plan::{BufferIndex, InFlight, Port, Program, Value, submissions};
use crate::session::{Session, check_input, check_output};
use crate::tensor::{DType, HostTensor};
use crate::trace;

/// Bytes before each buffer's contents when guard bands are on; a multiple of every backend's offset alignment.
const GUARD_BYTES: u64 = 256;
/// Bytes after them: enough for some rows of a tile. Without bounds checks the bindings reach to their end, because
/// drivers drop what is written outside a binding, and the band would never see it.
const GUARD_BYTES_AFTER: u64 = 32 << 10;

/// What fills the guard bands of a buffer, its slots before they are written and its padding: a quiet NaN in f32 and in
/// f16, so that reading what was never written shows. Arithmetic passes a NaN's bits on, so each buffer has its own: a
/// value that is read from one band and written into another shows too.
pub(super) fn guard_pattern(buffer: BufferIndex) -> u32 {
    let half = 0x7fc1 + (buffer % 60) as u32;
    half << 16 | half
}

/// Bytes of both guard bands of a buffer whose contents begin at `base`.
pub(super) fn bands(base: u64) -> u64 {
    if base == 0 { 0 } else { base + GUARD_BYTES_AFTER }
}

/// A program loaded on a device.
pub struct GpuSession {
    pub(super) gpu: GpuDevice,
    program: Arc<Program>,
    /// By index; `None` for those that existed only while the program was loaded.
    buffers: Buffers<Memory>,
    pipelines: Vec<Pipeline>,
    condition: List,
    step: List,
    /// An input of the condition was written since its list has run.
    condition_changed: bool,
    in_flight: InFlight<wgpu::SubmissionIndex>,
    /// Where each buffer's contents begin: [`GUARD_BYTES`] with guard bands, else 0.
    base: u64,
}

/// Bind groups of the launches of one rate.
type List = Vec<wgpu::BindGroup>;

impl GpuSession {
    /// Compiles the program's kernels, creates its buffers, uploads the parameters that the device does not hold yet,
    /// and runs what depends on them alone. Parameters that no session uses are evicted if memory runs out.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a parameter is missing; [`Error::Kernel`] if a kernel does not compile;
    /// [`Error::Limits`] if memory runs out.
    pub fn new(gpu: &GpuDevice, program: impl Into<Arc<Program>>, weights: &dyn WeightSource) -> Result<Self> {
        Self::within(gpu, program, weights, None)
    }

    /// As [`GpuSession::new`]; parameters that no session uses are also evicted if they and this session would take
    /// more than `limit` bytes.
    ///
    /// # Errors
    /// As [`GpuSession::new`].
    pub fn within(
        gpu: &GpuDevice,
        program: impl Into<Arc<Program>>,
        weights: &dyn WeightSource,
        limit: Option<u64>,
    ) -> Result<Self> {
        let program = program.into();
        match Self::load(gpu, &program, weights, 0, limit) {
            Err(Error::Limits(_)) if gpu.store().evict_unused() => {
                gpu.free_dropped();
                Self::load(gpu, &program, weights, 0, limit)
            }
            result => result,
        }
    }

    /// As [`GpuSession::new`], with a band of known bytes before and after every buffer's contents
    /// ([`GpuSession::check_guard_bands`]), and so with parameters of its own.
    ///
    /// # Errors
    /// As [`GpuSession::new`].
    pub fn with_guard_bands(
        gpu: &GpuDevice,
        program: impl Into<Arc<Program>>,
        weights: &dyn WeightSource,
    ) -> Result<Self> {
        Self::load(gpu, &program.into(), weights, GUARD_BYTES, None)
    }

    fn load(
        gpu: &GpuDevice,
        program: &Arc<Program>,
        weights: &dyn WeightSource,
        base: u64,
        limit: Option<u64>,
    ) -> Result<Self> {
        let _span = trace::span("load");
        gpu.check()?;
        gpu.compile(program)?;
        let pipelines = program.kernels.iter().map(|kernel| gpu.pipeline(kernel)).collect::<Result<Vec<_>>>()?;
        let target = Target { gpu, program, pipelines: &pipelines, weights, base, pending: 0 };
        let buffers = Loader::new(target, program, weights).load(limit)?;
        let list = |rate: Rate| bind_groups(gpu, program, program.list(rate), &pipelines, &buffers, base);
        let (condition, step): (List, List) = (list(Rate::Condition)?, list(Rate::Step)?);
        gpu.check()?;
        Ok(Self {
            gpu: gpu.clone(),
            program: program.clone(),
            buffers,
            pipelines,
            condition,
            step,
            condition_changed: true,
            in_flight: InFlight::default(),
            base,
        })
    }

    /// The program that runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Whether its device is a CPU driver.
    pub fn is_cpu(&self) -> bool {
        self.gpu.caps().is_cpu
    }

    fn buffer(&self, index: BufferIndex) -> &wgpu::Buffer {
        self.buffers[index].as_ref().expect("only sources are dropped, and no port is one").buffer()
    }

    /// Encodes launch `i` of a list.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, rate: Rate, i: usize) {
        let launch = &self.program.list(rate)[i];
        let list = if rate == Rate::Condition { &self.condition } else { &self.step };
        let [x, y, z] = launch.workgroups;
        pass.set_pipeline(&self.pipelines[launch.kernel].pipeline);
        pass.set_bind_group(0, &list[i], &[]);
        pass.dispatch_workgroups(x, y, z);
    }

    /// The contents of a value that still has its buffer after a run: outputs, and everything if the program shares no
    /// memory.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    ///
    /// # Panics
    /// If other values have shared its buffer.
    pub fn value(&self, value: &Value) -> Result<HostTensor> {
        let buffer = value.buffer.expect("asked for a value that keeps its buffer");
        self.tensor(buffer, &value.shape, value.dtype)
    }

    fn tensor(&self, buffer: BufferIndex, shape: &[usize], dtype: DType) -> Result<HostTensor> {
        let elements = shape.iter().product();
        let bytes = self.gpu.fetch(self.buffer(buffer), self.base, padded_bytes(elements, dtype) as u64)?;
        HostTensor::new(shape, decode(&bytes, dtype, elements))
    }

    /// Checks that no kernel wrote outside the buffers it was given.
    ///
    /// # Errors
    /// [`Error::Kernel`] naming the buffer whose guard band changed.
    pub fn check_guard_bands(&self) -> Result<()> {
        if self.base == 0 {
            return Ok(());
        }
        let after = bands(self.base) - self.base;
        // What is written outside a texture goes nowhere.
        let buffers =
            self.buffers.iter().zip(&self.program.buffers).enumerate().filter_map(
                |(index, (memory, b))| match &**memory.as_ref().expect("with guard bands every buffer stays") {
                    Memory::Buffer(buffer) => Some((index, buffer, b)),
                    Memory::Texture(_) => None,
                },
            );
        let buffers: Vec<_> = buffers.collect();
        let ranges: Vec<_> = buffers
            .iter()
            .flat_map(|(_, buffer, b)| [(*buffer, 0, self.base), (*buffer, self.base + b.bytes, after)])
            .collect();
        let bytes = self.gpu.fetch_all(&ranges)?;
        let mut rest = bytes.as_slice();
        for (range, (_, _, length)) in ranges.iter().enumerate() {
            let (index, _, b) = buffers[range / 2];
            let (band, others) = rest.split_at(*length as usize);
            rest = others;
            let pattern = guard_pattern(index).to_le_bytes();
            if let Some(at) = band.chunks_exact(4).position(|word| word != pattern) {
                let place = if range % 2 == 0 {
                    format!("{} bytes before", *length as usize - 4 * at)
                } else {
                    format!("{} bytes behind", 4 * at)
                };
                return Err(Error::Kernel(format!(
                    "a kernel wrote {place} the {} bytes of buffer {} ({})",
                    b.bytes,
                    index,
                    b.role.name()
                )));
            }
        }
        Ok(())
    }

    /// Submits the launches of a list, and at the end of the step list its copies.
    fn submit(&mut self, rate: Rate) -> Result<()> {
        let program = self.program.clone();
        let groups = submissions(program.list(rate), self.gpu.pace().submission_flops());
        let (mut first, last_group) = (0, groups.len() - 1);
        for (number, count) in groups.into_iter().enumerate() {
            let label = Some(rate.name());
            let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
            let span = trace::span_of("encode", || format!("{count} launches of the list {}", rate.name()));
            let launches = &program.list(rate)[first..first + count];
            if self.gpu.is_traced() {
                let dispatch = |pass: &mut wgpu::ComputePass<'_>, i| self.dispatch(pass, rate, first + i);
                self.gpu.encode_traced(&mut encoder, &self.program, rate, launches, dispatch);
            } else {
                let mut pass =
                    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes: None });
                (first..first + count).for_each(|i| self.dispatch(&mut pass, rate, i));
            }
            let flops = launches.iter().map(|launch| launch.cost.flops).sum();
            first += count;
            if rate == Rate::Step && number == last_group {
                for carry in &program.carries {
                    let (from, to) = (self.buffer(carry.from), self.buffer(carry.to));
                    encoder.copy_buffer_to_buffer(from, self.base, to, self.base, carry.bytes);
                }
            }
            let commands = encoder.finish();
            drop(span);
            let span = trace::span("submit");
            let index = self.gpu.queue().submit([commands]);
            drop(span);
            self.in_flight.push(index, flops, self.gpu.pace(), |index| self.gpu.wait_for(index))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.in_flight.finish(self.gpu.pace(), |index| self.gpu.wait_for(index))
    }
}

impl Session for GpuSession {
    fn inputs(&self) -> &[Port] {
        &self.program.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.program.outputs
    }

    fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()> {
        let port = check_input(&self.program.inputs, input, tensor)?;
        self.gpu.check()?;
        let mut bytes = encode(tensor, port.dtype);
        if self.base > 0 {
            // No kernel may rely on what is between the last element and the end of its vector.
            let pattern = guard_pattern(port.buffer).to_le_bytes();
            let padding = &mut bytes[tensor.len() * port.dtype.size()..];
            padding.iter_mut().zip(pattern.iter().cycle()).for_each(|(b, g)| *b = *g);
        }
        self.gpu.queue().write_buffer(self.buffer(port.buffer), self.base, &bytes);
        self.condition_changed |= port.rate == Rate::Condition;
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        self.gpu.check()?;
        if std::mem::take(&mut self.condition_changed) && !self.program.condition.is_empty() {
            self.submit(Rate::Condition)?;
        }
        self.submit(Rate::Step)?;
        self.gpu.check()
    }

    fn read(&mut self, output: &str) -> Result<HostTensor> {
        self.gpu.check()?;
        let program = self.program.clone();
        let port = check_output(&program.outputs, output)?;
        self.finish()?;
        self.tensor(port.buffer, &port.shape, port.dtype)
    }

    fn wait(&mut self) -> Result<()> {
        self.finish()?;
        self.gpu.wait()
    }
}
