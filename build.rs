//! Writes the table of WGSL files, so that a new kernel is a new file and nothing else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("wgsl");
    let mut names = Vec::new();
    list(&root, "", &mut names);
    names.sort();
    let mut table = String::from("&[\n");
    for name in &names {
        let path = root.join(format!("{name}.wgsl"));
        writeln!(table, "    ({name:?}, include_str!({path:?})),").expect("writing to a String cannot fail");
    }
    table.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("kernels.rs");
    fs::write(&out, table).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}

/// Adds the `.wgsl` files below `folder` by their path without extension.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    println!("cargo::rerun-if-changed={}", folder.display()); // sees files that are added or removed
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().and_then(|n| n.to_str()).expect("kernels have plain names").to_owned();
        if path.is_dir() {
            list(&path, &format!("{prefix}{name}/"), names);
        } else if let Some(stem) = name.strip_suffix(".wgsl") {
            names.push(format!("{prefix}{stem}"));
        }
    }
}
