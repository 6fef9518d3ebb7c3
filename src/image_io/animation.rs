//! Writing animations: pictures that follow each other without end, as APNG, GIF or WebP.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use gif::{AnyExtension, Extension, Frame, Repeat};
use image::codecs::webp::WebPEncoder;

use super::Picture;
use super::write::{by, check_text, exif, png_encoder, size};
use crate::error::{Error, Result};
use crate::output::write_atomic;

/// A format of animations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnimationFormat {
    /// PNG with frames ("APNG", third edition of the PNG specification), without loss. Texts as in a still one.
    Png,
    /// 256 colours a frame: all of a picture in grey, or in few colours; else the best ones (NeuQuant). Texts become
    /// comments, `keyword: text`.
    Gif,
    /// Without loss (RFC 9649). Texts become EXIF.
    WebP,
}

impl AnimationFormat {
    /// The most frames a second: what waits less than 2/100 s in a GIF, browsers show slowly.
    pub const MAX_FPS: u16 = 50;
}

/// Writes `frames`, `fps` of them a second and again from the first after the last, with texts, `(keyword, text)`, as a
/// whole file or not at all. Where a format counts in steps of time that `fps` is no multiple of, no frame is off by
/// more than half a step.
///
/// # Errors
/// As [`encode`](super::encode) and [`write_atomic`]; [`Error::Shape`] if there are no frames or their sizes differ.
///
/// # Panics
/// If `fps` is not 1 to [`AnimationFormat::MAX_FPS`].
pub fn write_animation(
    path: impl AsRef<Path>,
    frames: &[Picture],
    fps: u16,
    text: &[(String, String)],
    format: AnimationFormat,
) -> Result<()> {
    assert!((1..=AnimationFormat::MAX_FPS).contains(&fps), "{fps} frames a second");
    let path = path.as_ref();
    check_text(path, text)?;
    let shape = |picture: &Picture| (picture.width, picture.height, picture.channels);
    let first = frames.first().filter(|first| frames.iter().all(|frame| shape(frame) == shape(first)));
    let first = first.ok_or_else(|| Error::Shape("an animation needs frames of one size, and at least one".into()))?;
    let file = match format {
        AnimationFormat::Png => apng(frames, fps, size(path, first, u32::MAX)?, text),
        AnimationFormat::Gif => gif(frames, fps, size(path, first, u32::from(u16::MAX))?, text),
        AnimationFormat::WebP => webp(frames, fps, size(path, first, (1 << 14) - 1)?, exif(path, text)?),
    };
    let file = file.map_err(Error::io(path))?;
    write_atomic(path, |out| out.write_all(&file))
}

/// How long each of `count` frames is shown, in parts of a second, so that none begins off by more than half a part.
fn delays(count: usize, fps: u16, parts: f64) -> impl Iterator<Item = u16> {
    let begin = move |frame: usize| (frame as f64 * parts / f64::from(fps)).round() as u64;
    (0..count).map(move |i| (begin(i + 1) - begin(i)) as u16)
}

fn apng(frames: &[Picture], fps: u16, size: (u32, u32), text: &[(String, String)]) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png_encoder(&mut file, &frames[0], size, text)?;
    encoder.set_animated(frames.len() as u32, 0)?;
    encoder.set_frame_delay(1, fps)?;
    encoder.validate_sequence(true);
    let mut writer = encoder.write_header()?;
    frames.iter().try_for_each(|frame| writer.write_image_data(&frame.data))?;
    writer.finish()?;
    Ok(file)
}

fn gif(frames: &[Picture], fps: u16, size: (u32, u32), text: &[(String, String)]) -> io::Result<Vec<u8>> {
    let (width, height) = (size.0 as u16, size.1 as u16); // checked by the caller
    let grey = frames[0].channels == 1;
    let greys: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).filter(|_| grey).collect();
    let mut encoder = gif::Encoder::new(Vec::new(), width, height, &greys).map_err(io::Error::other)?;
    encoder.set_repeat(Repeat::Infinite).map_err(io::Error::other)?;
    for (keyword, text) in text {
        let comment = format!("{keyword}: {text}");
        let kind = AnyExtension::from(Extension::Comment);
        encoder.write_raw_extension(kind, &[comment.as_bytes()]).map_err(io::Error::other)?;
    }
    for (frame, delay) in frames.iter().zip(delays(frames.len(), fps, 100.0)) {
        let frame = match grey {
            true => Frame { width, height, buffer: Cow::Borrowed(&frame.data), ..Frame::default() },
            false => Frame::from_rgb(width, height, &frame.data), // looks at every pixel
        };
        encoder.write_frame(&Frame { delay, ..frame }).map_err(io::Error::other)?;
    }
    encoder.into_inner().map_err(io::Error::other)
}

/// The container of RFC 9649, section 2.7, around frames that are whole files without loss.
fn webp(frames: &[Picture], fps: u16, size: (u32, u32), exif: Vec<u8>) -> io::Result<Vec<u8>> {
    // A side is stored less one, in three bytes.
    let sides = [size.0, size.1].map(|side| (side - 1).to_le_bytes());
    let sides = [&sides[0][..3], &sides[1][..3]].concat();
    let mut chunks = Vec::new();
    let features = 0x02 | if exif.is_empty() { 0 } else { 0x08 }; // frames, EXIF
    push_chunk(&mut chunks, b"VP8X", &[&[features, 0, 0, 0], &sides[..]].concat())?;
    // The background is black and transparent; without end.
    push_chunk(&mut chunks, b"ANIM", &[0; 6])?;
    for (frame, delay) in frames.iter().zip(delays(frames.len(), fps, 1000.0)) {
        let mut still = Vec::new();
        by(WebPEncoder::new_lossless(&mut still), frame, size, vec![])?;
        let picture = &still[12..]; // after "RIFF", its length, "WEBP"
        let duration = u32::from(delay).to_le_bytes();
        // At the upper left corner, in place of what was there.
        let place = [&[0; 6], &sides[..], &duration[..3], &[0x02]].concat();
        push_chunk(&mut chunks, b"ANMF", &[&place[..], picture].concat())?;
    }
    if !exif.is_empty() {
        push_chunk(&mut chunks, b"EXIF", &exif)?;
    }
    let mut file = Vec::new();
    push_chunk(&mut file, b"RIFF", &[&b"WEBP"[..], &chunks].concat())?;
    Ok(file)
}

/// Name, length, data, filled up to an even length.
fn push_chunk(file: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len());
    let length = length.map_err(|_| io::Error::other("more than the 4 GB that a WebP file holds"))?;
    file.extend_from_slice(name);
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(data);
    file.extend_from_slice(&[0][..data.len() % 2]);
    Ok(())
}
