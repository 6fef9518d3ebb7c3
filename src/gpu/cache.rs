//! Compiled kernels on disk, so that the driver need not compile them again in the next process.
//!
//! One file for each kernel, named by adapter, driver and the kernel's hash, in the user's cache folder. Nothing
//! depends on it: a file that is missing, damaged or from another driver costs a compilation, no more.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use sha2::{Digest, Sha256};

use crate::content::ContentId;
use crate::output::write_atomic;

/// Bytes that the folder may hold; when it holds more, the oldest files go, down to half.
const MAX_BYTES: u64 = 256 << 20;
const EXTENSION: &str = "pipeline";
/// Bytes of the checksum before a file's data.
const CHECKSUM: usize = 32;

/// The cache of one adapter and driver.
pub(super) struct DiskCache {
    folder: PathBuf,
    /// Adapter and driver.
    device: ContentId,
}

impl DiskCache {
    /// The cache in the user's folder; `None` if there is no such folder and none can be made.
    pub(super) fn open(device: ContentId) -> Option<Self> {
        let folder = user_folder()?.join("pipelines");
        fs::create_dir_all(&folder).ok()?;
        trim(&folder);
        Some(Self { folder, device })
    }

    fn path(&self, kernel: &ContentId) -> PathBuf {
        self.folder.join(format!("{}.{EXTENSION}", ContentId::of(&[self.device.bytes(), kernel.bytes()])))
    }

    /// What [`DiskCache::save`] has saved of a kernel, unless it was damaged since.
    pub(super) fn load(&self, kernel: &ContentId) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(kernel)).ok()?;
        let (checksum, data) = bytes.split_at_checked(CHECKSUM)?;
        (Sha256::digest(data).as_slice() == checksum).then(|| data.to_vec())
    }

    /// Saves what the driver made of a kernel. If that fails, the run goes on without it.
    pub(super) fn save(&self, kernel: &ContentId, data: &[u8]) {
        let path = self.path(kernel);
        let written = write_atomic(&path, |file| {
            file.write_all(&Sha256::digest(data))?;
            file.write_all(data)
        });
        if written.is_err() {
            drop(fs::remove_file(path));
        }
    }
}

/// The folder for files that can be made again: the one that the environment variable `UNMIST_CACHE` names (`off`
/// means none), or else the user's cache folder.
pub(super) fn user_folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    match set("UNMIST_CACHE") {
        Some(value) if value == OsStr::new("off") => return None,
        Some(value) => return Some(value.into()),
        None => {}
    }
    let below = |name: &str, rest: &str| set(name).map(|folder| Path::new(&folder).join(rest));
    match env::consts::OS {
        "windows" => below("LOCALAPPDATA", "unmist"),
        "macos" => below("HOME", "Library/Caches/unmist"),
        _ => below("XDG_CACHE_HOME", "unmist").or_else(|| below("HOME", ".cache/unmist")),
    }
}

/// Removes the oldest files of a folder that has grown too large.
fn trim(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().extension() == Some(OsStr::new(EXTENSION)))
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        })
        .collect();
    let mut bytes: u64 = files.iter().map(|(_, length, _)| length).sum();
    if bytes <= MAX_BYTES {
        return;
    }
    files.sort();
    for (_, length, path) in files {
        if bytes <= MAX_BYTES / 2 {
            break;
        }
        if fs::remove_file(path).is_ok() {
            bytes -= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_files_of_the_same_device_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = |device: &[u8]| DiskCache { folder: folder.path().into(), device: ContentId::of(&[device]) };
        let kernel = ContentId::of(&[b"kernel"]);
        cache(b"a").save(&kernel, b"compiled");
        assert_eq!(cache(b"a").load(&kernel).as_deref(), Some(&b"compiled"[..]));
        assert_eq!(cache(b"b").load(&kernel), None);
        assert_eq!(cache(b"a").load(&ContentId::of(&[b"other"])), None);
        let path = cache(b"a").path(&kernel);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(cache(b"a").load(&kernel), None, "a damaged file");
        fs::write(&path, b"short").unwrap();
        assert_eq!(cache(b"a").load(&kernel), None, "a short file");
    }

    #[test]
    fn the_oldest_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = |i: u64| folder.path().join(format!("{i}.{EXTENSION}"));
        for i in 0..5 {
            let file = fs::File::create(path(i)).unwrap();
            file.set_len(MAX_BYTES / 4).unwrap(); // sparse
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(i)).unwrap();
        }
        fs::write(folder.path().join("other"), b"is not ours").unwrap();
        trim(folder.path());
        assert_eq!((0..5).filter(|i| path(*i).exists()).collect::<Vec<_>>(), [3, 4]);
        assert!(folder.path().join("other").exists());
    }
}
