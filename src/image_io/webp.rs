//! Whether a WebP file is whole: the lengths that its header and its chunks announce are all there. Decoders of lossy
//! pictures read zeros behind the end and say nothing.

/// Refuses a file that is cut, or that holds no picture.
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
    while at + 8 <= end {
        let data = length(at + 4).ok_or_else(cut)?;
        if data > end - at - 8 {
            return Err(cut());
        }
        pictures += usize::from(matches!(&file[at..at + 4], b"VP8 " | b"VP8L" | b"ANMF"));
        at += 8 + data + data % 2;
    }
    if pictures == 0 { Err("it holds no picture".into()) } else { Ok(()) }
}
