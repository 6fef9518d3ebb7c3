//! Where the files of a checkpoint come from: the disk, memory, or a page.
//!
//! Everything that reads a checkpoint asks a [`Files`] and nothing else, so that a browser, a test or another program
//! can hand a model over as bytes:
//!
//! ```no_run
//! use std::sync::Arc;
//! use unmist::checkpoint::Checkpoint;
//! use unmist::files::Memory;
//!
//! # fn fetch(_: &str) -> Vec<u8> { vec![] }
//! # fn main() -> unmist::Result<()> {
//! let names = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"];
//! let files: Memory = names.into_iter().map(|name| (format!("model/{name}"), fetch(name))).collect();
//! let model = Checkpoint::open_in(Arc::new(files), "model")?;
//! # Ok(())
//! # }
//! ```

mod listing;
mod parts;

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::content::ContentId;
pub(crate) use listing::Listing;
pub use parts::{Parts, ReadAt};

/// What is at a path. In messages: `a file`, `a folder`, `a device, pipe or socket`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of this many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// Something that holds no model: a device, a pipe, a socket.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::File(_) => "a file",
            Kind::Folder => "a folder",
            Kind::Other => "a device, pipe or socket",
        })
    }
}

/// Named bytes in folders, to be read.
pub trait Files: fmt::Debug + Send + Sync {
    /// What is at a path.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if nothing is there; otherwise what the system reports.
    fn kind(&self, path: &Path) -> io::Result<Kind>;

    /// Names of what a folder holds, sorted. Names that are not UTF-8 are left out, because no model uses them.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] or [`io::ErrorKind::NotADirectory`] if there is no such folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// All bytes of a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if nothing is there, [`io::ErrorKind::InvalidInput`] if it is not a file.
    fn open(&self, path: &Path) -> io::Result<Bytes>;

    /// A file of which parts are wanted, such as one of tensors.
    ///
    /// # Errors
    /// As [`Files::open`].
    fn parts(&self, path: &Path) -> io::Result<Parts> {
        self.open(path).map(Parts::from)
    }

    /// Whether a file is at a path.
    fn is_file(&self, path: &Path) -> bool {
        matches!(self.kind(path), Ok(Kind::File(_)))
    }

    /// Whether a folder is at a path.
    fn is_folder(&self, path: &Path) -> bool {
        matches!(self.kind(path), Ok(Kind::Folder))
    }
}

fn no_file(found: Kind) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("expected a file, found {found}"))
}

/// The bytes of a file, shared: a clone is the same bytes.
#[derive(Clone)]
pub struct Bytes {
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    id: Arc<OnceLock<ContentId>>,
}

impl Bytes {
    /// Bytes that something owns: a vector, a mapped file. Their [`Bytes::id`] is a hash, so that equal bytes have
    /// equal ids.
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self { bytes: Arc::new(bytes), id: Arc::default() }
    }

    /// The same bytes with an id that tells them apart more cheaply than a hash.
    pub fn with_id(self, id: ContentId) -> Self {
        Self { id: Arc::new(id.into()), ..self }
    }

    /// Tells contents apart: the same id means the same bytes. A hash is computed when it is first needed.
    pub fn id(&self) -> ContentId {
        *self.id.get_or_init(|| ContentId::of(&[b"bytes", self]))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// The file system. With the feature `threads` long files are mapped into memory instead of read: they must not be
/// changed by another program while their bytes are in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

/// Files shorter than this are read although they could be mapped: mapping costs more than it saves, and a config that
/// an editor rewrites at this moment does no harm.
#[cfg(feature = "threads")]
const SHORTEST_MAPPED: u64 = 64 << 10;

impl Disk {
    #[cfg(feature = "threads")]
    fn contents(path: &Path) -> io::Result<Bytes> {
        let mut file = std::fs::File::open(path)?;
        if file.metadata()?.len() < SHORTEST_MAPPED {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes)?;
            return Ok(bytes.into());
        }
        // SAFETY: the mapping is read-only and private to this value. Another program that rewrites the file in place
        // while it is mapped could change bytes under a slice; `Disk` documents that as the caller's duty, as every
        // memory-mapping loader must. Files written by this crate are never rewritten in place (temporary name, then
        // rename).
        Ok(Bytes::new(unsafe { memmap2::Mmap::map(&file) }?))
    }

    #[cfg(not(feature = "threads"))]
    fn contents(path: &Path) -> io::Result<Bytes> {
        std::fs::read(path).map(Bytes::new)
    }

    /// What tells files apart: where a file is, how long it is, and when it was last changed.
    fn identity(path: &Path) -> io::Result<ContentId> {
        // Some file systems (RAM disks of Windows) cannot say where a path leads.
        let full = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path))?;
        let metadata = std::fs::metadata(path)?;
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let age = format!("{} {:?}", metadata.len(), changed);
        Ok(ContentId::of(&[b"file", full.as_os_str().as_encoded_bytes(), age.as_bytes()]))
    }
}

impl Files for Disk {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let metadata = std::fs::metadata(path)?;
        Ok(if metadata.is_dir() {
            Kind::Folder
        } else if metadata.is_file() {
            Kind::File(metadata.len())
        } else {
            Kind::Other
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        // Checked before opening, because opening a named pipe waits for a writer.
        match self.kind(path)? {
            // The identity comes first: if the file is replaced in between, whoever opens it next gets another id.
            Kind::File(_) => Self::identity(path).and_then(|id| Ok(Self::contents(path)?.with_id(id))),
            other => Err(no_file(other)),
        }
    }
}

/// Files in memory, by names with `/` between folder and file; the folders follow from the names. The root is the
/// empty path.
#[derive(Clone, Debug, Default)]
pub struct Memory(Listing<Bytes>);

impl Memory {
    /// Adds a file, in place of one with the same name.
    pub fn insert(&mut self, name: impl AsRef<Path>, bytes: impl Into<Bytes>) {
        self.0.insert(name, bytes.into());
    }
}

impl<N: AsRef<Path>, B: Into<Bytes>> FromIterator<(N, B)> for Memory {
    fn from_iter<I: IntoIterator<Item = (N, B)>>(files: I) -> Self {
        let mut memory = Self::default();
        files.into_iter().for_each(|(name, bytes)| memory.insert(name, bytes));
        memory
    }
}

impl Files for Memory {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.0.kind(path, |bytes| bytes.len() as u64)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        self.0.file(path).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_follow_from_names() {
        let files: Memory =
            [("m/unet/config.json", "{}"), ("./m//unet-2/w", "1"), ("m/a", ""), ("mm", "x"), ("m/unet/deep/w", "2")]
                .map(|(name, text)| (name, text.as_bytes().to_vec()))
                .into_iter()
                .collect();
        let list = |folder: &str| files.list(Path::new(folder));
        assert_eq!(list("").unwrap(), ["m", "mm"]);
        assert_eq!(list(".").unwrap(), ["m", "mm"]);
        assert_eq!(list("m").unwrap(), ["a", "unet", "unet-2"]);
        assert_eq!(list("./m/unet/").unwrap(), ["config.json", "deep"]);
        assert_eq!(list("m/a").unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert_eq!(list("m/une").unwrap_err().kind(), io::ErrorKind::NotFound);

        let kind = |path: &str| files.kind(Path::new(path));
        assert_eq!(
            (kind("m").unwrap(), kind("m/a").unwrap(), kind("mm").unwrap()),
            (Kind::Folder, Kind::File(0), Kind::File(1))
        );
        for path in ["n", "m/unet/config", "m/../mm", "/m", "mm/config.json"] {
            assert_eq!(kind(path).unwrap_err().kind(), io::ErrorKind::NotFound, "{path}");
        }
        assert_eq!(Memory::default().kind(Path::new("")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(*files.open(Path::new("m/unet-2/w")).unwrap(), *b"1");
        assert_eq!(files.open(Path::new("m/unet")).unwrap_err().to_string(), "expected a file, found a folder");
    }

    #[test]
    fn the_disk_holds_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        // Shorter and longer than what is mapped, and nothing at all.
        for length in [0, 3, (64 << 10) - 1, 64 << 10, (64 << 10) + 5] {
            let written: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &written).unwrap();
            assert_eq!(Disk.kind(&path).unwrap(), Kind::File(length));
            let bytes = Disk.open(&path).unwrap();
            assert!(*bytes == *written, "{length} bytes");
            assert_eq!(bytes.id(), Disk.open(&folder.path().join("./w")).unwrap().id());
            // Equal bytes elsewhere are another file.
            std::fs::write(folder.path().join("v"), &written).unwrap();
            assert_ne!(bytes.id(), Disk.open(&folder.path().join("v")).unwrap().id());
        }
        assert_eq!(Disk.list(folder.path()).unwrap(), ["v", "w"]);
        assert_eq!(Disk.kind(folder.path()).unwrap(), Kind::Folder);
        assert_eq!(Disk.open(folder.path()).unwrap_err().to_string(), "expected a file, found a folder");
        assert_eq!(Disk.open(&folder.path().join("u")).unwrap_err().kind(), io::ErrorKind::NotFound);
        #[cfg(unix)]
        assert!(Disk.open(Path::new("/dev/null")).unwrap_err().to_string().ends_with("found a device, pipe or socket"));
    }

    #[test]
    fn ids_tell_contents_apart() {
        let bytes = Bytes::new(b"abc".to_vec());
        assert_eq!(bytes.id(), Bytes::new(*b"abc").id());
        assert_eq!(bytes.id(), bytes.clone().id());
        assert_ne!(bytes.id(), Bytes::new(*b"abd").id());
        let id = ContentId::of(&[b"a name"]);
        assert_eq!(bytes.with_id(id).id(), id);
    }
}
