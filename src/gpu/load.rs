//! What a GPU does for a program that is brought onto it: from the mapped file to the buffer that kernels read, with at
//! most one copy in between.

use super::device::{Checks, GpuDevice, Pipeline};
use super::memory::Memory;
use super::session::{bands, guard_pattern};
use crate::encode::padded_bytes;
use crate::error::{Error, Result};
use crate::graph::{Rate, WeightSource};
use crate::kernel::Access;
use crate::load::{Buffers, LoadTarget, fill};
use crate::plan::{BufferIndex, Launch, PARAMS_STRIDE, Parameter, Program, Value, params_of};
use crate::store::Store;

/// Bytes that may wait to be copied on the device: what is staged takes host memory until then.
const MAX_PENDING: u64 = 64 << 20;

/// A GPU with a program whose kernels it has compiled.
pub(super) struct Target<'a> {
    pub gpu: &'a GpuDevice,
    pub program: &'a Program,
    pub pipelines: &'a [Pipeline],
    pub weights: &'a dyn WeightSource,
    /// Where each buffer's contents begin; 0 without guard bands. With them, nothing is shared.
    pub base: u64,
    /// Bytes staged since the last submission.
    pub pending: u64,
}

impl Target<'_> {
    fn value(&self, parameter: &Parameter) -> &Value {
        &self.program.values[parameter.value]
    }

    /// Encodes a parameter into mapped memory.
    fn fill(&self, parameter: &Parameter, mut out: wgpu::WriteOnly<'_, [u8]>) -> Result<()> {
        let length = out.len();
        let start = out.as_raw_element_ptr();
        // SAFETY: the memory is mapped for this view alone, initialised by wgpu, and outlives the slice, which `fill`
        // only writes. Reading it back might be slow, nothing worse.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) };
        fill(parameter, self.value(parameter), self.weights, bytes)
    }

    fn write_to(&mut self, buffer: &wgpu::Buffer, parameter: &Parameter) -> Result<()> {
        let value = self.value(parameter);
        let bytes = padded_bytes(value.elements(), value.dtype) as u64;
        let size = wgpu::BufferSize::new(bytes).expect("every buffer has at least 16 bytes");
        let mut view = self.gpu.queue().write_buffer_with(buffer, self.base, size).ok_or_else(|| {
            Error::Limits(format!("{} has no room to stage a parameter of {bytes} bytes", self.gpu.describe()).into())
        })?;
        self.fill(parameter, view.slice(..))?;
        drop(view);
        self.pending += bytes;
        if self.pending > MAX_PENDING {
            self.gpu.queue().submit([]);
            self.gpu.wait()?;
            self.pending = 0;
        }
        Ok(())
    }
}

impl LoadTarget for Target<'_> {
    type Memory = Memory;

    fn store(&self) -> &Store<Memory> {
        self.gpu.store()
    }

    fn shares(&self) -> bool {
        self.base == 0
    }

    fn create(&mut self, index: BufferIndex) -> Result<Memory> {
        let planned = &self.program.buffers[index];
        if let Some(dtype) = planned.texture {
            return self.gpu.create_texture(planned, dtype, (self.base > 0).then(|| guard_pattern(index)));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let bytes = planned.bytes + bands(self.base);
        let buffer = self.gpu.create_buffer(planned.role.name(), bytes, usage, false)?;
        if self.base > 0 {
            let pattern = vec![guard_pattern(index); bytes as usize / 4];
            self.gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(&pattern));
        }
        Ok(Memory::Buffer(buffer))
    }

    fn write(&mut self, memory: &Memory, parameter: &Parameter) -> Result<()> {
        self.write_to(memory.buffer(), parameter)
    }

    fn upload(&mut self, parameter: &Parameter) -> Result<Memory> {
        let device = self.gpu.device();
        let mapped = device.features().contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS);
        let mut usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        if mapped {
            usage |= wgpu::BufferUsages::MAP_WRITE;
        }
        let bytes = self.program.buffers[parameter.buffer].bytes;
        let buffer = self.gpu.create_buffer("parameter", bytes, usage, mapped)?;
        if mapped {
            let unmapped = |e: wgpu::MapRangeError| Error::Device(format!("{}: {e}", self.gpu.describe()).into());
            let mut view = buffer.slice(..).get_mapped_range_mut().map_err(unmapped)?;
            self.fill(parameter, view.slice(..))?;
            drop(view);
            buffer.unmap();
        } else {
            self.write_to(&buffer, parameter)?;
        }
        Ok(Memory::Buffer(buffer))
    }

    fn run(&mut self, launches: &[Launch], buffers: &Buffers<Memory>) -> Result<()> {
        let bind_groups = bind_groups(self.gpu, self.program, launches, self.pipelines, buffers, self.base)?;
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

    fn wait(&mut self) -> Result<()> {
        self.gpu.wait()
    }

    fn finish(&mut self) -> Result<()> {
        self.gpu.queue().submit([]); // what is staged
        Ok(())
    }
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
    buffers: &Buffers<Memory>,
    base: u64,
) -> Result<Vec<wgpu::BindGroup>> {
    if launches.is_empty() {
        return Ok(Vec::new());
    }
    let params_bytes = params_of(launches);
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
