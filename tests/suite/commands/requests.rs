//! `unmist sample`: it reproduces pictures of earlier versions, and can tell where every setting comes from.

use std::path::{Path, PathBuf};

use unmist::image_io::{read, read_text};
use unmist::request::Request;

use crate::commands::sample::Folder;
use crate::commands::usage::{fails, shipped, stable_diffusion, succeeds};
use crate::common::{distance, levels};

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures").join(name)
}

/// Pictures that unmist 0.1.0 wrote, before requests existed: one with `--class 7,9 --steps 3 --seed 5,6`, one with two
/// prompts, a negative prompt, `--guidance-scale 3.5`, two seeds and `--scheduler "DPM++ 2M Karras"`.
#[test]
fn pictures_of_earlier_versions_are_made_again() {
    let folder = Folder::new();
    let again = folder.path("again.png");
    for (name, channels) in [("classes_0_1_0.png", 1), ("prompts_0_1_0.png", 3)] {
        let old = picture(name);
        succeeds(&["sample", "--from", old.to_str().unwrap(), "--output", &again]);
        let (before, after) = (read(&old, channels).expect("a picture"), read(&again, channels).expect("a picture"));
        // The last bits differ between devices.
        let worst = distance(&levels(&after), &levels(&before));
        assert!(worst <= 1.0, "{name}: off by {worst}");
        let options = |path: &Path| -> serde_json::Value {
            let texts = read_text(path).expect("a PNG");
            let (_, text) = texts.iter().find(|(keyword, _)| keyword == "unmist").expect("the picture has a record");
            serde_json::from_str::<serde_json::Value>(text).expect("JSON")["options"].clone()
        };
        assert_eq!(options(&old), options(Path::new(&again)), "{name}: the recorded options");
    }
}

/// The value and the origin on a field's line.
fn setting<'a>(printed: &'a str, field: &str) -> (&'a str, &'a str) {
    let line = printed.lines().find(|line| line.split_whitespace().next() == Some(field));
    let line = line.unwrap_or_else(|| panic!("no {field} in:\n{printed}"));
    let rest = line[field.len()..].trim_start();
    rest.split_once("  ").map(|(value, origin)| (value.trim(), origin.trim())).expect("three columns")
}

#[test]
fn settings_say_where_they_come_from() {
    let results = tempfile::tempdir().expect("a temporary folder");
    let out = results.path().join("out.png");
    let explain = |more: &[&str]| {
        let printed = succeeds(&[&["sample", "--explain-settings", "--output", out.to_str().unwrap()], more].concat());
        assert!(!out.exists(), "no picture is written");
        printed
    };
    let fashion = shipped();
    let fashion = fashion.to_str().unwrap();
    let printed = explain(&["--model", fashion, "--class", "7", "--guidance-scale", "3"]);
    assert_eq!(setting(&printed, "guidance_scale"), ("[3.0]", "asked for"));
    assert_eq!(setting(&printed, "class"), ("[7]", "asked for"));
    assert_eq!(setting(&printed, "steps"), ("25", "the model's own files"));
    assert_eq!(setting(&printed, "scheduler"), ("\"ddim\"", "the model's own files"));
    assert_eq!(setting(&printed, "seed"), ("[0]", "the pipeline's default"));
    assert!(!printed.contains("clip_skip"), "a class-conditional model has none:\n{printed}");

    let old = picture("classes_0_1_0.png");
    let printed = explain(&["--from", old.to_str().unwrap(), "--seed", "4"]);
    assert_eq!(setting(&printed, "seed"), ("[4]", "asked for"));
    assert_eq!(setting(&printed, "steps"), ("3", "the picture that is made again"));
    assert_eq!(setting(&printed, "scheduler"), ("\"DDIMScheduler\"", "the picture that is made again"));

    let xl = stable_diffusion("sdxl");
    let printed = explain(&["a fox", "--model", xl.to_str().unwrap(), "--width", "64", "--height", "32"]);
    assert_eq!(setting(&printed, "original_size"), ("[64,32]", "the pipeline's default"));
    assert_eq!(setting(&printed, "guidance_scale"), ("[5.0]", "the pipeline's default"));

    // A request that cannot be met has no settings.
    let run = ["sample", "--explain-settings", "--model", fashion, "--class", "11"];
    fails(&run, &["--class 11", "0 to 10"], results.path());
}

/// Every Rust file of the library below a folder, with its text up to its tests. The command line does not count.
fn library(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).expect("the sources are there").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("src/cli") {
            library(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
            found.push((path, text[..end].to_owned()));
        }
    }
}

#[test]
fn the_library_names_fields_and_the_command_line_flags() {
    let mut files = Vec::new();
    library(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let fields = Request::fields();
    let mut refusals = 0;
    for (path, text) in files {
        let shown = path.display();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let flag = line.match_indices("--").find(|(at, _)| {
                let before = line[..*at].chars().next_back();
                let after = line[at + 2..].chars().next();
                after.is_some_and(|c| c.is_ascii_lowercase()) && !before.is_some_and(|c| c.is_ascii_alphanumeric())
            });
            assert!(flag.is_none() || path.ends_with("main.rs"), "{shown}:{}: a flag in {line}", number + 1);
        }
        for constructor in ["Refusal::of(\"", "Refusal::of_value(\"", "Refusal::of(\n            \""] {
            for (at, _) in text.match_indices(constructor) {
                let name = text[at + constructor.len()..].split('"').next().expect("a literal ends");
                assert!(
                    path.ends_with("tests.rs") || fields.iter().any(|field| field == name),
                    "{shown}: {name} is not a field"
                );
                refusals += 1;
            }
        }
    }
    assert!(refusals > 30, "only {refusals} refusals were found: the search misses some");
}
