//! Pictures to files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image_io::{Picture, grid, write_png, write_tensor};
use crate::output::{check_writable, numbered};
use crate::tensor::HostTensor;

/// Where pictures go.
pub struct Output {
    path: PathBuf,
    format: Format,
    separate: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Safetensors,
}

impl Output {
    /// Checks that `path` is one that pictures can be written to.
    ///
    /// # Errors
    /// [`Error::Usage`] if its name ends in no known format; as [`check_writable`].
    pub fn new(path: &Path, separate: bool) -> Result<Self> {
        let format = match path.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
            Some("png") => Format::Png,
            Some("safetensors") => Format::Safetensors,
            _ => {
                return Err(Error::Usage(format!(
                    "--output {}: expected a name that ends in .png or .safetensors",
                    path.display()
                )));
            }
        };
        check_writable(path)?;
        Ok(Self { path: path.to_owned(), format, separate })
    }

    /// Writes `images` `[N, C, H, W]` with the texts (keyword and text) that `texts` returns for one picture of
    /// several, or for all of them in one file.
    ///
    /// # Errors
    /// As [`write_png`] and [`write_tensor`].
    pub fn write(&self, images: &HostTensor, texts: &dyn Fn(Option<usize>) -> Vec<(String, String)>) -> Result<()> {
        if self.format == Format::Safetensors {
            return write_tensor(&self.path, images, &texts(None).into_iter().collect::<BTreeMap<_, _>>());
        }
        match Picture::from_tensor(images)?.as_slice() {
            [one] => write_png(&self.path, one, &texts(None)),
            several if self.separate => {
                let place = |i| numbered(&self.path, i, several.len());
                several.iter().enumerate().try_for_each(|(i, picture)| write_png(place(i), picture, &texts(Some(i))))
            }
            several => write_png(&self.path, &grid(several, None)?, &texts(None)),
        }
    }

    /// Where unfinished pictures go: beside the others.
    fn preview(&self) -> PathBuf {
        self.path.with_extension("preview.png")
    }

    /// Checks that previews can be written.
    ///
    /// # Errors
    /// As [`check_writable`].
    pub fn check_preview(&self) -> Result<()> {
        check_writable(self.preview())
    }

    /// Writes unfinished `images` as one picture.
    ///
    /// # Errors
    /// As [`write_png`].
    pub fn write_preview(&self, images: &HostTensor) -> Result<()> {
        write_png(self.preview(), &grid(&Picture::from_tensor(images)?, None)?, &[])
    }
}
