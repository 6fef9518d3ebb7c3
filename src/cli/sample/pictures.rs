//! Pictures to files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::say;
use crate::error::{Error, Result};
use crate::image_io::{Picture, PictureFormat, grid, write_picture, write_png, write_tensor};
use crate::output::{check_writable, numbered};
use crate::tensor::HostTensor;

/// What could not be written. Nothing beside the pictures may cost them: what fails is said, and decides the exit code
/// when all the rest is written.
#[derive(Default)]
pub struct Failures(RefCell<Vec<Error>>);

impl Failures {
    /// Says what failed, if it did, and keeps it.
    pub fn keep(&self, result: Result<()>) {
        if let Err(error) = result {
            say(format_args!("note: {error}; the rest goes on"));
            self.0.borrow_mut().push(error);
        }
    }

    /// Whether anything failed.
    pub fn any(&self) -> bool {
        !self.0.borrow().is_empty()
    }

    /// The first of all that failed.
    ///
    /// # Errors
    /// That one, with the number of the others.
    pub fn finish(self) -> Result<()> {
        let mut all = self.0.into_inner();
        match all.len() {
            0 => Ok(()),
            1 => Err(all.remove(0)),
            several => Err(Error::Usage(format!("{several} files could not be written, first {}", all.remove(0)))),
        }
    }
}

/// Where pictures go.
pub struct Output {
    path: PathBuf,
    format: Format,
    separate: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Picture(PictureFormat),
    Safetensors,
}

impl Format {
    /// As other programs have it where a JPEG should look like the picture: above it files grow fast.
    const QUALITY: u8 = 90;

    /// The format that a name ends in.
    fn of(path: &Path, quality: Option<u8>) -> Result<Self> {
        let shown = path.display();
        let format = match path.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
            Some("png") => Self::Picture(PictureFormat::Png),
            Some("jpg" | "jpeg") => return Ok(Self::Picture(PictureFormat::Jpeg(quality.unwrap_or(Self::QUALITY)))),
            Some("webp") => Self::Picture(PictureFormat::WebP),
            Some("safetensors") => Self::Safetensors,
            _ => {
                return Err(Error::Usage(format!(
                    "--output {shown}: expected a name that ends in .png, .jpg, .webp or .safetensors"
                )));
            }
        };
        match quality {
            None => Ok(format),
            Some(quality) => Err(Error::Usage(format!(
                "--quality {quality}: only JPEG files have one, others are written without loss, as {shown}; leave it \
                out, or give a name that ends in .jpg"
            ))),
        }
    }
}

impl Output {
    /// The output at `path`, in the format that its name ends in.
    ///
    /// # Errors
    /// [`Error::Usage`] if it ends in no known format, or if that format has no `quality`.
    pub fn new(path: &Path, separate: bool, quality: Option<u8>) -> Result<Self> {
        let format = Format::of(path, quality)?;
        Ok(Self { path: path.to_owned(), format, separate })
    }

    /// Where `count` pictures go.
    pub fn places(&self, count: usize) -> Vec<PathBuf> {
        match count {
            2.. if self.separate && self.format != Format::Safetensors => {
                (0..count).map(|i| numbered(&self.path, i, count)).collect()
            }
            _ => vec![self.path.clone()],
        }
    }

    /// Checks that `count` pictures can be written. Where some of them can, the others are only told of.
    ///
    /// # Errors
    /// As [`check_writable`], if none can.
    pub fn check(&self, count: usize) -> Result<()> {
        let checked: Vec<_> = self.places(count).into_iter().map(check_writable).collect();
        let blocked = checked.iter().filter(|checked| checked.is_err()).count();
        for error in checked.iter().filter_map(|checked| checked.as_ref().err()).filter(|_| blocked < checked.len()) {
            say(format_args!("note: {error}; that picture will not be written"));
        }
        if blocked == checked.len() { checked.into_iter().next().expect("there is a place") } else { Ok(()) }
    }

    /// Writes `images` `[N, C, H, W]` with the texts (keyword and text) that `texts` returns for one picture of
    /// several, or for all of them in one file. What cannot be written is kept among `failures`, and the rest is.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Limits`] if they are no pictures.
    pub fn write(
        &self,
        images: &HostTensor,
        texts: &dyn Fn(Option<usize>) -> Vec<(String, String)>,
        failures: &Failures,
    ) -> Result<()> {
        let Format::Picture(format) = self.format else {
            let texts = texts(None).into_iter().collect::<BTreeMap<_, _>>();
            failures.keep(write_tensor(&self.path, images, &texts));
            return Ok(());
        };
        let pictures = Picture::from_tensor(images)?;
        let places = self.places(pictures.len());
        if let [only] = places.as_slice() {
            let whole = if let [one] = pictures.as_slice() { one.clone() } else { grid(&pictures, None)? };
            write_one(only, &whole, &texts(None), format, failures);
        } else {
            for (i, (place, picture)) in places.iter().zip(&pictures).enumerate() {
                write_one(place, picture, &texts(Some(i)), format, failures);
            }
        }
        Ok(())
    }

    /// Where unfinished pictures go: beside the others.
    pub fn preview(&self) -> PathBuf {
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

/// Writes a picture; one whose texts are too long for its format without them.
fn write_one(path: &Path, picture: &Picture, texts: &[(String, String)], format: PictureFormat, failures: &Failures) {
    let mut written = write_picture(path, picture, texts, format);
    if matches!(written, Err(Error::Limits(_))) && !texts.is_empty() {
        failures.keep(written);
        written = write_picture(path, picture, &[], format);
    }
    failures.keep(written);
}
