//! Writing results, whole files or none; and hashing files.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Checks that a file can be written at `path`, so that an hour of computing does not end in "permission denied".
///
/// # Errors
/// [`Error::Usage`] if the folder does not exist or `path` is a folder; [`Error::Io`] if the system refuses a
/// new file there.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    match destination(path)? {
        Destination::File(file) => Temporary::create(&file).map(drop).map_err(Error::io(path)),
        Destination::Device => OpenOptions::new().write(true).open(path).map(drop).map_err(Error::io(path)),
    }
}

/// Writes a file through `content`. It appears at `path` complete, replacing one that is there, or not at all.
///
/// The bytes go to a temporary name in the same folder, which is renamed at the end and removed on an error.
///
/// # Errors
/// [`Error::Usage`] if the folder does not exist or `path` is a folder; [`Error::Io`] with what the system or
/// `content` reported.
pub fn write_atomic(path: impl AsRef<Path>, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    match destination(path)? {
        Destination::File(target) => {
            let write = || {
                let mut temporary = Temporary::create(&target)?;
                let mut out = BufWriter::new(temporary.file.as_mut().expect("open until `rename_to`"));
                content(&mut out)?;
                out.flush()?;
                drop(out);
                temporary.rename_to(&target)
            };
            write().map_err(Error::io(path))
        }
        Destination::Device => {
            let write = || {
                let mut out = BufWriter::new(OpenOptions::new().write(true).open(path)?);
                content(&mut out)?;
                out.flush()
            };
            write().map_err(Error::io(path))
        }
    }
}

/// Whether two paths name one regular file, existing or to be made: by links too.
pub fn is_same_file(a: impl AsRef<Path>, b: impl AsRef<Path>) -> bool {
    identity(a.as_ref()).is_some_and(|a| identity(b.as_ref()) == Some(a))
}

#[derive(PartialEq)]
enum Identity {
    /// Device and inode.
    #[cfg(unix)]
    Inode(u64, u64),
    Path(PathBuf),
}

/// What tells regular files apart; `None` for folders, devices and what cannot be.
fn identity(path: &Path) -> Option<Identity> {
    match std::fs::metadata(path) {
        Ok(kind) if !kind.is_file() => None,
        #[cfg(unix)]
        Ok(kind) => {
            use std::os::unix::fs::MetadataExt;
            Some(Identity::Inode(kind.dev(), kind.ino()))
        }
        #[cfg(not(unix))]
        Ok(_) => path.canonicalize().ok().map(Identity::Path),
        Err(_) => Some(Identity::Path(folder_of(path).canonicalize().ok()?.join(path.file_name()?))),
    }
}

/// The sha256 of a file, in hexadecimal digits.
///
/// # Errors
/// [`Error::Io`] if it cannot be read.
pub fn sha256(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let mut hasher = Sha256::new();
    File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher)).map_err(Error::io(path))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The sha256 of bytes, in hexadecimal digits.
pub fn sha256_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `path` with `-0001`, `-0002` … before its extension: the name of picture `index` (from 0) of `count`.
pub fn numbered(path: impl AsRef<Path>, index: usize, count: usize) -> PathBuf {
    let path = path.as_ref();
    let digits = count.to_string().len().max(4);
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{:0digits$}", index + 1));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

enum Destination {
    /// A regular file, existing or to be made, with links resolved (a link stays a link).
    File(PathBuf),
    /// `/dev/null`, a pipe …: written in place. Renaming a file over a device would remove the device.
    Device,
}

fn destination(path: &Path) -> Result<Destination> {
    let shown = path.display();
    if path.is_dir() {
        return Err(Error::Usage(format!("{shown}: cannot write there, it is a folder; give the name of a file")));
    }
    if path.file_name().is_none() {
        return Err(Error::Usage(format!("{shown}: cannot write there; give the name of a file")));
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(path)(error)), // a name too long
        _ => {}
    }
    if path.exists() {
        let target = path.canonicalize().map_err(Error::io(path))?;
        let kind = std::fs::metadata(&target).map_err(Error::io(path))?;
        if !kind.is_file() {
            return Ok(Destination::Device);
        }
        if kind.permissions().readonly() {
            return Err(Error::Usage(format!(
                "{shown}: the file exists and is read-only; remove it or give another name"
            )));
        }
        return Ok(Destination::File(target));
    }
    if !folder_of(path).is_dir() {
        return Err(Error::Usage(format!(
            "{shown}: the folder {} does not exist; create it or give another name",
            folder_of(path).display()
        )));
    }
    Ok(Destination::File(path.to_owned()))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A new file beside the target; removed when dropped, unless renamed.
struct Temporary {
    path: PathBuf,
    file: Option<File>,
}

impl Temporary {
    fn create(target: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // A short name of its own: the target's could already be as long as the file system allows.
        let name = format!(".unmist-{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = folder_of(target).join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { path, file: Some(file) })
    }

    fn rename_to(mut self, target: &Path) -> io::Result<()> {
        self.file = None; // closed first: Windows does not rename an open file
        std::fs::rename(&self.path, target)?;
        self.path.clear(); // nothing left to remove
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.file = None;
        if !self.path.as_os_str().is_empty() {
            // Nothing can be done about a failure here; the error that led here is the one to report.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |out| {
            out.write_all(b"new, but")?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.png") && error.to_string().contains("disk full"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let panicked = std::panic::catch_unwind(|| write_atomic(&path, |_| panic!("while writing")));
        assert!(panicked.is_err());
        assert_eq!(names(folder.path()), ["a.png"]);
        write_atomic(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.png"]);
    }

    #[test]
    fn unwritable_places_are_refused_early() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/such/a.png");
        for (path, part) in
            [(missing.as_path(), "does not exist"), (folder.path(), "is a folder"), (Path::new(""), "name of a file")]
        {
            for error in [check_writable(path).unwrap_err(), write_atomic(path, |_| Ok(())).unwrap_err()] {
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        let path = folder.path().join("a.png");
        check_writable(&path).unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
        std::fs::write(&path, b"x").unwrap();
        check_writable(&path).unwrap();
        let mut permissions = std::fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&path, permissions).unwrap();
        assert!(check_writable(&path).unwrap_err().to_string().contains("read-only"));
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_survive() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomic(&link, |out| out.write_all(b"new")).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        write_atomic("/dev/null", |out| out.write_all(b"gone")).unwrap();
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn one_file_by_several_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("a.png"), b"x").unwrap();
        std::fs::write(at("b.png"), b"x").unwrap();
        assert!(is_same_file(at("a.png"), at("sub/../a.png")) && !is_same_file(at("a.png"), at("b.png")));
        assert!(is_same_file(at("new.png"), at("sub/../new.png")) && !is_same_file(at("new.png"), at("other.png")));
        assert!(!is_same_file(at("sub"), at("sub")), "a folder is no file");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("a.png"), at("link.png")).unwrap();
            std::fs::hard_link(at("a.png"), at("hard.png")).unwrap();
            assert!(is_same_file(at("a.png"), at("link.png")) && is_same_file(at("a.png"), at("hard.png")));
            assert!(!is_same_file("/dev/null", "/dev/null"), "a device takes any number of files");
        }
    }

    #[test]
    fn hashes_are_those_of_fips_180_2() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(sha256(folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn numbers_sort_as_text() {
        assert_eq!(numbered("out/a.b.png", 0, 16), Path::new("out/a.b-0001.png"));
        assert_eq!(numbered("a", 9_999, 12_000), Path::new("a-10000"));
    }
}
