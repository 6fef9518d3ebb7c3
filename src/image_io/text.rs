//! The texts of pictures, by keyword: chunks of a PNG; EXIF, XMP and comments of JPEG and WebP.
//!
//! The text `parameters` goes into EXIF's `UserComment`, where AUTOMATIC1111's web UI writes it and its readers look;
//! every other into `MakerNote`, which EXIF leaves to whoever made the picture: keyword and text, each ended by NUL.

use std::io::Cursor;
use std::path::Path;

use exif::experimental::Writer;
use exif::{Exif, Field, In, Tag, Value};
use image::{ImageDecoder, ImageFormat, ImageReader};

use super::read::read_file;
use super::{jpeg, webp};
use crate::error::{Error, Result};

/// The keyword of the settings in the form of AUTOMATIC1111's web UI.
pub const PARAMETERS: &str = "parameters";
/// How EXIF names the encoding of a comment.
const UTF_16: &[u8; 8] = b"UNICODE\0";

/// Texts of a PNG (`tEXt`, `zTXt`, `iTXt`), JPEG or WebP (EXIF as this program, AUTOMATIC1111's and ComfyUI write it,
/// XMP and comments as stable-diffusion.cpp does): `(keyword, text)`, in the file's order within each kind.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Unsupported`] if it is no sound picture.
pub fn read_text(path: impl AsRef<Path>) -> Result<Vec<(String, String)>> {
    text_of(path.as_ref(), &read_file(path.as_ref())?)
}

/// As [`read_text`], of a file's bytes; `path` only names it in messages.
///
/// # Errors
/// As [`read_text`].
pub fn text_of(path: &Path, file: &[u8]) -> Result<Vec<(String, String)>> {
    let bad = |error: &dyn std::fmt::Display| {
        Error::Unsupported(format!("{}: expected a PNG, JPEG or WebP picture with settings ({error})", path.display()))
    };
    if image::guess_format(file).is_ok_and(|format| format == ImageFormat::Png) {
        return chunks(file).map_err(|error| bad(&error));
    }
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(Error::io(path))?;
    let format = reader.format();
    if format == Some(ImageFormat::WebP) {
        // The decoder believes the length of a chunk.
        webp::check(file).map_err(|why| bad(&why))?;
    }
    let mut decoder = reader.into_decoder().map_err(|error| bad(&error))?;
    let mut text = Vec::new();
    if let Some(block) = decoder.exif_metadata().map_err(|error| bad(&error))? {
        // Not everything in a block needs to be sound: web UIs write one with a part too many.
        let exif = exif::Reader::new().continue_on_error(true).read_raw(block);
        let exif = exif.or_else(|error| error.distill_partial_result(drop)).map_err(|error| bad(&error))?;
        text.extend(texts(&exif));
    }
    let xmp = decoder.xmp_metadata().map_err(|error| bad(&error))?;
    text.extend(xmp.and_then(|packet| in_xmp(&String::from_utf8_lossy(&packet))));
    if format == Some(ImageFormat::Jpeg) {
        text.extend(jpeg::comments(file).into_iter().filter_map(in_comment));
    }
    Ok(text.into_iter().map(|(keyword, text)| (keyword.to_owned(), text)).collect())
}

fn chunks(file: &[u8]) -> std::result::Result<Vec<(String, String)>, png::DecodingError> {
    let mut reader = png::Decoder::new(Cursor::new(file)).read_info()?;
    reader.finish()?; // chunks after the pixels count too
    let info = reader.info();
    let mut text: Vec<_> =
        info.uncompressed_latin1_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.text.clone())).collect();
    for chunk in &info.compressed_latin1_text {
        text.push((chunk.keyword.clone(), chunk.get_text()?));
    }
    for chunk in &info.utf8_text {
        text.push((chunk.keyword.clone(), chunk.get_text()?));
    }
    Ok(text)
}

fn texts(exif: &Exif) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(Value::Undefined(bytes, _)) = exif.get_field(Tag::UserComment, In::PRIMARY).map(|field| &field.value) {
        found.push((PARAMETERS.to_owned(), comment(bytes)));
    }
    if let Some(Value::Undefined(bytes, _)) = exif.get_field(Tag::MakerNote, In::PRIMARY).map(|field| &field.value)
        && let Ok(notes) = std::str::from_utf8(bytes)
    {
        let parts: Vec<&str> = notes.split_terminator('\0').collect();
        found.extend(parts.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())));
    }
    // ComfyUI's: the keyword, a colon, the text.
    for tag in [Tag::Make, Tag::Model, Tag::ImageDescription] {
        let Some(Value::Ascii(lines)) = exif.get_field(tag, In::PRIMARY).map(|field| &field.value) else { continue };
        let line = String::from_utf8_lossy(&lines.concat()).into_owned();
        let pair = line.split_once(':').filter(|(keyword, _)| matches!(*keyword, "prompt" | "workflow"));
        found.extend(pair.map(|(keyword, text)| (keyword.to_owned(), text.to_owned())));
    }
    found
}

/// The text of a `UserComment`: eight bytes that name the encoding, and the text in it.
fn comment(bytes: &[u8]) -> String {
    let (encoding, text) = bytes.split_at_checked(UTF_16.len()).unwrap_or((&[], bytes));
    if encoding != UTF_16 {
        return String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
    }
    // EXIF does not say in which order the two bytes come; of most texts most high bytes are zero.
    let zeros = |first: usize| text.iter().skip(first).step_by(2).filter(|byte| **byte == 0).count();
    let unit = if zeros(0) >= zeros(1) { u16::from_be_bytes } else { u16::from_le_bytes };
    let units: Vec<u16> = text.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units).trim_start_matches('\u{feff}').trim_end_matches('\0').to_owned()
}

/// The text of the element `parameters` in any name space.
fn in_xmp(packet: &str) -> Option<(String, String)> {
    let begin = packet.find(":parameters>")? + ":parameters>".len();
    let text = &packet[begin..begin + packet[begin..].find("</")?];
    let escapes = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    let plain = escapes.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain));
    Some((PARAMETERS.to_owned(), plain))
}

/// A comment of a JPEG: keyword, NUL, text.
fn in_comment(comment: &[u8]) -> Option<(String, String)> {
    let comment = String::from_utf8_lossy(comment);
    let (keyword, text) = comment.trim_end_matches('\0').split_once('\0')?;
    (keyword == PARAMETERS).then(|| (keyword.to_owned(), text.to_owned()))
}

/// The texts as an EXIF block (a TIFF structure, big-endian).
pub(super) fn exif_block(texts: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    let mut notes = String::new();
    let mut fields = Vec::new();
    let mut add = |tag, bytes| {
        fields.push(Field { tag, ifd_num: In::PRIMARY, value: Value::Undefined(bytes, 0) });
    };
    for (keyword, text) in texts {
        if keyword == PARAMETERS {
            add(
                Tag::UserComment,
                UTF_16.iter().copied().chain(text.encode_utf16().flat_map(u16::to_be_bytes)).collect(),
            );
        } else {
            notes += &format!("{keyword}\0{text}\0");
        }
    }
    if !notes.is_empty() {
        add(Tag::MakerNote, notes.into_bytes());
    }
    let mut writer = Writer::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut block = Cursor::new(Vec::new());
    writer.write(&mut block, false).map_err(std::io::Error::other)?;
    Ok(block.into_inner())
}
