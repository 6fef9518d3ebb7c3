//! Files whose parts are read when they are needed: what holds tensors can be larger than the memory there is.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Bytes;
use crate::content::ContentId;

/// Reads parts of one file.
pub trait ReadAt: Send + Sync {
    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// What the system reports, and if the file has no so many bytes any more.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

/// A file of which parts are read: mapped or in memory, where a part costs nothing, or elsewhere.
#[derive(Clone)]
pub struct Parts(Source);

#[derive(Clone)]
enum Source {
    Whole(Bytes),
    Elsewhere { length: usize, id: ContentId, file: Arc<dyn ReadAt> },
}

impl From<Bytes> for Parts {
    fn from(bytes: Bytes) -> Self {
        Self(Source::Whole(bytes))
    }
}

impl Parts {
    /// A file of `length` bytes that lies elsewhere. The same `id` means the same bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] if its places are more than this machine counts (4 GiB in a browser).
    pub fn elsewhere(length: u64, id: ContentId, file: impl ReadAt + 'static) -> io::Result<Self> {
        let counted = usize::try_from(length).map_err(|_| {
            let why = format!("it has {length} bytes, and of 4 GiB or more no file is read here; give it in shards");
            io::Error::new(io::ErrorKind::FileTooLarge, why)
        })?;
        Ok(Self(Source::Elsewhere { length: counted, id, file: Arc::new(file) }))
    }

    /// Number of bytes.
    pub fn length(&self) -> usize {
        match &self.0 {
            Source::Whole(bytes) => bytes.len(),
            Source::Elsewhere { length, .. } => *length,
        }
    }

    /// Tells contents apart, as [`Bytes::id`].
    pub fn id(&self) -> ContentId {
        match &self.0 {
            Source::Whole(bytes) => bytes.id(),
            Source::Elsewhere { id, .. } => *id,
        }
    }

    /// All bytes, where they lie in memory.
    pub fn whole(&self) -> Option<&[u8]> {
        match &self.0 {
            Source::Whole(bytes) => Some(bytes),
            Source::Elsewhere { .. } => None,
        }
    }

    /// A part, which must lie inside the file.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    ///
    /// # Panics
    /// If the file is shorter.
    pub fn read(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        match &self.0 {
            Source::Whole(bytes) => Ok(Cow::Borrowed(&bytes[range])),
            Source::Elsewhere { length, file, .. } => {
                assert!(range.end <= *length, "a part behind the end of the file");
                let mut part = vec![0; range.len()];
                file.read_at(range.start as u64, &mut part)?;
                Ok(Cow::Owned(part))
            }
        }
    }

    /// The first `most` bytes, or all if there are fewer.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    pub fn beginning(&self, most: usize) -> io::Result<Cow<'_, [u8]>> {
        self.read(0..self.length().min(most))
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length())
    }
}
