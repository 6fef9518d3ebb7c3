//! One error type, split by who can fix the problem.
//!
//! Every message names the file, tensor, op or flag it is about, what was expected, what was found, and what to do
//! next. What a file or a user can cause is an [`Error`]; an internal invariant that cannot fail is an `expect("why
//! impossible")`.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong, by who can fix it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The weights are damaged, incomplete, or do not fit the model: fetch or convert the checkpoint again.
    Checkpoint(String),
    /// A `config.json` (model, scheduler, index) is malformed or contradicts itself: correct the file.
    Config(String),
    /// Tensors of these shapes do not go together: correct the input.
    Shape(String),
    /// Well-formed, but the engine does not do it; the value is named, never guessed.
    Unsupported(String),
    /// The work does not fit into this device's memory or limits: make it smaller or choose another device.
    Limits(String),
    /// A WGSL kernel did not parse, validate or compile: a bug in the engine or the driver.
    Kernel(String),
    /// No such device, or the device was lost.
    Device(String),
    /// A command-line option or API argument is out of range.
    Usage(String),
    /// A file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl Error {
    /// An [`Error::Io`] about `path`; meant for `map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Checkpoint(m) => write!(f, "checkpoint: {m}"),
            Error::Config(m) => write!(f, "config: {m}"),
            Error::Shape(m) => write!(f, "shape: {m}"),
            Error::Unsupported(m) => write!(f, "unsupported: {m}"),
            Error::Limits(m) => write!(f, "limits: {m}"),
            Error::Kernel(m) => write!(f, "kernel: {m}"),
            Error::Device(m) => write!(f, "device: {m}"),
            Error::Usage(m) => write!(f, "usage: {m}"),
            Error::Io { path, source } => write!(f, "io: {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
