//! The table of WGSL files, compiled into the binary. `build.rs` writes it: every file below `wgsl/` is in it.

use crate::error::{Error, Result};

/// Every file below `wgsl/`: its path without extension, and its text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Folder of the files that kernels include.
const INCLUDES: &str = "include/";

/// Every kernel: name (path below `wgsl/` without extension) and text.
pub fn kernels() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().copied().filter(|(name, _)| !name.starts_with(INCLUDES))
}

/// Every include: name (without the folder) and text.
pub fn includes() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(|(name, text)| Some((name.strip_prefix(INCLUDES)?, *text)))
}

/// The text of a kernel.
///
/// # Errors
/// [`Error::Kernel`] if there is no such kernel.
pub fn find_kernel(name: &str) -> Result<&'static str> {
    let found = kernels().find(|(n, _)| *n == name);
    found.map(|(_, text)| text).ok_or_else(|| Error::Kernel(format!("there is no kernel wgsl/{name}.wgsl")))
}

/// The text of an include, by its name without the folder.
pub fn find_include(name: &str) -> Option<&'static str> {
    includes().find(|(n, _)| *n == name).map(|(_, text)| text)
}
