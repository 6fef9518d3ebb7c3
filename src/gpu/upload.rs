//! Uploads parameters: from the mapped file to the buffer that kernels read, with at most one copy in between.

use std::sync::Arc;

use super::device::GpuDevice;
use super::memory::Memory;
use crate::content::ContentId;
use crate::encode::{encode, encode_weight};
use crate::error::{Error, Result};
use crate::graph::{WeightSource, content_of};
use crate::plan::{Content, Parameter, Value};
use crate::trace;

/// Bytes that may wait to be copied on the device: what is staged takes host memory until then.
const MAX_PENDING: u64 = 64 << 20;

/// Uploads the parameters of one session.
pub(super) struct Uploader<'a> {
    pub gpu: &'a GpuDevice,
    pub weights: &'a dyn WeightSource,
    /// Bytes staged since the last submission.
    pub pending: u64,
}

impl Uploader<'_> {
    /// What tells a parameter's buffer apart from others: contents, layout and element type.
    ///
    /// # Errors
    /// As [`WeightSource::content`].
    pub fn id(&self, parameter: &Parameter, value: &Value) -> Result<ContentId> {
        let content = match &parameter.content {
            Content::Weight(spec) => spec.content(self.weights)?,
            Content::Table(table) => content_of(table),
        };
        Ok(ContentId::of(&[content.bytes(), value.dtype.name().as_bytes()]))
    }

    /// The buffer of a parameter: one that the device already holds, or a new one that it then also holds for others.
    ///
    /// # Errors
    /// As the source of the weights; [`Error::Limits`] if memory runs out.
    pub fn shared(&mut self, id: ContentId, parameter: &Parameter, value: &Value, bytes: u64) -> Result<Arc<Memory>> {
        if let Some(buffer) = self.gpu.store().get(&id) {
            return Ok(buffer);
        }
        let buffer = self.upload(parameter, value, bytes)?;
        Ok(self.gpu.store().insert(id, bytes, Memory::Buffer(buffer)))
    }

    /// A new buffer with a parameter in it.
    fn upload(&mut self, parameter: &Parameter, value: &Value, bytes: u64) -> Result<wgpu::Buffer> {
        let device = self.gpu.device();
        let mapped = device.features().contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS);
        let mut usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        if mapped {
            usage |= wgpu::BufferUsages::MAP_WRITE;
        }
        let buffer = self.gpu.create_buffer("parameter", bytes, usage, mapped)?;
        if mapped {
            let unmapped = |e: wgpu::MapRangeError| Error::Device(format!("{}: {e}", self.gpu.describe()).into());
            let mut view = buffer.slice(..).get_mapped_range_mut().map_err(unmapped)?;
            self.fill(parameter, value, view.slice(..))?;
            drop(view);
            buffer.unmap();
        } else {
            self.write(&buffer, 0, parameter, value, bytes)?;
        }
        self.gpu.store().count_upload(bytes);
        Ok(buffer)
    }

    /// Writes a parameter into a buffer by way of the queue.
    ///
    /// # Errors
    /// As the source of the weights; [`Error::Limits`] if memory runs out.
    pub fn write(
        &mut self,
        buffer: &wgpu::Buffer,
        offset: u64,
        parameter: &Parameter,
        value: &Value,
        bytes: u64,
    ) -> Result<()> {
        let size = wgpu::BufferSize::new(bytes).expect("every buffer has at least 16 bytes");
        let mut view = self.gpu.queue().write_buffer_with(buffer, offset, size).ok_or_else(|| {
            Error::Limits(format!("{} has no room to stage a parameter of {bytes} bytes", self.gpu.describe()).into())
        })?;
        self.fill(parameter, value, view.slice(..))?;
        drop(view);
        self.pending += bytes;
        if self.pending > MAX_PENDING {
            self.gpu.queue().submit([]);
            self.gpu.wait()?;
            self.pending = 0;
        }
        Ok(())
    }

    /// Encodes a parameter into mapped memory.
    fn fill(&self, parameter: &Parameter, value: &Value, mut out: wgpu::WriteOnly<'_, [u8]>) -> Result<()> {
        let _span = trace::span_of("upload", || format!("{} {}", value.name, value.label()));
        match &parameter.content {
            Content::Weight(spec) => {
                let length = out.len();
                let start = out.as_raw_element_ptr();
                // SAFETY: the memory is mapped for this view alone, initialised by wgpu, and outlives the slice, which
                // `encode_weight` only writes. Reading it back might be slow, nothing worse.
                let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) };
                encode_weight(spec, self.weights, value.dtype, bytes)
            }
            Content::Table(table) => {
                let bytes = encode(table, value.dtype);
                out.slice(..bytes.len()).copy_from_slice(&bytes);
                Ok(())
            }
        }
    }
}
