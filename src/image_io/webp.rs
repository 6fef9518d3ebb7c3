//! Whether a WebP file is whole: the lengths that its header and its chunks announce are all there, and no picture in
//! it is larger than the file says. Decoders of lossy pictures read zeros behind the end and say nothing, and make room
//! for a picture before they look whether it fits.

/// Refuses a file that is cut, that holds no picture, or one that is larger than the whole.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    let cut = || "the file ends before the picture does".to_owned();
    let length = |at: usize| -> Option<usize> {
        let bytes = file.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    // "RIFF", the length of all that follows, "WEBP", and chunks: a name, a length, the data, filled up to an even
    // length (RFC 9649).
    let end = length(4).and_then(|length| length.checked_add(8)).ok_or_else(cut)?;
    if end > file.len() {
        return Err(cut());
    }
    let (mut at, mut pictures) = (12, 0);
    let mut canvas = None;
    while at + 8 <= end {
        let data = length(at + 4).ok_or_else(cut)?;
        if data > end - at - 8 {
            return Err(cut());
        }
        let (kind, content) = (&file[at..at + 4], &file[at + 8..at + 8 + data]);
        if kind == b"VP8X" {
            canvas = canvas_size(content);
        }
        // A frame of an animation has 16 bytes of its own, then chunks of a picture; the first may be its transparency.
        let size = match kind {
            b"ANMF" => frame_size(content.get(16..).unwrap_or_default()),
            _ => picture_size(kind, content),
        };
        pictures += usize::from(matches!(kind, b"VP8 " | b"VP8L" | b"ANMF"));
        if let (Some((width, height)), Some((most_wide, most_high))) = (size, canvas)
            && (width > most_wide || height > most_high)
        {
            return Err(format!("a picture of {width} x {height} pixels in one of {most_wide} x {most_high}"));
        }
        at += 8 + data + data % 2;
    }
    if pictures == 0 { Err("it holds no picture".into()) } else { Ok(()) }
}

/// Columns and rows of the whole, which an extended header says.
fn canvas_size(header: &[u8]) -> Option<(u32, u32)> {
    let number =
        |at: usize| Some(u32::from_le_bytes([*header.get(at)?, *header.get(at + 1)?, *header.get(at + 2)?, 0]));
    Some((number(4)? + 1, number(7)? + 1))
}

/// Columns and rows of the picture in a frame.
fn frame_size(mut chunks: &[u8]) -> Option<(u32, u32)> {
    loop {
        let (head, rest) = chunks.split_first_chunk::<8>()?;
        let length = usize::try_from(u32::from_le_bytes([head[4], head[5], head[6], head[7]])).ok()?;
        if let Some(size) = picture_size(&head[..4], rest) {
            return Some(size);
        }
        chunks = rest.get(length.checked_add(length % 2)?..)?;
    }
}

/// Columns and rows of a lossy or lossless picture (RFC 6386, section 9.1; RFC 9649, section 3.4).
fn picture_size(kind: &[u8], data: &[u8]) -> Option<(u32, u32)> {
    match kind {
        b"VP8 " => {
            let &[width, wide, height, high] = data.get(6..10)? else { return None };
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some((side(width, wide), side(height, high)))
        }
        b"VP8L" => {
            let &[a, b, c, d] = data.get(1..5)? else { return None };
            let bits = u32::from_le_bytes([a, b, c, d]);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A decoder would make room for it before it sees that it does not fit.
    #[test]
    fn a_picture_larger_than_the_whole_is_refused() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/webp");
        for name in ["lossy_alpha", "animation"] {
            let mut file = std::fs::read(format!("{folder}/{name}.webp")).unwrap();
            check(&file).unwrap();
            let picture = |at: usize| matches!(&file[at..at + 4], b"VP8 " | b"VP8L");
            let at = (12..file.len() - 4).find(|at| picture(*at)).unwrap();
            let lossless = &file[at..at + 4] == b"VP8L";
            let size = at + 8 + if lossless { 1 } else { 6 };
            file[size..size + 4].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
            let why = check(&file).unwrap_err();
            assert!(why.contains("163"), "{name}: {why}");
        }
    }
}
