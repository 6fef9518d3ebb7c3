//! What kernels bind: buffers, and storage textures, which CPU drivers read faster.

use super::device::GpuDevice;
use crate::error::Result;
use crate::kernel::{Format, TEXTURE_WIDTH};
use crate::plan;
use crate::tensor::DType;

/// The memory of one [`plan::Buffer`].
pub enum Memory {
    /// A buffer.
    Buffer(wgpu::Buffer),
    /// A texture that only kernels see.
    Texture(wgpu::TextureView),
}

impl Memory {
    /// The buffer.
    ///
    /// # Panics
    /// If it is a texture, which no parameter, input or output is.
    pub fn buffer(&self) -> &wgpu::Buffer {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Texture(_) => unreachable!("only what is between the launches of one operation is a texture"),
        }
    }
}

/// The format of a texture's texels.
pub(super) fn texel(dtype: DType) -> wgpu::TextureFormat {
    if dtype == DType::F16 { wgpu::TextureFormat::Rgba16Float } else { wgpu::TextureFormat::Rgba32Float }
}

impl GpuDevice {
    /// A texture for `buffer`, with every texel set to `fill` if given.
    ///
    /// # Errors
    /// [`crate::Error::Limits`] if there is no memory for it.
    pub(super) fn create_texture(&self, buffer: &plan::Buffer, dtype: DType, fill: Option<u32>) -> Result<Memory> {
        let texel_bytes = Format::of(dtype).expect("textures hold floats").texel_bytes();
        let row_bytes = u64::from(TEXTURE_WIDTH) * texel_bytes;
        let rows = u32::try_from(buffer.bytes / row_bytes).expect("`legal` bounds the rows of textures");
        let size = wgpu::Extent3d { width: TEXTURE_WIDTH, height: rows, depth_or_array_layers: 1 };
        let descriptor = wgpu::TextureDescriptor {
            label: Some(buffer.role.name()),
            size,
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: texel(dtype),
            usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        };
        let texture = self.allocate(buffer.bytes, |device| device.create_texture(&descriptor))?;
        if let Some(fill) = fill {
            let pattern = vec![fill; buffer.bytes as usize / 4];
            let layout =
                wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row_bytes as u32), rows_per_image: None };
            self.queue().write_texture(texture.as_image_copy(), bytemuck::cast_slice(&pattern), layout, size);
        }
        Ok(Memory::Texture(texture.create_view(&wgpu::TextureViewDescriptor::default())))
    }
}
