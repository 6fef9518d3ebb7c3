//! Writing pictures.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use image::codecs::{jpeg::JpegEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageError};

use super::Picture;
use super::text::exif_block;
use crate::checkpoint::safetensors;
use crate::error::{Error, Result};
use crate::output::write_atomic;
use crate::tensor::HostTensor;

/// Pixels between the pictures of a grid, and their value.
const GAP: usize = 2;
const GAP_VALUE: u8 = 255;

/// Several pictures of one size as one, row by row, with a white gap of 2 pixels. Without `columns` the shape is
/// nearly square, and has no empty places if that keeps it within 1:2.
///
/// # Errors
/// [`Error::Usage`] if there is no picture or `columns` is zero, [`Error::Shape`] if the sizes differ.
pub fn grid(pictures: &[Picture], columns: Option<usize>) -> Result<Picture> {
    let Some(first) = pictures.first() else {
        return Err(Error::Usage("a grid needs at least one picture".into()));
    };
    let (width, height, channels) = (first.width, first.height, first.channels);
    if let Some(other) = pictures.iter().find(|p| (p.width, p.height, p.channels) != (width, height, channels)) {
        return Err(Error::Shape(format!(
            "the pictures of a grid need one size, found {width}×{height}×{channels} and {}×{}×{}",
            other.width, other.height, other.channels
        )));
    }
    let columns = match columns {
        Some(0) => return Err(Error::Usage("a grid needs at least one column".into())),
        Some(columns) => columns.min(pictures.len()),
        None => near_square(pictures.len()),
    };
    let rows = pictures.len().div_ceil(columns);
    let (grid_width, grid_height) = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP);
    let mut data = vec![GAP_VALUE; grid_width * grid_height * channels];
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = (i % columns * (width + GAP), i / columns * (height + GAP));
        for (y, row) in picture.data.chunks_exact(width * channels).enumerate() {
            let start = ((top + y) * grid_width + left) * channels;
            data[start..start + row.len()].copy_from_slice(row);
        }
    }
    Ok(Picture { width: grid_width, height: grid_height, channels, data })
}

/// Columns for `count` pictures: the smallest number from √count up that fills every row, if at most twice the rows.
fn near_square(count: usize) -> usize {
    let square = (count as f64).sqrt().ceil() as usize;
    (square..=count)
        .take_while(|columns| columns * columns <= 2 * count)
        .find(|columns| count.is_multiple_of(*columns))
        .unwrap_or(square)
}

/// A format of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureFormat {
    /// 8 bits, with `text` chunks. As Pillow does, text that Latin-1 can hold is a `tEXt` chunk, which every reader
    /// knows, other text is `iTXt` (UTF-8).
    Png,
    /// 8 bits, of a quality from 1 to 100 (the tables of libjpeg; chroma at full size). Texts become EXIF.
    Jpeg(u8),
    /// 8 bits, without loss. Texts become EXIF.
    WebP,
}

/// A file's bytes of a picture with texts, `(keyword, text)`, as [`read_text`](super::read_text) reads them. `path`
/// only names it in messages.
///
/// # Errors
/// [`Error::Usage`] if a keyword is not 1 to 79 ASCII characters or a text holds a NUL; [`Error::Limits`] if a side is
/// longer than the format allows (JPEG 65535 pixels, WebP 16383), or the texts than the 64 kB that EXIF may take in a
/// JPEG.
///
/// # Panics
/// If a quality is out of its range.
pub fn encode(path: &Path, picture: &Picture, text: &[(String, String)], format: PictureFormat) -> Result<Vec<u8>> {
    check_text(path, text)?;
    let encoded = match format {
        PictureFormat::Png => png(picture, size(path, picture, u32::MAX)?, text),
        PictureFormat::Jpeg(quality) => {
            assert!((1..=100).contains(&quality), "a quality is from 1 to 100, not {quality}");
            let exif = exif(path, text)?;
            // A segment's length has 16 bits and counts itself and a heading of six bytes.
            if exif.len() > usize::from(u16::MAX) - 8 {
                let (shown, bytes) = (path.display(), exif.len());
                let why = format!("{shown}: the settings take {bytes} bytes, a JPEG holds 65527; write a PNG");
                return Err(Error::Limits(why.into()));
            }
            let size = size(path, picture, u32::from(u16::MAX))?;
            let mut file = Vec::new();
            by(JpegEncoder::new_with_quality(&mut file, quality), picture, size, exif).map(|()| file)
        }
        PictureFormat::WebP => {
            let (exif, size) = (exif(path, text)?, size(path, picture, (1 << 14) - 1)?);
            let mut file = Vec::new();
            by(WebPEncoder::new_lossless(&mut file), picture, size, exif).map(|()| file)
        }
    };
    encoded.map_err(Error::io(path))
}

/// Writes a picture with texts, whole or not at all.
///
/// # Errors
/// As [`encode`] and [`write_atomic`].
///
/// # Panics
/// As [`encode`].
pub fn write_picture(
    path: impl AsRef<Path>,
    picture: &Picture,
    text: &[(String, String)],
    format: PictureFormat,
) -> Result<()> {
    let file = encode(path.as_ref(), picture, text, format)?;
    write_atomic(path, |out| out.write_all(&file))
}

/// As [`write_picture`], a PNG.
///
/// # Errors
/// As [`write_picture`].
pub fn write_png(path: impl AsRef<Path>, picture: &Picture, text: &[(String, String)]) -> Result<()> {
    write_picture(path, picture, text, PictureFormat::Png)
}

fn png(picture: &Picture, size: (u32, u32), text: &[(String, String)]) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut writer = png_encoder(&mut file, picture, size, text)?.write_header()?;
    writer.write_image_data(&picture.data)?;
    writer.finish()?;
    Ok(file)
}

/// An encoder for pictures like this one, with texts.
pub(super) fn png_encoder<'a>(
    file: &'a mut Vec<u8>,
    picture: &Picture,
    (width, height): (u32, u32),
    text: &[(String, String)],
) -> io::Result<png::Encoder<'a, &'a mut Vec<u8>>> {
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(if picture.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in text {
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword.clone(), text.clone())?;
        } else {
            encoder.add_itxt_chunk(keyword.clone(), text.clone())?;
        }
    }
    Ok(encoder)
}

pub(super) fn by(mut encoder: impl ImageEncoder, picture: &Picture, size: (u32, u32), exif: Vec<u8>) -> io::Result<()> {
    if !exif.is_empty() {
        encoder.set_exif_metadata(exif).map_err(io::Error::other)?;
    }
    let colour = if picture.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    encoder.write_image(&picture.data, size.0, size.1, colour).map_err(|error| match error {
        ImageError::IoError(error) => error,
        other => io::Error::other(other),
    })
}

pub(super) fn exif(path: &Path, text: &[(String, String)]) -> Result<Vec<u8>> {
    if text.is_empty() { Ok(Vec::new()) } else { exif_block(text).map_err(Error::io(path)) }
}

pub(super) fn check_text(path: &Path, text: &[(String, String)]) -> Result<()> {
    for (keyword, text) in text {
        let legal = (1..=79).contains(&keyword.chars().count()) && keyword.chars().all(|c| (' '..='~').contains(&c));
        if !legal || text.contains('\0') {
            return Err(Error::Usage(format!(
                "{}: a text needs a keyword of 1 to 79 ASCII characters and no NUL, found {keyword:?}",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Columns and rows, each at most `most`.
pub(super) fn size(path: &Path, picture: &Picture, most: u32) -> Result<(u32, u32)> {
    let side = |pixels: usize| u32::try_from(pixels).ok().filter(|pixels| *pixels <= most);
    side(picture.width).zip(side(picture.height)).ok_or_else(|| {
        let why = format!(
            "{}: {} x {} pixels are more than the {most} a side that the format allows; write another format",
            path.display(),
            picture.width,
            picture.height
        );
        Error::Limits(why.into())
    })
}

/// Writes `images` (f32 `[N, C, H, W]`) as the tensor `images` of a `.safetensors` file, whole or not at all.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_tensor(path: impl AsRef<Path>, images: &HostTensor, metadata: &BTreeMap<String, String>) -> Result<()> {
    write_atomic(path, |out| safetensors::write(out, &[("images", images)], metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Tensors;
    use crate::image_io::{read, read_text};

    fn picture(width: usize, height: usize, channels: usize, seed: usize) -> Picture {
        let data = (0..width * height * channels).map(|i| (i * 7 + seed) as u8).collect();
        Picture { width, height, channels, data }
    }

    #[test]
    fn grids_are_near_square_and_full_where_possible() {
        let columns: Vec<_> = (1..=16).map(near_square).collect();
        assert_eq!(columns, [1, 2, 2, 2, 3, 3, 3, 4, 3, 4, 4, 4, 4, 4, 5, 4]);
    }

    #[test]
    fn grid_places_pictures_row_by_row() {
        let pictures: Vec<_> = (0..5).map(|seed| picture(3, 2, 3, 10 * seed)).collect();
        let grid = grid(&pictures, None).unwrap();
        assert_eq!((grid.width, grid.height), (3 * 3 + 2 * 2, 2 * 2 + 2));
        let at = |x: usize, y: usize| &grid.data[(y * grid.width + x) * 3..][..3];
        assert_eq!(at(0, 0), &pictures[0].data[..3]);
        assert_eq!(at(3, 0), [255; 3]);
        assert_eq!(at(5, 0), &pictures[1].data[..3]);
        assert_eq!(at(7, 5), &pictures[4].data[15..18]); // last pixel of the fifth
        assert_eq!(at(12, 5), [255; 3]); // no sixth picture
        assert!(super::grid(&[picture(3, 2, 3, 0), picture(2, 3, 3, 0)], None).is_err());
        assert!(super::grid(&[], None).is_err());
        assert!(super::grid(&pictures, Some(0)).is_err());
    }

    #[test]
    fn pictures_come_back_with_their_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let text = [
            ("parameters".to_string(), "a café\nNegative prompt: blur\nSteps: 20".to_string()),
            ("prompt".to_string(), "ein Apfel 🍎, 红色".to_string()),
        ];
        for channels in [1, 3] {
            let written = picture(7, 5, channels, 3);
            write_png(&path, &written, &text).unwrap();
            assert_eq!(read(&path, channels).unwrap(), written);
            assert_eq!(read_text(&path).unwrap(), text);
        }
        let kinds = std::fs::read(&path).unwrap();
        for kind in [b"tEXt", b"iTXt"] {
            assert!(kinds.windows(4).any(|window| window == kind));
        }
        for format in [PictureFormat::Jpeg(100), PictureFormat::WebP] {
            let write = |picture: &Picture, text: &[_]| write_picture(&path, picture, text, format);
            let written = Picture { data: vec![77; 35], ..picture(7, 5, 1, 0) };
            write(&written, &text).unwrap();
            assert_eq!(read(&path, 1).unwrap(), written);
            assert_eq!(read_text(&path).unwrap(), text);
            write(&written, &[]).unwrap();
            assert_eq!(read_text(&path).unwrap(), []);
            write(&Picture { width: 70_000, height: 1, channels: 1, data: vec![0; 70_000] }, &[]).unwrap_err();
        }
        let long = [("unmist".to_owned(), "x".repeat(1 << 16))];
        write_picture(&path, &picture(1, 1, 3, 0), &long, PictureFormat::WebP).unwrap();
        let error = write_picture(&path, &picture(1, 1, 3, 0), &long, PictureFormat::Jpeg(90)).unwrap_err();
        assert!(matches!(error, Error::Limits(_)) && error.to_string().contains("write a PNG"), "{error}");
        for bad in [("", "x"), ("k", "a\0b"), ("Schlüssel 🔑", "x")] {
            let error = write_png(&path, &picture(1, 1, 1, 0), &[(bad.0.into(), bad.1.into())]).unwrap_err();
            assert!(error.to_string().contains("keyword"), "{error}");
        }
    }

    #[test]
    fn tensors_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let images = HostTensor::from_fn([2, 3, 5, 7], |i| (i as f32).sin());
        let metadata = BTreeMap::from([("seed".to_string(), "1 — ü".to_string())]);
        write_tensor(&path, &images, &metadata).unwrap();
        let tensors = Tensors::open(&path).unwrap();
        assert_eq!(tensors.read_f32("images").unwrap(), images);
        assert_eq!(tensors.metadata(), &metadata);
    }
}
