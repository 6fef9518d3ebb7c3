//! Pictures, and the texts in them.

use std::path::Path;

use unmist::Result;
use unmist::image_io::{self, Picture};

use super::{Kind, bytes_of};
use crate::random::{Random, mutate, mutated};

pub fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for name in ["input.png", "palette.png", "grey_alpha.png", "rgba.png", "bilevel.png"] {
        let (seed, again) = (bytes_of(&format!("images/{name}")), bytes_of(&format!("images/{name}")));
        kinds.push(Kind::new(format!("picture/{name}"), 3, move |random| change_png(&seed, random), read_picture()));
        let make = move |random: &mut Random| mutated(&again, random);
        // Checksums see nearly everything.
        kinds.push(Kind::new(format!("picture-bytes/{name}"), 1, make, read_picture()).expecting(0, 10));
    }
    let (seed, again) = (bytes_of("images/rotated.jpg"), bytes_of("images/rotated.jpg"));
    kinds.push(Kind::new("picture/rotated.jpg", 6, move |random| change_jpeg(&seed, random), read_picture()));
    kinds.push(Kind::new("picture-bytes/rotated.jpg", 3, move |random| mutated(&again, random), read_picture()));
    for name in ["webp/lossy_alpha.webp", "webp/lossless.webp"] {
        let seed = bytes_of(&format!("images/{name}"));
        kinds.push(Kind::new(format!("picture/{name}"), 4, move |random| change_webp(&seed, random), read_picture()));
    }
    for name in ["settings/webui.jpg", "settings/webui.webp"] {
        let seed = bytes_of(&format!("images/{name}"));
        let (folder, path) = place();
        let read = move |bytes| read_texts(&folder, &path, bytes);
        kinds.push(Kind::new(format!("picture-text/{name}"), 4, move |random| mutated(&seed, random), read));
    }
    kinds.push(texts());
    kinds
}

/// A place for one file at a time.
fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("picture");
    (folder, path)
}

fn read_picture() -> impl Fn(Vec<u8>) -> Result<()> {
    let (folder, path) = place();
    move |bytes| {
        let _ = &folder;
        let channels = if bytes.len() % 2 == 0 { 1 } else { 3 };
        std::fs::write(&path, bytes).expect("written");
        let picture = image_io::read(&path, channels)?;
        assert_eq!(picture.data.len(), picture.width * picture.height * channels);
        Ok(())
    }
}

/// A PNG with text of every kind, of which only the text is read.
fn texts() -> Kind {
    let (folder, path) = place();
    let picture = Picture { width: 2, height: 2, channels: 1, data: vec![0, 1, 2, 3] };
    let text =
        [("parameters", "a fox\nSteps: 20, Sampler: Euler a, Seed: 7"), ("unmist", "{\"options\": {}}"), ("x", "猫")];
    let text = text.map(|(keyword, text)| (keyword.to_owned(), text.to_owned()));
    image_io::write_png(&path, &picture, &text).expect("written");
    let mut chunks = chunks(&std::fs::read(&path).expect("written"));
    // Texts that grow when they are unpacked.
    let long = "a fox, ".repeat(200_000);
    chunks.splice(1..1, compressed(&long));
    let seed = png(&chunks);
    Kind::new(
        "picture-text",
        6,
        move |random| change_png(&seed, random),
        move |bytes| read_texts(&folder, &path, bytes),
    )
}

/// A `zTXt` and an `iTXt` chunk.
fn compressed(text: &str) -> Vec<Chunk> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1, 1);
    encoder.add_ztxt_chunk("z".into(), text.into()).expect("Latin-1");
    let mut writer = encoder.write_header().expect("written to memory");
    let mut international = png::text_metadata::ITXtChunk::new("i", text);
    international.compress_text().expect("deflated");
    writer.write_text_chunk(&international).expect("written to memory");
    writer.write_image_data(&[0]).expect("written to memory");
    writer.finish().expect("written to memory");
    chunks(&file).into_iter().filter(|(kind, _)| [b"zTXt", b"iTXt"].contains(&kind)).collect()
}

fn read_texts(_: &tempfile::TempDir, path: &Path, bytes: Vec<u8>) -> Result<()> {
    std::fs::write(path, bytes).expect("written");
    image_io::read_text(path).map(drop)
}

type Chunk = ([u8; 4], Vec<u8>);

/// Kinds of chunks that are read.
const KINDS: [&[u8; 4]; 8] = [b"IDAT", b"PLTE", b"tRNS", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"iCCP"];

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

fn chunks(mut file: &[u8]) -> Vec<Chunk> {
    file = file.strip_prefix(SIGNATURE).expect("a PNG");
    let mut chunks = Vec::new();
    while let Some((length, rest)) = file.split_first_chunk::<4>() {
        let (kind, rest) = rest.split_first_chunk::<4>().expect("a kind");
        let (data, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        chunks.push((*kind, data.to_vec()));
        file = &rest[4..];
    }
    chunks
}

/// A file with right lengths and checksums.
fn png(chunks: &[Chunk]) -> Vec<u8> {
    let mut file = SIGNATURE.to_vec();
    for (kind, data) in chunks {
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(kind);
        file.extend(data);
        let crc = kind.iter().chain(data).fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
        });
        file.extend((!crc).to_be_bytes());
    }
    file
}

/// Changes chunks of a PNG, whose checksums are right afterwards: otherwise little would get past those.
fn change_png(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut chunks = chunks(seed);
    for _ in 0..1 + random.below(3) {
        let at = random.below(chunks.len());
        match random.below(10) {
            0 => drop(chunks.remove(at)),
            1 => chunks.insert(at, chunks[at].clone()),
            2 => {
                let other = random.below(chunks.len());
                chunks.swap(at, other);
            }
            3 => chunks[at].0 = *KINDS[random.below(KINDS.len())],
            // Width, height, depth, colours, interlacing.
            4 | 5 if chunks[0].1.len() == 13 => {
                let field = random.below(4);
                let number = if random.one_in(2) { random.below(300) as u32 } else { random.number() as u32 };
                match field {
                    0 | 1 => chunks[0].1[4 * field..4 * field + 4].copy_from_slice(&number.to_be_bytes()),
                    _ => chunks[0].1[8 + random.below(5)] = [0, 1, 2, 3, 4, 6, 8, 16][random.below(8)],
                }
            }
            _ => mutate(&mut chunks[at].1, random),
        }
        if chunks.is_empty() {
            break;
        }
    }
    let mut file = png(&chunks);
    if random.one_in(8) {
        file.truncate(random.below(file.len()));
    }
    file
}

/// Changes segments of a JPEG, whose lengths are right afterwards.
fn change_jpeg(seed: &[u8], random: &mut Random) -> Vec<u8> {
    const SCAN: u8 = 0xda;
    // Up to the first scan, each segment has a marker and a length; what follows stays together.
    let (mut segments, mut rest) = (Vec::new(), &seed[2..]);
    while let [0xff, marker, high, low, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([high, low]));
        segments.push((marker, rest[4..2 + length].to_vec()));
        rest = &rest[2 + length..];
        if marker == SCAN {
            break;
        }
    }
    let mut data = rest.to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(segments.len());
        match random.below(10) {
            0 => drop(segments.remove(at)),
            1 => segments.insert(at, segments[at].clone()),
            // Another kind of frame: progressive, lossless, arithmetic.
            2 => segments[at].0 = 0xc0 + random.below(16) as u8,
            3 => mutate(&mut data, random),
            // The frame's size.
            4 | 5 => {
                let frame = segments.iter_mut().find(|(marker, data)| (0xc0..0xc3).contains(marker) && data.len() > 5);
                let number = if random.one_in(2) { random.below(300) as u16 } else { random.number() as u16 };
                let field = 1 + 2 * random.below(2);
                frame.into_iter().for_each(|(_, data)| data[field..field + 2].copy_from_slice(&number.to_be_bytes()));
            }
            _ => mutate(&mut segments[at].1, random),
        }
        if segments.is_empty() {
            break;
        }
    }
    let mut file = seed[..2].to_vec();
    for (marker, data) in segments {
        file.extend([0xff, marker]);
        file.extend(((data.len() + 2) as u16).to_be_bytes());
        file.extend(data);
    }
    file.extend(data);
    file
}

/// Changes chunks of a WebP file, whose lengths are right afterwards.
fn change_webp(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut rest = &seed[12..];
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let (kind, length) = head.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        chunks.push((kind.try_into().expect("four bytes"), behind[..length].to_vec()));
        rest = &behind[length.next_multiple_of(2).min(behind.len())..];
    }
    for _ in 0..1 + random.below(3) {
        let at = random.below(chunks.len());
        match random.below(8) {
            0 if chunks.len() > 1 => drop(chunks.remove(at)),
            1 => chunks.insert(at, chunks[at].clone()),
            2 => {
                let other = random.below(chunks.len());
                chunks.swap(at, other);
            }
            3 => chunks[at].0 = *random.pick(&[b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"XMP "]),
            _ => mutate(&mut chunks[at].1, random),
        }
    }
    let mut body = b"WEBP".to_vec();
    for (kind, data) in &chunks {
        body.extend(kind);
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(data);
        body.extend(vec![0; data.len() % 2]);
    }
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}
