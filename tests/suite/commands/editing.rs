//! `unmist edit` and `unmist style`: their files, what they remember, and what they refuse.

use serde_json::Value;
use unmist::image_io::read;

use crate::commands::sample::Folder;
use crate::commands::usage::{stable_diffusion, succeeds, text, unmist};

/// A command on the picture of a folder with the miniature of a model.
fn line(folder: &Folder, command: &str, model: &str, more: &[&str]) -> Vec<String> {
    let model = stable_diffusion(model).to_str().expect("UTF-8").to_owned();
    let image = folder.path("start.png");
    let words = [command, "a fox", "--model", &model, "--image", &image, "--steps", "4", "--seed", "3"];
    words.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

fn run(line: &[String]) {
    succeeds(&line.iter().map(String::as_str).collect::<Vec<_>>());
}

fn refused(line: &[String], parts: &[&str]) {
    let output = unmist(&line.iter().map(String::as_str).collect::<Vec<_>>());
    let message = text(&output.stderr);
    assert!(!output.status.success() && !message.contains("panicked"), "{line:?}: {message}");
    parts.iter().for_each(|part| assert!(message.contains(part), "{line:?}: expected «{part}» in: {message}"));
}

#[test]
fn edit_finds_a_mask_and_takes_one() {
    let folder = Folder::new();
    let [out, mask, again] = ["out.png", "mask.png", "again.png"].map(|name| folder.path(name));
    let found = ["--source", "a cat", "--num-maps-per-mask", "2", "--mask-thresholding-ratio", "2"];
    run(&line(&folder, "edit", "sd1", &[&found[..], &["--mask-output", &mask, "--output", &out]].concat()));
    let [made, changes] = [&out, &mask].map(|path| read(path, 1).expect("a picture"));
    assert_eq!([made.width, made.height, changes.width, changes.height], [24, 16, 24, 16]);
    assert!(changes.data.contains(&0) && changes.data.contains(&255), "{:?}", changes.data);
    assert!(changes.data.iter().all(|level| [0, 255].contains(level)), "black and white");
    let account: Value = serde_json::from_str(&folder.text("out.png", "unmist-edit")).expect("JSON");
    assert_eq!(account["edit"]["source"], "a cat");
    assert_eq!(account["edit"]["num_maps_per_mask"], 2);
    assert_eq!([&account["options"]["strength"], &account["options"]["seed"][0]], [0.8, 3.0]);
    assert!(folder.text("out.png", "parameters").ends_with("Command: edit, Source: a cat"));

    run(&line(&folder, "edit", "sd1", &["--source", "a cat", "--mask", &mask, "--output", &again]));
    assert_eq!(read(&again, 3).expect("a picture").width, 24);
    let account: Value = serde_json::from_str(&folder.text("again.png", "unmist-edit")).expect("JSON");
    assert_eq!(account["edit"], serde_json::json!({"source": "a cat"}));

    let edit = |more: &[&str]| line(&folder, "edit", "sd1", &[&["--source", "a cat"], more].concat());
    refused(&edit(&["--mask", &mask, "--num-maps-per-mask", "2"]), &["--mask", "cannot be used with"]);
    refused(&edit(&["--num-maps-per-mask", "0"]), &["--num-maps-per-mask 0", "expected 1 to"]);
    refused(&edit(&["--mask-encode-strength", "0.1"]), &["--mask-encode-strength 0.1", "4 steps"]);
    refused(&edit(&["--mask-thresholding-ratio", "-1"]), &["--mask-thresholding-ratio -1"]);
    refused(&edit(&["--batch-size", "2"]), &["--batch-size", "one picture becomes one other"]);
    refused(&edit(&["--scheduler", "euler"]), &["--scheduler", "DDIM"]);
    let same = folder.path("same.png");
    refused(&edit(&["--output", &same, "--mask-output", &same]), &["--output and --mask-output", "another name"]);
    refused(&edit(&["--output", &folder.path("start.png")]), &["--output and --image", "another name"]);
    let xl = line(&folder, "edit", "sdxl", &["--source", "a cat"]);
    refused(&xl, &["Stable Diffusion XL", "Stable Diffusion 1 and 2"]);
    refused(&line(&folder, "edit", "sd1", &[]), &["--source"]);
}

#[test]
fn style_without_borrowed_attention_is_image_to_image() {
    let folder = Folder::new();
    let [styled, kept, plain] = ["styled.png", "kept.png", "plain.png"].map(|name| folder.path(name));
    let style = ["--fresh-noise", "--attention-share", "0", "--guidance-scale", "3", "--output", &styled];
    run(&line(&folder, "style", "sd1", &style));
    run(&line(&folder, "style", "sd1", &["--source", "a cat", "--output", &kept]));
    let sample = ["--strength", "0.8", "--guidance-scale", "3", "--scheduler", "ddim", "--output", &plain];
    // Both without clipping.
    run(&line(&folder, "sample", "sd1", &sample));
    let [styled, kept, plain] = [&styled, &kept, &plain].map(|path| read(path, 3).expect("a picture"));
    let furthest = |other: &unmist::image_io::Picture| {
        styled.data.iter().zip(&other.data).map(|(a, b)| a.abs_diff(*b)).max().expect("pixels")
    };
    assert!(furthest(&plain) <= 1, "{}", furthest(&plain));
    assert!(furthest(&kept) > 10, "{}", furthest(&kept));
    let account: Value = serde_json::from_str(&folder.text("kept.png", "unmist-style")).expect("JSON");
    assert_eq!(account["style"], serde_json::json!({"source": "a cat", "attention_share": 0.5, "fresh_noise": false}));

    let style = |more: &[&str]| line(&folder, "style", "sd1", more);
    refused(&style(&["--attention-share", "2"]), &["--attention-share 2", "0 to 1"]);
    refused(&style(&["--mask", "mask.png"]), &["--mask", "one picture becomes one other"]);
    refused(&style(&["--eta", "0.5"]), &["--eta"]);
    refused(&line(&folder, "style", "lcm", &[]), &["a consistency model"]);
}
