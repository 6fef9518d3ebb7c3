//! Files by name, in folders that follow from the names.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use super::{Kind, no_file};

/// Files by names with `/` between folder and file. The root is the empty path.
#[derive(Clone, Debug)]
pub(crate) struct Listing<F> {
    /// By path without `.`, as [`plain`] gives it: what a folder holds then follows it without a gap.
    files: BTreeMap<PathBuf, F>,
}

impl<F> Default for Listing<F> {
    fn default() -> Self {
        Self { files: BTreeMap::new() }
    }
}

impl<F> Listing<F> {
    /// Adds a file, in place of one with the same name.
    pub fn insert(&mut self, name: impl AsRef<Path>, file: F) {
        self.files.insert(plain(name.as_ref()), file);
    }

    /// Paths below a folder, without the folder, in order.
    fn below<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a Path> {
        let after = (Bound::Excluded(folder), Bound::Unbounded);
        self.files.range::<Path, _>(after).map_while(move |(path, _)| path.strip_prefix(folder).ok())
    }

    /// As [`super::Files::kind`].
    pub fn kind(&self, path: &Path, length: impl Fn(&F) -> u64) -> io::Result<Kind> {
        let path = plain(path);
        if let Some(file) = self.files.get(&path) {
            return Ok(Kind::File(length(file)));
        }
        if self.below(&path).next().is_some() {
            return Ok(Kind::Folder);
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "there is no such file or folder in memory"))
    }

    /// As [`super::Files::list`].
    pub fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let found = self.kind(folder, |_| 0)?;
        if found != Kind::Folder {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("expected a folder, found {found}")));
        }
        let folder = plain(folder);
        let first = |path: &Path| Some(path.components().next()?.as_os_str().to_str()?.to_owned());
        let mut names: Vec<_> = self.below(&folder).filter_map(first).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The file at a path.
    pub fn file(&self, path: &Path) -> io::Result<&F> {
        match self.files.get(&plain(path)) {
            Some(file) => Ok(file),
            None => Err(no_file(self.kind(path, |_| 0)?)),
        }
    }
}

/// The path without `.` and doubled separators.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}
