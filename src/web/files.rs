//! The page's files: fetched, dropped or chosen. They stay with the browser; their bytes are read when they are needed.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::host;
use crate::content::ContentId;
use crate::files::{Bytes, Files, Kind, Listing, Parts, ReadAt};

/// Bytes that are hashed at once.
const PART: usize = 1 << 20;

/// Files of the page, by names with `/` between folder and file.
#[derive(Clone, Debug, Default)]
pub(super) struct PageFiles(Listing<PageFile>);

/// One of them.
#[derive(Clone, Debug)]
struct PageFile {
    /// The host's number.
    number: u32,
    length: u64,
    id: ContentId,
    /// Once somebody has asked for it.
    sha256: Arc<OnceLock<String>>,
}

impl PageFiles {
    /// Adds a file. `id` tells its contents apart from those of others.
    pub fn insert(&mut self, name: &str, number: u32, length: u64, id: &str) {
        let id = ContentId::of(&[b"page", id.as_bytes()]);
        self.0.insert(name, PageFile { number, length, id, sha256: Arc::default() });
    }

    /// Bytes of a file.
    pub fn length(&self, path: &Path) -> Option<u64> {
        self.0.file(path).ok().map(|file| file.length)
    }

    /// The sha256 of a file in hexadecimal digits, computed once.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    pub fn sha256(&self, path: &Path) -> io::Result<String> {
        let file = self.0.file(path)?;
        if let Some(known) = file.sha256.get() {
            return Ok(known.clone());
        }
        let (mut hasher, mut part) = (Sha256::new(), vec![0; PART]);
        for begin in (0..file.length).step_by(PART) {
            let part = &mut part[..(file.length - begin).min(PART as u64) as usize];
            file.read_at(begin, part)?;
            hasher.update(part);
        }
        let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(file.sha256.get_or_init(|| hash).clone())
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl ReadAt for PageFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        host::read_file(self.number, offset, out)
    }
}

impl Files for PageFiles {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.0.kind(path, |file| file.length)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }

    fn open(&self, path: &Path) -> io::Result<Bytes> {
        let file = self.0.file(path)?;
        let mut bytes = vec![0; usize::try_from(file.length).map_err(|_| io::ErrorKind::FileTooLarge)?];
        file.read_at(0, &mut bytes)?;
        Ok(Bytes::new(bytes).with_id(file.id))
    }

    fn parts(&self, path: &Path) -> io::Result<Parts> {
        let file = self.0.file(path)?;
        Parts::elsewhere(file.length, file.id, file.clone())
    }
}
