//! The texts of kernels: compiled into the binary (`build.rs` writes the table: every file below `wgsl/` is in it), or
//! read from the folder that the environment variable `UNMIST_WGSL` names, laid out like `wgsl/`, each time a
//! kernel is built: kernels can then be written without compiling anything.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::content::ContentId;
use crate::error::{Error, Result};

/// Every file below `wgsl/`: its path without extension, and its text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Folder of the files that kernels include.
const INCLUDES: &str = "include/";

/// Every built-in kernel: name (path below `wgsl/` without extension) and text.
pub fn kernels() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().copied().filter(|(name, _)| !name.starts_with(INCLUDES))
}

/// Every built-in include: name (without the folder) and text.
pub fn includes() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter_map(|(name, text)| Some((name.strip_prefix(INCLUDES)?, *text)))
}

/// The folder to read kernels from instead of the built-in ones, if the user names one.
fn folder() -> Option<PathBuf> {
    std::env::var_os("UNMIST_WGSL").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The file that a kernel, or `include/NAME`, comes from, for messages.
pub(crate) fn file_name(name: &str) -> String {
    match folder() {
        Some(folder) => folder.join(format!("{name}.wgsl")).display().to_string(),
        None => format!("wgsl/{name}.wgsl"),
    }
}

/// The file of an include, for messages.
pub(super) fn include_name(name: &str) -> String {
    file_name(&format!("{INCLUDES}{name}"))
}

/// The text of a kernel.
///
/// # Errors
/// [`Error::Kernel`] if there is no such kernel; [`Error::Io`] if `UNMIST_WGSL` names a folder and its file cannot be
/// read.
pub fn find_kernel(name: &str) -> Result<Cow<'static, str>> {
    if let Some(folder) = folder() {
        let path = folder.join(format!("{name}.wgsl"));
        return std::fs::read_to_string(&path).map(Cow::Owned).map_err(Error::io(&path));
    }
    let found = FILES.iter().find(|(n, _)| *n == name);
    found.map(|(_, text)| Cow::Borrowed(*text)).ok_or_else(|| Error::Kernel(format!("there is no {}", file_name(name))))
}

/// The text of an include, by its name without the folder.
///
/// # Errors
/// As [`find_kernel`].
pub fn find_include(name: &str) -> Result<Cow<'static, str>> {
    find_kernel(&format!("{INCLUDES}{name}"))
}

/// What tells the texts of these kernels, with all that they include, from others.
///
/// # Errors
/// As [`find_kernel`].
pub fn texts_id(kernels: &[String]) -> Result<ContentId> {
    let (mut parts, mut seen) = (Vec::new(), BTreeSet::new());
    let mut left: Vec<String> = kernels.iter().rev().cloned().collect();
    while let Some(name) = left.pop() {
        let text = find_kernel(&name)?;
        let included = text.lines().filter_map(|line| line.strip_prefix("//!include "));
        let included: Vec<_> = included.flat_map(|include| all_of(include.trim())).collect();
        left.extend(included.into_iter().rev().filter(|include| seen.insert(include.clone())));
        parts.push((name, text));
    }
    let parts: Vec<&[u8]> = parts.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]).collect();
    Ok(ContentId::of(&parts))
}

/// The includes that a name may stand for: with `{NAME}` in it, one for each number that a launch may give there.
fn all_of(include: &str) -> Vec<String> {
    let name = |include: &str| format!("{INCLUDES}{include}");
    let Some((before, rest)) = include.split_once('{') else { return vec![name(include)] };
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    let is_number = |name: &str| {
        let number = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    includes().filter(|(include, _)| is_number(include)).map(|(include, _)| name(include)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_count_with_what_they_include() {
        let id = |names: &[&str]| texts_id(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let scale = id(&["scale/naive"]).expect("it is there");
        assert_eq!(scale, id(&["scale/naive"]).expect("as before"));
        assert_ne!(scale, id(&["softmax/naive"]).expect("it is there"));
        assert_ne!(scale, id(&["scale/naive", "softmax/naive"]).expect("they are there"));
        let (_, text) = kernels().find(|(name, _)| *name == "scale/naive").expect("it is there");
        assert!(text.contains("//!include"), "this test needs a kernel that includes something");
        assert_ne!(scale, ContentId::of(&[b"scale/naive", text.as_bytes()]));
        assert!(id(&["scale/other"]).is_err());
        assert!(kernels().all(|(name, _)| id(&[name]).is_ok()), "whatever they include");
        assert_eq!(all_of("matrix_{MATRIX}"), ["include/matrix_16", "include/matrix_8"]);
    }
}
