//! Brings a program onto a device: its buffers, its parameters, and what is prepared from them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::device::{Checks, GpuDevice, Pipeline};
use super::memory::Memory;
use super::session::{bands, guard_pattern};
use super::upload::Uploader;
use crate::content::ContentId;
use crate::encode::padded_bytes;
use crate::error::Result;
use crate::graph::{Rate, WeightSource};
use crate::kernel::Access;
use crate::plan::{BufferIndex, BufferRole, Launch, PARAMS_STRIDE, Parameter, Program};
use crate::trace;

/// Buffers by their index in the program; `None` for those that do not exist yet, or no longer.
pub(super) type Buffers = Vec<Option<Arc<Memory>>>;

/// A program on its way to the device.
pub(super) struct Loader<'a> {
    gpu: &'a GpuDevice,
    program: &'a Program,
    pipelines: &'a [Pipeline],
    uploader: Uploader<'a>,
    /// Where each buffer's contents begin; 0 without guard bands. With them, nothing is shared.
    base: u64,
    buffers: Buffers,
    /// What the buffers of parameters, and of what is prepared from them, hold.
    ids: Vec<Option<ContentId>>,
    /// The parameter that goes to each buffer.
    parameters: HashMap<BufferIndex, &'a Parameter>,
    /// The list `once`: each piece of a launch that was split for its length belongs to its group.
    groups: Vec<Range<usize>>,
}

impl<'a> Loader<'a> {
    pub fn new(
        gpu: &'a GpuDevice,
        program: &'a Program,
        pipelines: &'a [Pipeline],
        weights: &'a dyn WeightSource,
        base: u64,
    ) -> Self {
        let mut groups: Vec<Range<usize>> = Vec::new();
        for (i, launch) in program.once.iter().enumerate() {
            match groups.last_mut() {
                Some(group) if same_launch(&program.once[group.start], launch) => group.end = i + 1,
                _ => groups.push(i..i + 1),
            }
        }
        Self {
            gpu,
            program,
            pipelines,
            uploader: Uploader { gpu, weights, pending: 0 },
            base,
            buffers: vec![None; program.buffers.len()],
            ids: vec![None; program.buffers.len()],
            parameters: program.parameters.iter().map(|p| (p.buffer, p)).collect(),
            groups,
        }
    }

    /// Brings everything to its place. Parameters that no session uses are evicted if the store and this session would
    /// take more than `limit` bytes.
    ///
    /// # Errors
    /// As [`super::GpuSession::new`].
    pub fn load(mut self, limit: Option<u64>) -> Result<Buffers> {
        if self.shares() {
            self.identify()?;
            self.find_in_store();
            if let Some(limit) = limit {
                self.gpu.store().make_room(self.missing_bytes(), limit);
                self.gpu.free_dropped();
            }
        }
        self.create_own()?;
        let span = trace::span("upload parameters");
        for parameter in &self.program.parameters {
            if !self.shares() || self.role(parameter.buffer) == BufferRole::Parameter {
                self.load_parameter(parameter.buffer)?;
            }
        }
        drop(span);
        self.prepare()?;
        self.gpu.queue().submit([]); // what is staged
        Ok(self.buffers)
    }

    fn shares(&self) -> bool {
        self.base == 0
    }

    fn role(&self, buffer: BufferIndex) -> BufferRole {
        self.program.buffers[buffer].role
    }

    /// Names the contents of parameters and of what is prepared from them.
    fn identify(&mut self) -> Result<()> {
        for parameter in &self.program.parameters {
            let value = &self.program.values[parameter.value];
            self.ids[parameter.buffer] = Some(self.uploader.id(parameter, value)?);
        }
        for group in &self.groups {
            let launches = &self.program.once[group.clone()];
            let mut parts: Vec<&[u8]> = vec![self.program.kernels[launches[0].kernel].hash.bytes()];
            let workgroups: Vec<_> = launches.iter().map(|launch| format!("{:?}", launch.workgroups)).collect();
            for (launch, workgroups) in launches.iter().zip(&workgroups) {
                parts.extend([launch.params.as_slice(), workgroups.as_bytes()]);
            }
            let (read, written) = self.bindings(&launches[0]);
            let inputs: Vec<ContentId> = read.iter().filter_map(|buffer| self.ids[*buffer]).collect();
            parts.extend(inputs.iter().map(ContentId::bytes));
            let id = ContentId::of(&parts);
            for (position, buffer) in written.into_iter().enumerate() {
                // A buffer of its own may be written piece by piece; what a slot held before does not matter.
                let before = self.ids[buffer].filter(|_| self.role(buffer) == BufferRole::Prepared);
                let before = before.map_or(Vec::new(), |id| id.bytes().to_vec());
                self.ids[buffer] = Some(ContentId::of(&[id.bytes(), &[position as u8], &before]));
            }
        }
        Ok(())
    }

    /// Takes the buffers that the device already holds.
    fn find_in_store(&mut self) {
        for (index, buffer) in self.program.buffers.iter().enumerate() {
            if matches!(buffer.role, BufferRole::Parameter | BufferRole::Prepared) {
                self.buffers[index] = self.ids[index].and_then(|id| self.gpu.store().get(&id));
            }
        }
    }

    /// Bytes that are still to be allocated.
    fn missing_bytes(&self) -> u64 {
        let missing = self.program.buffers.iter().zip(&self.buffers).filter(|(_, there)| there.is_none());
        let (sources, others): (Vec<_>, Vec<_>) = missing.partition(|(b, _)| b.role == BufferRole::Source);
        let largest = sources.iter().map(|(b, _)| b.bytes).max().unwrap_or(0);
        others.iter().map(|(b, _)| b.bytes).sum::<u64>() + largest + self.program.params_bytes()
    }

    /// Creates the buffers that belong to this session alone.
    fn create_own(&mut self) -> Result<()> {
        for (index, buffer) in self.program.buffers.iter().enumerate() {
            let shared = matches!(buffer.role, BufferRole::Parameter | BufferRole::Source | BufferRole::Prepared);
            if !(shared && self.shares()) {
                self.buffers[index] = Some(Arc::new(self.create(index)?));
            }
        }
        Ok(())
    }

    fn create(&self, index: BufferIndex) -> Result<Memory> {
        let planned = &self.program.buffers[index];
        if let Some(dtype) = planned.texture {
            return self.gpu.create_texture(planned, dtype, (self.base > 0).then(|| guard_pattern(index)));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let bytes = planned.bytes + bands(self.base);
        let buffer = self.gpu.create_buffer(self.role(index).name(), bytes, usage, false)?;
        if self.base > 0 {
            let pattern = vec![guard_pattern(index); bytes as usize / 4];
            self.gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(&pattern));
        }
        Ok(Memory::Buffer(buffer))
    }

    /// Brings a parameter to its buffer, unless it is there.
    fn load_parameter(&mut self, buffer: BufferIndex) -> Result<()> {
        let parameter = self.parameters[&buffer];
        let value = &self.program.values[parameter.value];
        if let Some(own) = self.buffers[buffer].clone().filter(|_| !self.shares()) {
            let bytes = padded_bytes(value.elements(), value.dtype) as u64;
            return self.uploader.write(own.buffer(), self.base, parameter, value, bytes);
        }
        if self.buffers[buffer].is_none() {
            let id = self.ids[buffer].expect("`identify` names every parameter");
            let bytes = self.program.buffers[buffer].bytes;
            self.buffers[buffer] = Some(self.uploader.shared(id, parameter, value, bytes)?);
        }
        Ok(())
    }

    /// Runs the list `once`, except for what the store already held. Each source is uploaded when it is needed, and
    /// dropped after its last use.
    fn prepare(&mut self) -> Result<()> {
        let _span = trace::span("prepare parameters");
        let groups = self.needed_groups();
        let mut last_use: HashMap<BufferIndex, usize> = HashMap::new();
        for (i, group) in groups.iter().enumerate() {
            last_use.extend(self.sources(group).into_iter().map(|source| (source, i)));
        }
        for (i, group) in groups.iter().enumerate() {
            let sources = self.sources(group);
            for source in &sources {
                if self.shares() {
                    self.load_parameter(*source)?;
                }
            }
            for target in self.bindings(&self.program.once[group.start]).1 {
                if self.buffers[target].is_none() {
                    let id = self.ids[target].expect("`identify` names everything that is prepared");
                    let created = self.create(target)?;
                    let bytes = self.program.buffers[target].bytes;
                    self.buffers[target] = Some(self.gpu.store().insert(id, bytes, created));
                }
            }
            self.run(group)?;
            let over: Vec<_> = sources.into_iter().filter(|s| self.shares() && last_use[s] == i).collect();
            if !over.is_empty() {
                for source in over {
                    self.buffers[source] = None;
                    self.gpu.store().forget(&self.ids[source].expect("`identify` names every parameter"));
                }
                self.gpu.wait()?; // so that their memory is free before the next source comes
            }
        }
        Ok(())
    }

    /// The groups that something missing depends on, in order.
    fn needed_groups(&self) -> Vec<Range<usize>> {
        let prepared = |b: BufferIndex| self.role(b) == BufferRole::Prepared;
        let missing = |b: &BufferIndex| !self.shares() || self.buffers[*b].is_none();
        let mut wanted: HashSet<BufferIndex> =
            (0..self.buffers.len()).filter(|b| prepared(*b)).filter(missing).collect();
        let mut needed = Vec::new();
        for group in self.groups.iter().rev() {
            let (read, written) = self.bindings(&self.program.once[group.start]);
            if written.iter().any(|buffer| wanted.contains(buffer)) {
                wanted.extend(
                    read.into_iter().filter(|b| self.role(*b) == BufferRole::Slot || prepared(*b) && missing(b)),
                );
                needed.push(group.clone());
            }
        }
        needed.reverse();
        needed
    }

    /// The sources that a group reads.
    fn sources(&self, group: &Range<usize>) -> Vec<BufferIndex> {
        let (read, _) = self.bindings(&self.program.once[group.start]);
        read.into_iter().filter(|buffer| self.role(*buffer) == BufferRole::Source).collect()
    }

    /// The buffers that a launch reads, and those that it writes.
    fn bindings(&self, launch: &Launch) -> (Vec<BufferIndex>, Vec<BufferIndex>) {
        let storage = self.program.kernels[launch.kernel].reflection.bindings.iter();
        let storage = storage.filter(|binding| binding.access != Access::Uniform);
        let (read, written): (Vec<_>, Vec<_>) =
            storage.zip(&launch.bindings).partition(|(binding, _)| binding.access == Access::Read);
        let buffers = |list: Vec<(_, &(BufferIndex, u64))>| list.into_iter().map(|(_, (buffer, _))| *buffer).collect();
        (buffers(read), buffers(written))
    }

    fn run(&self, group: &Range<usize>) -> Result<()> {
        let launches = &self.program.once[group.clone()];
        let bind_groups = bind_groups(self.gpu, self.program, launches, self.pipelines, &self.buffers, self.base)?;
        let label = Some("once");
        let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        let dispatch = |pass: &mut wgpu::ComputePass<'_>, i: usize| {
            let [x, y, z] = launches[i].workgroups;
            pass.set_pipeline(&self.pipelines[launches[i].kernel].pipeline);
            pass.set_bind_group(0, &bind_groups[i], &[]);
            pass.dispatch_workgroups(x, y, z);
        };
        if self.gpu.is_traced() {
            self.gpu.encode_traced(&mut encoder, self.program, Rate::Once, launches, dispatch);
        } else {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes: None });
            (0..launches.len()).for_each(|i| dispatch(&mut pass, i));
        }
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }
}

/// Whether two launches are pieces of one.
fn same_launch(a: &Launch, b: &Launch) -> bool {
    a.value == b.value && a.kernel == b.kernel && a.bindings == b.bindings
}

/// One bind group for each launch. The launches' parameters lie in one uniform buffer.
///
/// # Errors
/// [`crate::Error::Limits`] if memory runs out.
pub(super) fn bind_groups(
    gpu: &GpuDevice,
    program: &Program,
    launches: &[Launch],
    pipelines: &[Pipeline],
    buffers: &Buffers,
    base: u64,
) -> Result<Vec<wgpu::BindGroup>> {
    if launches.is_empty() {
        return Ok(Vec::new());
    }
    let mut params_bytes = vec![0u8; PARAMS_STRIDE * launches.len()];
    for (slot, launch) in params_bytes.chunks_exact_mut(PARAMS_STRIDE).zip(launches) {
        slot[..launch.params.len()].copy_from_slice(&launch.params);
    }
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let params = gpu.create_buffer("params", params_bytes.len() as u64, usage, false)?;
    gpu.queue().write_buffer(&params, 0, &params_bytes);
    // How far bindings reach into the guard bands behind their buffers.
    let reach = if gpu.checks() == Checks::Off { bands(base) - base } else { 0 };
    let bind_group = |(i, launch): (usize, &Launch)| {
        let reflection = &program.kernels[launch.kernel].reflection;
        let mut storage = launch.bindings.iter();
        let entries: Vec<_> = reflection
            .bindings
            .iter()
            .map(|binding| {
                let part = |buffer, offset, size| {
                    let size = wgpu::BufferSize::new(size);
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
                };
                let resource = match binding.access {
                    Access::Uniform => part(&params, (PARAMS_STRIDE * i) as u64, u64::from(reflection.params_size)),
                    Access::Read | Access::ReadWrite => {
                        let (index, bytes) = storage.next().expect("the plan binds every storage binding");
                        match &**buffers[*index].as_ref().expect("what a launch binds is there when it runs") {
                            Memory::Texture(view) => wgpu::BindingResource::TextureView(view),
                            Memory::Buffer(buffer) => {
                                part(buffer, base, (*bytes + reach).min(gpu.caps().max_binding_bytes))
                            }
                        }
                    }
                };
                wgpu::BindGroupEntry { binding: binding.index, resource }
            })
            .collect();
        gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&program.values[launch.value].name),
            layout: &pipelines[launch.kernel].layout,
            entries: &entries,
        })
    };
    Ok(launches.iter().enumerate().map(bind_group).collect())
}
