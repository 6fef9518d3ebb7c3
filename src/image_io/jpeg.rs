//! JPEG files: whether one is whole, and its pixels.
//!
//! Decoders fill up what is missing or damaged with grey and say nothing, which is right for a browser and wrong for a
//! picture that a model is to change.

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use jpeg_decoder::{Decoder, PixelFormat};

/// Decodes a JPEG to grey or RGB, and says how it is to be turned.
///
/// The decoder upsamples chroma as libjpeg-turbo does ("fancy upsampling"). Its inverse cosine transform rounds
/// otherwise: samples differ by 3 levels at most, by more than 2 in one of 7000 (measured on 552 files of every
/// subsampling, size and quality, of waves, edges and noise).
///
/// # Errors
/// What is wrong with the file, in words.
pub(super) fn decode(file: &[u8], max_bytes: u64) -> Result<(DynamicImage, Orientation), String> {
    if !ends(file).unwrap_or(false) {
        return Err("the file ends before the picture does".into());
    }
    let mut decoder = Decoder::new(file);
    decoder.set_max_decoding_buffer_size(usize::try_from(max_bytes).unwrap_or(usize::MAX));
    let samples = decoder.decode().map_err(|error| error.to_string())?;
    let info = decoder.info().ok_or("it holds no picture")?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let image = match info.pixel_format {
        PixelFormat::L8 => GrayImage::from_raw(width, height, samples).map(DynamicImage::ImageLuma8),
        PixelFormat::RGB24 => RgbImage::from_raw(width, height, samples).map(DynamicImage::ImageRgb8),
        PixelFormat::CMYK32 => RgbImage::from_raw(width, height, rgb(&samples)).map(DynamicImage::ImageRgb8),
        PixelFormat::L16 => return Err("it has 16 bits a sample, which only lossless JPEGs have".into()),
    };
    Ok((image.ok_or("its pixels do not fill its size")?, orientation))
}

/// Amounts of four inks as light, as Pillow converts them: `(255 − K) − C·(255 − K)/255`.
fn rgb(inks: &[u8]) -> Vec<u8> {
    let light = |ink: u8, black: u8| {
        let paper = u32::from(255 - black);
        let product = u32::from(ink) * paper + 128;
        (paper - ((product + (product >> 8)) >> 8)) as u8
    };
    inks.chunks_exact(4).flat_map(|pixel| [0, 1, 2].map(|i| light(pixel[i], pixel[3]))).collect()
}

/// Whether the end of the image comes; `None` if a segment is cut.
fn ends(file: &[u8]) -> Option<bool> {
    walk(file, &mut |_, _| ())
}

/// The comments of a file. Behind a cut there are none.
pub(super) fn comments(file: &[u8]) -> Vec<&[u8]> {
    const COMMENT: u8 = 0xfe;
    let mut found = Vec::new();
    walk(file, &mut |marker, segment| found.extend((marker == COMMENT).then_some(segment)));
    found
}

/// Goes from marker to marker (ITU-T T.81, annex B) and hands on each with what its segment holds. Whether the end of
/// the image comes; `None` if a segment is cut.
fn walk<'a>(file: &'a [u8], visit: &mut dyn FnMut(u8, &'a [u8])) -> Option<bool> {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    let mut at = 2; // behind the start of the image
    loop {
        // A marker may be preceded by fill bytes.
        while *file.get(at)? == 0xff && *file.get(at + 1)? == 0xff {
            at += 1;
        }
        if *file.get(at)? != 0xff {
            return Some(false);
        }
        let marker = *file.get(at + 1)?;
        if marker == END {
            return Some(true);
        }
        let length = usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?]));
        visit(marker, file.get(at + 4..at + 2 + length)?);
        at += 2 + length;
        if marker == SCAN {
            // In its data, 0xff is followed by 0 or a restart marker.
            while *file.get(at)? != 0xff || matches!(*file.get(at + 1)?, 0 | 0xd0..=0xd7 | 0xff) {
                at += 1;
            }
        }
    }
}
