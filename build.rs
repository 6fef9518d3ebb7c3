//! Writes the tables of WGSL files, of tuned choices for known devices and of the reference's texts, so that a new one is a new file and nothing
//! else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    write_table("wgsl", "wgsl", "kernels.rs");
    write_table("tuned", "json", "tuned.rs");
    write_table("src/reference", "rs", "references.rs");
}

/// Writes `[(path below the folder without extension, text)]` as Rust.
fn write_table(folder: &str, extension: &str, file: &str) {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join(folder);
    let mut names = Vec::new();
    list(&root, "", extension, &mut names);
    names.sort();
    let mut table = String::from("&[\n");
    for name in &names {
        let path = root.join(format!("{name}.{extension}"));
        writeln!(table, "    ({name:?}, include_str!({path:?})),").expect("writing to a String cannot fail");
    }
    table.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join(file);
    fs::write(&out, table).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}

/// Adds the files of this extension below `folder` by their path without it.
fn list(folder: &Path, prefix: &str, extension: &str, names: &mut Vec<String>) {
    println!("cargo::rerun-if-changed={}", folder.display()); // sees files that are added or removed
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().and_then(|n| n.to_str()).expect("kernels have plain names").to_owned();
        if path.is_dir() {
            list(&path, &format!("{prefix}{name}/"), extension, names);
        } else if let Some(stem) = name.strip_suffix(extension).and_then(|stem| stem.strip_suffix('.')) {
            names.push(format!("{prefix}{stem}"));
        }
    }
}
