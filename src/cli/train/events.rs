//! Event files, as TensorBoard reads them: records of TFRecord (length, checksum, bytes, checksum), each with an
//! `Event` of protocol buffers (`tensorflow/core/util/event.proto`, `framework/summary.proto`). A run that goes on
//! begins a new file, whose first event says from which step on older files are void.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::image_io::Picture;

/// Folder of the event files, in that of the run.
pub const LOGS: &str = "logs";

/// An event file that is being written.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Opens a new file of a run that has taken `step` steps.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(output: &Path, step: usize) -> Result<Self> {
        let folder = output.join(LOGS);
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = folder.join(format!("events.out.tfevents.{:010}.unmist.{step}", now().floor()));
        let file = File::create(&path).map_err(Error::io(&path))?;
        let mut events = Self { path, file };
        events.event(0, &bytes(3, b"brain.Event:2"))?; // file_version
        if step > 0 {
            const START: &[u8] = &[0x08, 1]; // SessionLog { status: START }
            events.event(step + 1, &bytes(7, START))?;
        }
        Ok(events)
    }

    /// Adds numbers by their names.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalars(&mut self, step: usize, values: &[(&str, f64)]) -> Result<()> {
        let value = |(name, value): &(&str, f64)| {
            let number = [&[0x15][..], &(*value as f32).to_le_bytes()].concat(); // simple_value
            bytes(1, &[bytes(1, name.as_bytes()), number].concat())
        };
        let summary: Vec<u8> = values.iter().flat_map(value).collect();
        self.event(step, &bytes(5, &summary))
    }

    /// Adds a picture, which is in the bytes of a PNG file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn picture(&mut self, step: usize, name: &str, picture: &Picture, png: &[u8]) -> Result<()> {
        let sizes = [number(1, picture.height), number(2, picture.width), number(3, picture.channels)].concat();
        let image = bytes(4, &[sizes, bytes(4, png)].concat());
        self.event(step, &bytes(5, &bytes(1, &[bytes(1, name.as_bytes()), image].concat())))
    }

    fn event(&mut self, step: usize, what: &[u8]) -> Result<()> {
        let wall_time = [&[0x09][..], &now().to_le_bytes()].concat();
        let event = [&wall_time, &number(2, step)[..], what].concat();
        self.file.write_all(&record(&event)).map_err(Error::io(&self.path))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// A field that holds a whole number.
fn number(field: u8, value: usize) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

/// A field that holds text, bytes or a message.
fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    [vec![field << 3 | 2], varint(value.len()), value.to_vec()].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while value >= 0x80 {
        all.push(value as u8 | 0x80);
        value >>= 7;
    }
    all.push(value as u8);
    all
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let masked = |bytes: &[u8]| crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// The checksum of RFC 3720, section 12.1.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_formats() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // RFC 3720, B.4, and everywhere
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(bytes(5, b"ab"), [0x2a, 2, b'a', b'b']);
        let all = record(b"abc");
        assert_eq!(all.len(), 8 + 4 + 3 + 4);
        assert_eq!(all[..8], 3u64.to_le_bytes());
    }
}
