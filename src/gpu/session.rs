//! A plan on a device: buffers, bind groups, and one command stream per run.

use half::slice::HalfFloatSliceExt;

use super::device::{Checks, GpuDevice, Pipeline};
use crate::backend::{Session, check_input, check_output};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind, ValueId, WeightSource};
use crate::kernel::Access;
use crate::plan::{BufferIndex, BufferRole, Plan, PlanStep};
use crate::tensor::{DType, HostTensor};

/// Bytes before each buffer's contents when guard bands are on; a multiple of every backend's offset alignment.
const GUARD_BYTES: u64 = 256;
/// Bytes after them: enough for some rows of a tile. Without bounds checks the bindings reach to their end, because
/// drivers drop what is written outside a binding, and the band would never see it.
const GUARD_BYTES_AFTER: u64 = 32 << 10;
/// What fills the guard bands of a buffer, its slots before they are written and its padding: a quiet NaN in f32 and in
/// f16, so that reading what was never written shows. Arithmetic hands a NaN's bits on, so each buffer has its own: what
/// is read from one band and written into another shows too.
fn guard_pattern(buffer: BufferIndex) -> u32 {
    let half = 0x7fc1 + (buffer % 60) as u32;
    half << 16 | half
}

/// A plan loaded on a device.
pub struct GpuSession {
    pub(super) gpu: GpuDevice,
    pub(super) plan: Plan,
    buffers: Vec<wgpu::Buffer>,
    pipelines: Vec<Pipeline>,
    bind_groups: Vec<wgpu::BindGroup>,
    /// How many steps go into each submission, so that none outlasts a driver's watchdog.
    pub(super) submissions: Vec<usize>,
    last: Option<wgpu::SubmissionIndex>,
    /// Where each buffer's contents begin: [`GUARD_BYTES`] with guard bands, else 0.
    base: u64,
}

/// Work per submission: as [`crate::plan::PlanOptions::max_launch_flops`], for the sum of many launches.
const SUBMISSION_FLOPS: u64 = 50_000_000_000;

impl GpuSession {
    /// Compiles the plan's kernels, creates its buffers and uploads its parameters.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a parameter is missing; [`Error::Kernel`] if a kernel does not compile;
    /// [`Error::Limits`] if memory runs out.
    pub fn new(gpu: &GpuDevice, plan: Plan, weights: &dyn WeightSource) -> Result<Self> {
        Self::with_base(gpu, plan, weights, 0)
    }

    /// As [`GpuSession::new`], with a band of known bytes before and after every buffer's contents: see
    /// [`GpuSession::check_guard_bands`].
    ///
    /// # Errors
    /// As [`GpuSession::new`].
    pub fn with_guard_bands(gpu: &GpuDevice, plan: Plan, weights: &dyn WeightSource) -> Result<Self> {
        Self::with_base(gpu, plan, weights, GUARD_BYTES)
    }

    fn with_base(gpu: &GpuDevice, plan: Plan, weights: &dyn WeightSource, base: u64) -> Result<Self> {
        gpu.check()?;
        let device = gpu.device();
        let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let pipelines = plan.kernels.iter().map(|kernel| gpu.pipeline(kernel)).collect::<Result<Vec<_>>>()?;
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffers: Vec<_> = plan
            .buffers
            .iter()
            .map(|b| {
                let label = match b.role {
                    BufferRole::Input => "input",
                    BufferRole::Parameter => "parameter",
                    BufferRole::Slot => "slot",
                    BufferRole::Absent => "absent",
                };
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size: b.bytes + bands(base),
                    usage: storage,
                    mapped_at_creation: false,
                })
            })
            .collect();
        let params = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: plan.params_bytes().max(256),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        if pollster::block_on(scope.pop()).is_some() {
            return Err(Error::Limits(format!(
                "{} has no room for the {} this run needs; use --precision f16, a smaller --batch-size or picture, or another --device",
                gpu.describe(),
                crate::plan::mib(plan.memory_bytes())
            )));
        }
        let mut params_bytes = vec![0u8; plan.params_bytes() as usize];
        for (slot, step) in params_bytes.chunks_exact_mut(256).zip(&plan.steps) {
            slot[..step.params.len()].copy_from_slice(&step.params);
        }
        gpu.queue().write_buffer(&params, 0, &params_bytes);

        let bind_groups = plan
            .steps
            .iter()
            .enumerate()
            .map(|(i, step)| bind_group(gpu, &plan, &pipelines, &buffers, &params, base, i, step))
            .collect();
        let submissions = group_steps(&plan.steps);
        let mut session =
            Self { gpu: gpu.clone(), plan, buffers, pipelines, bind_groups, submissions, last: None, base };
        if base > 0 {
            for (index, (buffer, b)) in session.buffers.iter().zip(&session.plan.buffers).enumerate() {
                let words = (b.bytes + bands(base)) as usize / 4;
                gpu.queue().write_buffer(buffer, 0, bytemuck::cast_slice(&vec![guard_pattern(index); words]));
            }
        }
        session.upload_parameters(weights)?;
        gpu.check()?;
        Ok(session)
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn upload_parameters(&mut self, weights: &dyn WeightSource) -> Result<()> {
        let mut pending = 0;
        for (id, node) in self.plan.graph.values() {
            let tensor = match &node.kind {
                NodeKind::Weight(spec) => spec.load(weights, &node.desc.shape)?,
                NodeKind::Constant(tensor) => (**tensor).clone(),
                NodeKind::Input | NodeKind::Op(..) => continue,
            };
            let bytes = encode(&tensor, node.desc.dtype);
            pending += bytes.len();
            self.gpu.queue().write_buffer(self.buffer(id), self.base, &bytes);
            if pending > 64 << 20 {
                // wgpu stages writes in host memory until the next submission: keep that from growing to a second copy
                // of the model.
                self.gpu.queue().submit([]);
                self.poll()?;
                pending = 0;
            }
        }
        self.gpu.queue().submit([]);
        Ok(())
    }

    fn buffer(&self, value: ValueId) -> &wgpu::Buffer {
        &self.buffers[self.plan.buffer_of(value).expect("inputs, parameters and outputs keep their buffers")]
    }

    /// Encodes step `i` of the plan.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, i: usize) {
        let step = &self.plan.steps[i];
        let [x, y, z] = step.workgroups;
        pass.set_pipeline(&self.pipelines[step.kernel].pipeline);
        pass.set_bind_group(0, &self.bind_groups[i], &[]);
        pass.dispatch_workgroups(x, y, z);
    }

    fn poll(&self) -> Result<()> {
        self.gpu
            .device()
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|e| Error::Device(format!("{}: {e}", self.gpu.describe())))?;
        self.gpu.check()
    }

    /// The contents of a value that still has its buffer after a run: outputs, and everything if the plan shares no
    /// memory.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn value(&self, id: ValueId) -> Result<HostTensor> {
        let desc = self.plan.graph.desc(id);
        let bytes = self.fetch(self.buffer(id), self.base, desc.bytes())?;
        HostTensor::new(desc.shape.clone(), decode(&bytes, desc.dtype, desc.elements()))
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
        let ranges: Vec<_> = self
            .buffers
            .iter()
            .zip(&self.plan.buffers)
            .flat_map(|(buffer, b)| [(buffer, 0, self.base), (buffer, self.base + b.bytes, after)])
            .collect();
        let bytes = self.fetch_all(&ranges)?;
        let mut rest = bytes.as_slice();
        for (index, (_, _, length)) in ranges.iter().enumerate() {
            let (band, others) = rest.split_at(*length as usize);
            rest = others;
            let pattern = guard_pattern(index / 2).to_le_bytes();
            if let Some(at) = band.chunks_exact(4).position(|word| word != pattern) {
                let b = &self.plan.buffers[index / 2];
                let place = if index % 2 == 0 {
                    format!("{} bytes before", *length as usize - 4 * at)
                } else {
                    format!("{} bytes behind", 4 * at)
                };
                return Err(Error::Kernel(format!(
                    "a kernel wrote {place} the {} bytes of buffer {} ({:?})",
                    b.bytes,
                    index / 2,
                    b.role
                )));
            }
        }
        Ok(())
    }

    /// The contents of a part of a buffer, after everything submitted before.
    pub(super) fn fetch(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        self.fetch_all(&[(buffer, offset, bytes)])
    }

    /// The contents of parts of buffers (buffer, offset, bytes), one after the other.
    fn fetch_all(&self, ranges: &[(&wgpu::Buffer, u64, u64)]) -> Result<Vec<u8>> {
        let device = self.gpu.device();
        let bytes = ranges.iter().map(|(_, _, bytes)| bytes).sum();
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read") });
        let mut end = 0;
        for (buffer, offset, bytes) in ranges {
            encoder.copy_buffer_to_buffer(buffer, *offset, &staging, end, *bytes);
            end += bytes;
        }
        self.gpu.queue().submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            // The receiver only goes away after this callback ran or the wait below failed; then nobody needs the
            // message.
            drop(sender.send(result));
        });
        self.poll()?;
        let lost = |what: String| Error::Device(format!("{}: {what}", self.gpu.describe()));
        receiver.recv().map_err(|e| lost(e.to_string()))?.map_err(|e| lost(e.to_string()))?;
        let view = staging.slice(..).get_mapped_range().map_err(|e| lost(e.to_string()))?;
        Ok(view.to_vec())
    }
}

#[allow(clippy::too_many_arguments, reason = "called from one place, with what that place has at hand")]
fn bind_group(
    gpu: &GpuDevice,
    plan: &Plan,
    pipelines: &[Pipeline],
    buffers: &[wgpu::Buffer],
    params: &wgpu::Buffer,
    base: u64,
    index: usize,
    step: &PlanStep,
) -> wgpu::BindGroup {
    let reflection = &plan.kernels[step.kernel].reflection;
    let reach = if gpu.checks() == Checks::Off { bands(base) - base } else { 0 };
    let mut storage = step.bindings.iter();
    let entries: Vec<_> = reflection
        .bindings
        .iter()
        .map(|binding| {
            let (buffer, offset, size) = match binding.access {
                Access::Uniform => (params, 256 * index as u64, u64::from(reflection.params_size)),
                Access::Read | Access::ReadWrite => {
                    let (buffer, bytes) = storage.next().expect("the plan binds every storage binding of the kernel");
                    (&buffers[*buffer], base, (*bytes + reach).min(gpu.caps().max_binding_bytes))
                }
            };
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: wgpu::BufferSize::new(size),
            });
            wgpu::BindGroupEntry { binding: binding.index, resource }
        })
        .collect();
    gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(&step.name),
        layout: &pipelines[step.kernel].layout,
        entries: &entries,
    })
}

/// Bytes of both guard bands of a buffer whose contents begin at `base`.
fn bands(base: u64) -> u64 {
    if base == 0 { 0 } else { base + GUARD_BYTES_AFTER }
}

/// Splits the steps into runs of bounded work.
fn group_steps(steps: &[PlanStep]) -> Vec<usize> {
    let mut groups = Vec::new();
    let (mut count, mut flops) = (0, 0);
    for step in steps {
        if count > 0 && flops + step.cost.flops > SUBMISSION_FLOPS {
            groups.push(std::mem::take(&mut count));
            flops = 0;
        }
        count += 1;
        flops += step.cost.flops;
    }
    groups.push(count);
    groups
}

impl Session for GpuSession {
    fn graph(&self) -> &Graph {
        &self.plan.graph
    }

    fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()> {
        let id = check_input(&self.plan.graph, input, tensor)?;
        self.gpu.check()?;
        let mut bytes = encode(tensor, self.plan.graph.desc(id).dtype);
        if self.base > 0 {
            // No kernel may count on what lies between the last element and the end of its vector.
            let end = tensor.len() * self.plan.graph.desc(id).dtype.size();
            let pattern = guard_pattern(id.index()).to_le_bytes();
            bytes[end..].iter_mut().zip(pattern.iter().cycle()).for_each(|(b, g)| *b = *g);
        }
        self.gpu.queue().write_buffer(self.buffer(id), self.base, &bytes);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        self.gpu.check()?;
        let mut first = 0;
        for (number, &count) in self.submissions.iter().enumerate() {
            let mut encoder =
                self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("run") });
            {
                let mut pass = encoder
                    .begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("run"), timestamp_writes: None });
                (first..first + count).for_each(|i| self.dispatch(&mut pass, i));
            }
            first += count;
            if number + 1 == self.submissions.len() {
                for carry in self.plan.graph.carries() {
                    let from = check_output(&self.plan.graph, &carry.output)?;
                    let to = self.plan.graph.find_input(&carry.input).expect("Graph::carry checked both names");
                    encoder.copy_buffer_to_buffer(
                        self.buffer(from),
                        self.base,
                        self.buffer(to),
                        self.base,
                        self.plan.graph.desc(from).bytes(),
                    );
                }
            }
            let submission = self.gpu.queue().submit([encoder.finish()]);
            // Let one submission run while the next is encoded, no more: progress stays honest and the queue short.
            if let Some(previous) = self.last.replace(submission) {
                let wait = wgpu::PollType::Wait { submission_index: Some(previous), timeout: None };
                self.gpu.device().poll(wait).map_err(|e| Error::Device(format!("{}: {e}", self.gpu.describe())))?;
            }
        }
        self.gpu.check()
    }

    fn read(&mut self, output: &str) -> Result<HostTensor> {
        self.gpu.check()?;
        let id = check_output(&self.plan.graph, output)?;
        self.value(id)
    }

    fn wait(&mut self) -> Result<()> {
        self.poll()
    }
}

/// Elements as stored on the device, padded to whole 4-element vectors.
fn encode(tensor: &HostTensor, dtype: DType) -> Vec<u8> {
    let padded = tensor.len().next_multiple_of(4);
    let mut bytes = Vec::with_capacity(padded * dtype.size());
    match dtype {
        DType::F32 => bytes.extend_from_slice(bytemuck::cast_slice(&tensor.data)),
        DType::F16 => {
            // Whole slices at once, which the processor's own instructions convert.
            let mut halves = [half::f16::ZERO; 1024];
            for chunk in tensor.data.chunks(halves.len()) {
                let halves = &mut halves[..chunk.len()];
                halves.convert_from_f32_slice(chunk);
                bytes.extend_from_slice(bytemuck::cast_slice(halves));
            }
        }
        DType::U32 => tensor.data.iter().for_each(|v| bytes.extend_from_slice(&(*v as u32).to_le_bytes())),
    }
    bytes.resize(padded * dtype.size(), 0);
    bytes
}

fn decode(bytes: &[u8], dtype: DType, elements: usize) -> Vec<f32> {
    let word = |c: &[u8]| [c[0], c[1], c[2], c[3]];
    match dtype {
        DType::F32 => bytes.chunks_exact(4).take(elements).map(|c| f32::from_le_bytes(word(c))).collect(),
        DType::F16 => {
            bytes.chunks_exact(2).take(elements).map(|c| half::f16::from_le_bytes([c[0], c[1]]).to_f32()).collect()
        }
        DType::U32 => bytes.chunks_exact(4).take(elements).map(|c| u32::from_le_bytes(word(c)) as f32).collect(),
    }
}
