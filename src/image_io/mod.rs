//! Pictures in and out: PNG, JPEG and WebP files with their settings, animations as APNG, GIF and WebP, `.safetensors`
//! of pictures before rounding, grids, and the reading and resizing of input pictures as diffusers (through Pillow)
//! does it.

mod animation;
mod jpeg;
mod read;
mod resize;
mod text;
mod webp;
mod write;

pub use animation::{AnimationFormat, write_animation};
pub use read::{decode, decode_with_alpha, dimensions, read, read_with_alpha};
pub use resize::resize_lanczos;
pub use text::{PARAMETERS, read_text, text_of};
pub use write::{PictureFormat, encode, grid, write_picture, write_png, write_tensor};

use crate::error::{Error, Result};
use crate::tensor::HostTensor;

/// An 8-bit picture: row-major `[H, W, C]`, grey (C = 1) or RGB (C = 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// `height · width · channels` bytes.
    pub data: Vec<u8>,
}

/// The interval that 0 … 255 becomes in a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// `[0, 1]`: masks, and pictures before normalisation.
    ZeroToOne,
    /// `[-1, 1]`: what models are trained on.
    MinusOneToOne,
}

impl Picture {
    /// One picture for each of the N images of `[N, C, H, W]` in [0, 1]: `round(255·x)`, halves to even as numpy (and
    /// so diffusers) rounds them, values outside [0, 1] clamped.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor is not `[N, 1 or 3, H, W]`; [`Error::Checkpoint`] if it holds a NaN, which no
    /// picture can show. f16 is not the cause: [`crate::overflow::F32Fallback`] takes care of that.
    pub fn from_tensor(images: &HostTensor) -> Result<Vec<Self>> {
        let &[_, channels @ (1 | 3), height, width] = images.shape.as_slice() else {
            return Err(Error::Shape(format!("a picture needs shape [N, 1 or 3, H, W], found {:?}", images.shape)));
        };
        if height == 0 || width == 0 {
            return Err(Error::Shape(format!("a picture needs at least one pixel, found shape {:?}", images.shape)));
        }
        if let Some(at) = images.data.iter().position(|v| v.is_nan()) {
            let image = at / (channels * height * width);
            return Err(Error::Checkpoint(format!(
                "picture {image} holds NaN, first at element {at}: the weights are damaged, or those of another config"
            )));
        }
        let pictures = images.data.chunks_exact(channels * height * width).map(|image| {
            let pixel = |i: usize| {
                let (position, channel) = (i / channels, i % channels);
                (image[channel * height * width + position].clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
            };
            Self { width, height, channels, data: (0..image.len()).map(pixel).collect() }
        });
        Ok(pictures.collect())
    }

    /// The picture as `[1, C, H, W]`: `x/255`, for [`Range::MinusOneToOne`] then `2x − 1`, each rounded to f32 as
    /// diffusers' image processor computes it.
    pub fn to_tensor(&self, range: Range) -> HostTensor {
        let plane = self.width * self.height;
        HostTensor::from_fn([1, self.channels, self.height, self.width], |i| {
            let x = f32::from(self.data[i % plane * self.channels + i / plane]) / 255.0;
            match range {
                Range::ZeroToOne => x,
                Range::MinusOneToOne => 2.0 * x - 1.0,
            }
        })
    }
}

impl Picture {
    /// How much like `other` the picture is: the peak signal-to-noise ratio of 8 bits, 20 log₁₀(255 / RMSE), in
    /// decibels; infinite for equal ones.
    ///
    /// # Errors
    /// [`Error::Shape`] if their sizes differ.
    pub fn psnr(&self, other: &Self) -> Result<f64> {
        let shape = |picture: &Self| [picture.height, picture.width, picture.channels];
        if shape(self) != shape(other) {
            let why = format!("pictures to compare: {:?} and {:?}, expected one size", shape(self), shape(other));
            return Err(Error::Shape(why));
        }
        let squares = self.data.iter().zip(&other.data).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        let mean = squares.sum::<f64>() / self.data.len() as f64;
        Ok(10.0 * (255.0 * 255.0 / mean).log10())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_numpys() {
        // 0.5/255, 1.5/255, 2.5/255 in f32 times 255 are exactly the halves; numpy: 0, 2, 2.
        let halves: Vec<f32> = [0.5f32, 1.5, 2.5].iter().map(|v| v / 255.0).collect();
        assert!(halves.iter().zip([0.5, 1.5, 2.5]).all(|(v, half)| v * 255.0 == half));
        let values = [halves[0], halves[1], halves[2], -3.0, 7.0, 1.0];
        let images = HostTensor::new([1, 1, 2, 3], values.to_vec()).unwrap();
        assert_eq!(Picture::from_tensor(&images).unwrap()[0].data, [0, 2, 2, 0, 255, 255]);
    }

    #[test]
    fn channels_are_interleaved_and_back() {
        let images = HostTensor::from_fn([2, 3, 2, 5], |i| (i * 4) as f32 / 255.0);
        let pictures = Picture::from_tensor(&images).unwrap();
        assert_eq!((pictures.len(), pictures[1].width, pictures[1].height), (2, 5, 2));
        assert_eq!(pictures[0].data[..4], [0, 40, 80, 4]); // R G B of the first pixel, R of the second
        assert_eq!(pictures[1].data[0], 120);
        let back = pictures[1].to_tensor(Range::ZeroToOne);
        assert_eq!(back.shape, [1, 3, 2, 5]);
        assert!(back.data.iter().zip(&images.data[30..]).all(|(a, b)| (a - b).abs() < 1e-6));
        let signed = pictures[1].to_tensor(Range::MinusOneToOne);
        assert_eq!(signed.data[29], 2.0 * (236.0f32 / 255.0) - 1.0);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for (shape, part) in
            [(vec![1, 2, 4, 4], "[1, 2, 4, 4]"), (vec![3, 4, 4], "[3, 4, 4]"), (vec![1, 3, 0, 4], "pixel")]
        {
            let message = Picture::from_tensor(&HostTensor::zeros(shape)).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let mut images = HostTensor::zeros([2, 1, 2, 2]);
        images.data[5] = f32::NAN;
        let message = Picture::from_tensor(&images).unwrap_err().to_string();
        assert!(message.contains("picture 1") && message.contains("element 5"), "{message}");
    }
}
