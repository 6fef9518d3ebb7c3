//! Where frames go.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image_io::{AnimationFormat, Picture, write_animation, write_png};
use crate::output::check_writable;

/// Frames a second, unless asked for.
const FPS: u16 = 12;

/// Where frames go.
pub enum Output {
    /// A folder of pictures; it need not be there yet.
    Folder(PathBuf),
    /// One file.
    Animation { path: PathBuf, format: AnimationFormat, fps: u16, back_and_forth: bool },
}

/// Keyword and text.
pub type Text = (String, String);

impl Output {
    /// What the name `path` ends in says.
    ///
    /// # Errors
    /// [`Error::Usage`] for other endings, and for options of what moves where nothing does.
    pub fn new(path: &Path, fps: Option<u16>, back_and_forth: bool) -> Result<Self> {
        let shown = path.display();
        let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_lowercase);
        let is_folder = path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator);
        let format = match ending.as_deref() {
            _ if is_folder => None,
            None => None,
            Some("png" | "apng") => Some(AnimationFormat::Png),
            Some("gif") => Some(AnimationFormat::Gif),
            Some("webp") => Some(AnimationFormat::WebP),
            Some(_) => {
                return Err(Error::Usage(format!(
                    "--output {shown}: expected a name that ends in .png, .gif or .webp, or that of a folder, with / \
                    at its end"
                )));
            }
        };
        if let Some(format) = format {
            return Ok(Self::Animation { path: path.to_owned(), format, fps: fps.unwrap_or(FPS), back_and_forth });
        }
        let idle = [("--fps", fps.is_some()), ("--back-and-forth", back_and_forth)];
        match idle.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Error::Usage(format!(
                "{flag}: frames in a folder, {shown}, do not move; leave it out, or give a file's name, which ends in \
                .png, .gif or .webp"
            ))),
            None => Ok(Self::Folder(path.to_owned())),
        }
    }

    /// The files that `frames` frames become.
    pub fn places(&self, frames: usize) -> Vec<PathBuf> {
        match self {
            Self::Folder(folder) => (0..frames).map(|frame| place(folder, frame)).collect(),
            Self::Animation { path, .. } => vec![path.clone()],
        }
    }

    /// Checks that they can be written.
    ///
    /// # Errors
    /// As [`check_writable`]; [`Error::Usage`] for a folder that holds frames of a longer way.
    pub fn check(&self, frames: usize) -> Result<()> {
        let folder = match self {
            Self::Animation { path, .. } => return check_writable(path),
            Self::Folder(folder) if folder.is_dir() => folder,
            Self::Folder(folder) if folder.exists() => {
                let shown = folder.display();
                return Err(Error::Usage(format!(
                    "--output {shown}: there is a file of this name; expected a folder, or a name that ends in .png, \
                    .gif or .webp"
                )));
            }
            // A file that could be there could be in it.
            Self::Folder(folder) => return check_writable(plain(folder)),
        };
        let places = self.places(frames);
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_frame = name.starts_with("frame-") && name.ends_with(".png");
            if is_frame && !places.contains(&path) {
                return Err(Error::Usage(format!(
                    "{}: a frame of another run, which would look like one of this; remove it, or give another folder",
                    path.display()
                )));
            }
        }
        places.iter().try_for_each(check_writable)
    }

    /// Writes a frame, where each is a file.
    ///
    /// # Errors
    /// As [`write_png`].
    pub fn write_frame(&self, frame: usize, picture: &Picture, text: &[Text]) -> Result<()> {
        let Self::Folder(folder) = self else { return Ok(()) };
        if !folder.is_dir() {
            std::fs::create_dir(folder).map_err(Error::io(folder))?;
        }
        write_png(place(folder, frame), picture, text)
    }

    /// Writes all frames, where they are one file.
    ///
    /// # Errors
    /// As [`write_animation`].
    pub fn write_all(&self, mut frames: Vec<Picture>, text: &[Text]) -> Result<()> {
        let Self::Animation { path, format, fps, back_and_forth } = self else { return Ok(()) };
        if *back_and_forth {
            // The first and the last are seen once each time.
            let back: Vec<Picture> = frames[1..frames.len() - 1].iter().rev().cloned().collect();
            frames.extend(back);
        }
        write_animation(path, &frames, *fps, text, *format)
    }
}

fn place(folder: &Path, frame: usize) -> PathBuf {
    folder.join(format!("frame-{frame:03}.png"))
}

/// A path without a separator at its end, behind which no file could be.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}
