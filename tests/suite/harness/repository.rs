//! What the repository promises about itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The most that fixtures may take in a clone of the repository, in bytes.
const FIXTURES_MAX_BYTES: u64 = 14_340_000;

/// Every file below `folder`.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn fixtures_are_small_and_hold_each_vocabulary_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut found = vec![];
    files(&root, &mut found);
    assert!(found.len() > 200, "the fixtures are there");
    let bytes: u64 = found.iter().map(|file| file.metadata().expect("a file").len()).sum();
    assert!(bytes <= FIXTURES_MAX_BYTES, "tests/fixtures holds {bytes} bytes, more than {FIXTURES_MAX_BYTES}");

    let mut vocabularies = BTreeMap::<Vec<u8>, Vec<PathBuf>>::new();
    for file in found.into_iter().filter(|file| {
        ["vocab.json", "merges.txt", "tokenizer.json"].iter().any(|name| file.file_name() == Some(name.as_ref()))
    }) {
        vocabularies.entry(fs::read(&file).expect("readable")).or_default().push(file);
    }
    assert!(!vocabularies.is_empty());
    for copies in vocabularies.values() {
        assert_eq!(
            copies.len(),
            1,
            "one vocabulary, several copies (tests take folders by `stable_diffusion`): {copies:?}"
        );
    }
}

#[test]
fn lines_are_at_most_120_wide() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![];
    for folder in ["src", "tests/suite", "tests/fuzz", "wgsl", "examples", "benches", "tools", "web"] {
        files(&root.join(folder), &mut found);
    }
    found.retain(|file| {
        file.extension().is_some_and(|e| ["rs", "wgsl", "py", "js", "css", "html"].iter().any(|source| e == *source))
    });
    found.sort();
    assert!(found.len() > 300, "only {} source files were found", found.len());

    let mut wide = vec![];
    for file in found {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for (number, line) in text.lines().enumerate() {
            let width = line.chars().count();
            if width > 120 {
                let shown = file.strip_prefix(root).expect("the file is below the root").display();
                wide.push(format!("{shown}:{}: {width}", number + 1));
            }
        }
    }
    assert!(wide.is_empty(), "{} lines have more than 120 characters:\n{}", wide.len(), wide.join("\n"));
}

/// Every scheduler stands in a row of the README that names a paper, and every sampler's name in one.
#[test]
fn every_scheduler_has_a_row_with_its_paper() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("it is there");
    let (readme, options) = (read("README.md"), read("src/schedulers/options.rs"));
    let classes: Vec<&str> = options.split('"').filter(|text| text.ends_with("Scheduler")).collect();
    assert!(classes.len() > 25, "{classes:?}");
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `")).collect();
    for class in classes {
        let row = rows.iter().find(|row| row.contains(&format!("`{class}`")));
        let row = row.unwrap_or_else(|| panic!("{class} has no row in README.md"));
        assert!(row.contains("https://arxiv.org/") || row.contains("torchsde"), "no paper: {row}");
    }
    for (name, _) in unmist::schedulers::samplers() {
        let named = |row: &&str| row.split('|').nth(2).is_some_and(|cell| cell.split(',').any(|n| n.trim() == name));
        assert!(rows.iter().any(named), "{name} stands in no row of README.md");
    }
}
