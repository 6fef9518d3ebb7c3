//! One error type, split by who can fix the problem.
//!
//! Every message names the file, tensor, op or field it is about, what was expected, what was found, and what to do
//! next. What a file or a user can cause is an [`Error`]; an internal invariant that cannot fail is an `expect("why
//! impossible")`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::refusal::{Advised, Naming, Refusal, offered, quoted};

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

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
    /// Well-formed files hold what no model here asks for, and the user may know that it does not matter.
    Unused(Advised),
    /// The work does not fit into this device's memory or limits: make it smaller or choose another device.
    Limits(Advised),
    /// A WGSL kernel did not parse, validate or compile: a bug in the engine or the driver.
    Kernel(String),
    /// No such device, or the device was lost.
    Device(Advised),
    /// An argument is out of range.
    Usage(String),
    /// Like [`Error::Usage`], for a field of a [`Request`](crate::request::Request).
    Refused(Refusal),
    /// The run was asked to stop ([`Cancel`](crate::pipelines::Cancel)).
    Cancelled,
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

    /// The error without advice that names fields for which `can` is false: they cannot be given here.
    #[must_use]
    pub fn offering(mut self, can: &dyn Fn(&str) -> bool) -> Self {
        let advice = match &mut self {
            Error::Limits(advised) | Error::Device(advised) => &mut advised.instead,
            Error::Refused(refusal) => &mut refusal.instead,
            _ => return self,
        };
        *advice = offered(std::mem::take(advice), can);
        self
    }

    /// The error in a sentence, with the fields of a [`Request`](crate::request::Request) named as `name` does.
    pub fn in_words(&self, name: Naming<'_>) -> String {
        match self {
            Error::Checkpoint(m) => format!("checkpoint: {m}"),
            Error::Config(m) => format!("config: {m}"),
            Error::Shape(m) => format!("shape: {m}"),
            Error::Unsupported(m) => format!("unsupported: {m}"),
            Error::Unused(m) => format!("checkpoint: {}", m.in_words(name)),
            Error::Limits(m) => format!("limits: {}", m.in_words(name)),
            Error::Kernel(m) => format!("kernel: {m}"),
            Error::Device(m) => format!("device: {}", m.in_words(name)),
            Error::Usage(m) => format!("usage: {m}"),
            Error::Refused(refusal) => format!("usage: {}", refusal.in_words(name)),
            Error::Cancelled => "cancelled: the run was asked to stop".into(),
            Error::Io { path, source } => format!("io: {}: {source}", path.display()),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Refused(refusal)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(&quoted))
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
