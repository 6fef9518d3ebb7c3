//! Reading pictures, as Pillow would.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{Picture, jpeg, webp};
use crate::error::{Error, Result};

/// Largest decoded picture, as RGB or more, beyond the length of its file: 23 million pixels of RGB. Decoders take up
/// to 3.7 times that, which fits into 256 MiB. A file of a few kilobytes can announce far more.
const MAX_BYTES: u64 = 68 << 20;

/// Reads a PNG, JPEG or WebP as RGB (`channels` = 3) or grey (1), turned upright as its EXIF orientation says.
///
/// As Pillow's `convert`: transparency is dropped (not blended), of 16-bit samples the high byte is kept, and grey is
/// `(19595·R + 38470·G + 7471·B + 32768) >> 16` (ITU-R 601-2). Samples of a JPEG are within 3 levels of
/// libjpeg-turbo's, those of other files the same as Pillow's. Of an animation it is the first picture.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Unsupported`] if it is of another kind or is damaged,
/// [`Error::Limits`] if it is too large.
///
/// # Panics
/// If `channels` is neither 1 nor 3.
pub fn read(path: impl AsRef<Path>, channels: usize) -> Result<Picture> {
    decode(path.as_ref(), &read_file(path.as_ref())?, channels)
}

/// As [`read`], of a file's bytes; `path` only names it in messages.
///
/// # Errors
/// As [`read`].
///
/// # Panics
/// As [`read`].
pub fn decode(path: &Path, file: &[u8], channels: usize) -> Result<Picture> {
    assert!(channels == 1 || channels == 3, "a picture has 1 or 3 channels, not {channels}");
    Ok(pixels(path, file)?.colour(channels))
}

/// Reads a picture as [`read`] does, as RGB, and how opaque each pixel is (0 to 255, grey) if the file says so.
///
/// # Errors
/// As [`read`].
pub fn read_with_alpha(path: impl AsRef<Path>) -> Result<(Picture, Option<Picture>)> {
    decode_with_alpha(path.as_ref(), &read_file(path.as_ref())?)
}

/// As [`read_with_alpha`], of a file's bytes; `path` only names it in messages.
///
/// # Errors
/// As [`read`].
pub fn decode_with_alpha(path: &Path, file: &[u8]) -> Result<(Picture, Option<Picture>)> {
    let pixels = pixels(path, file)?;
    Ok((pixels.colour(3), pixels.alpha()))
}

/// Columns and rows of a picture as its header has them, before it is turned upright; `path` only names it in messages.
///
/// # Errors
/// [`Error::Unsupported`] if it is no PNG, JPEG or WebP.
pub fn dimensions(path: &Path, file: &[u8]) -> Result<(usize, usize)> {
    let shown = path.display();
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(Error::io(path))?;
    let (width, height) = reader.into_dimensions().map_err(|error| {
        Error::Unsupported(format!("{shown}: expected a PNG, JPEG or WebP picture ({error}); convert the file"))
    })?;
    Ok((width as usize, height as usize))
}

/// Decoded samples, upright and interleaved.
struct Pixels {
    width: usize,
    height: usize,
    /// Samples of a pixel: 1 or 3, and one more if there is transparency.
    stored: usize,
    samples: Vec<u8>,
}

impl Pixels {
    fn has_alpha(&self) -> bool {
        self.stored == 2 || self.stored == 4
    }

    fn colour(&self, channels: usize) -> Picture {
        let of_colour = self.stored - usize::from(self.has_alpha());
        let pixels = self.samples.chunks_exact(self.stored).map(|pixel| &pixel[..of_colour]);
        let data = match (of_colour, channels) {
            (1, 3) => pixels.flat_map(|p| [p[0]; 3]).collect(),
            (3, 1) => pixels.map(luma).collect(),
            _ => pixels.flatten().copied().collect(),
        };
        Picture { width: self.width, height: self.height, channels, data }
    }

    fn alpha(&self) -> Option<Picture> {
        let data = || self.samples.iter().skip(self.stored - 1).step_by(self.stored).copied().collect();
        self.has_alpha().then(|| Picture { width: self.width, height: self.height, channels: 1, data: data() })
    }
}

fn pixels(path: &Path, file: &[u8]) -> Result<Pixels> {
    let shown = path.display();
    let bad = |error| match error {
        image::ImageError::IoError(source) => Error::Io { path: path.to_owned(), source },
        image::ImageError::Limits(source) => Error::Limits(format!("{shown}: {source}; give a smaller picture").into()),
        other => {
            Error::Unsupported(format!("{shown}: expected a PNG, JPEG or WebP picture ({other}); convert the file"))
        }
    };
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(Error::io(path))?;
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(bad)?;
    let most = MAX_BYTES + file.len() as u64;
    let (width, height) = decoder.dimensions();
    // Grey becomes RGB afterwards.
    if decoder.total_bytes().max(3 * u64::from(width) * u64::from(height)) > most {
        let why = format!(
            "{shown}: {width}×{height} pixels take more than the {most} bytes that a picture from this file may have; \
            give a smaller one"
        );
        return Err(Error::Limits(why.into()));
    }
    let damaged = |why| Error::Unsupported(format!("{shown}: the picture is damaged ({why}); fetch or save it again"));
    let (mut image, orientation) = if format == Some(ImageFormat::Jpeg) {
        jpeg::decode(file, most).map_err(damaged)?
    } else {
        match format {
            Some(ImageFormat::WebP) => webp::check(file).map_err(damaged)?,
            Some(ImageFormat::Png) => check_palette(file).map_err(damaged)?,
            _ => {}
        }
        let orientation = decoder.orientation().map_err(bad)?;
        (DynamicImage::from_decoder(decoder).map_err(bad)?, orientation)
    };
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (samples, stored) = interleaved(image);
    Ok(Pixels { width, height, stored, samples })
}

/// Refuses a PNG whose palette is no list of colours, at which the decoder would panic.
fn check_palette(file: &[u8]) -> std::result::Result<(), String> {
    let reader = png::Decoder::new(Cursor::new(file)).read_info().map_err(|error| error.to_string())?;
    match reader.info().palette.as_deref().map(<[u8]>::len) {
        Some(bytes) if !bytes.is_multiple_of(3) => Err(format!("its palette of {bytes} bytes is no list of colours")),
        _ => Ok(()),
    }
}

/// The bytes of a picture.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?;
    if !kind.is_file() {
        return Err(Error::Usage(format!("{}: expected a picture, found a folder or device", path.display())));
    }
    std::fs::read(path).map_err(Error::io(path))
}

/// 8-bit samples, and how many of them a pixel has.
fn interleaved(image: DynamicImage) -> (Vec<u8>, usize) {
    let channels = usize::from(image.color().channel_count());
    let high_bytes = |samples: Vec<u16>| samples.into_iter().map(|v| (v >> 8) as u8).collect();
    let samples = match image {
        DynamicImage::ImageLuma8(image) => image.into_raw(),
        DynamicImage::ImageLumaA8(image) => image.into_raw(),
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => image.into_raw(),
        DynamicImage::ImageLuma16(image) => high_bytes(image.into_raw()),
        DynamicImage::ImageLumaA16(image) => high_bytes(image.into_raw()),
        DynamicImage::ImageRgb16(image) => high_bytes(image.into_raw()),
        DynamicImage::ImageRgba16(image) => high_bytes(image.into_raw()),
        other => return (other.into_rgb8().into_raw(), 3), // float formats, which PNG and JPEG do not have
    };
    (samples, channels)
}

fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_io::read_text;

    #[test]
    fn bad_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        assert!(matches!(read(&path, 3), Err(Error::Io { .. })));
        assert!(read(folder.path(), 3).unwrap_err().to_string().contains("folder"));
        for bytes in [&b""[..], b"GIF89a", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0 not a jpeg"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(read(&path, 3).unwrap_err().to_string().contains("a.png"));
            assert!(read_text(&path).unwrap_err().to_string().contains("a.png"));
        }
    }

    /// The decoder would panic at it.
    #[test]
    fn a_palette_that_is_no_list_of_colours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for (colours, sound) in [(6, true), (7, false), (8, false)] {
            let mut file = Vec::new();
            let mut encoder = png::Encoder::new(&mut file, 1, 1);
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(vec![9; colours]);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[0]).unwrap();
            writer.finish().unwrap();
            std::fs::write(&path, file).unwrap();
            match read(&path, 1) {
                Ok(picture) => assert!(sound && picture.data == [9], "{colours}"),
                Err(error) => assert!(!sound && error.to_string().contains("palette"), "{colours}: {error}"),
            }
        }
    }

    #[test]
    fn a_small_file_cannot_ask_for_much_memory() {
        // A sound PNG header of 60000×60000 RGB pixels (10.8 GB) with nothing behind it.
        let mut header = b"IHDR".to_vec();
        header.extend(60_000u32.to_be_bytes().iter().chain(&60_000u32.to_be_bytes()).chain(&[8, 2, 0, 0, 0]));
        let crc = header.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
        });
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        file.extend(header.into_iter().chain((!crc).to_be_bytes()).chain(*b"\0\0\0\0IDAT"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.png");
        std::fs::write(&path, file).unwrap();
        let error = read(&path, 3).unwrap_err();
        assert!(matches!(error, Error::Limits(_)), "{error}");
    }
}
