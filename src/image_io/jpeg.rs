//! Whether a JPEG file is whole.
//!
//! Decoders fill up what is missing or damaged with grey and say nothing, which is right for a browser and wrong for a
//! picture that a model is to change. Pillow refuses such files.

use zune_core::bytestream::ZCursor;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Refuses a JPEG that ends early, or whose data do not decode.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    if !ends(file).unwrap_or(false) {
        return Err("the file ends before the picture does".into());
    }
    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(1 << 16).set_max_height(1 << 16);
    JpegDecoder::new_with_options(ZCursor::new(file), options).decode().map(drop).map_err(|error| format!("{error:?}"))
}

/// Walks from marker to marker (ITU-T T.81, annex B): whether the end of the image comes; `None` if a segment is cut.
fn ends(file: &[u8]) -> Option<bool> {
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
        at += 2 + usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?]));
        if marker == SCAN {
            // In its data, 0xff is followed by 0 or a restart marker.
            while *file.get(at)? != 0xff || matches!(*file.get(at + 1)?, 0 | 0xd0..=0xd7 | 0xff) {
                at += 1;
            }
        }
    }
}
