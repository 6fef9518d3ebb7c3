//! `unmist anomaly`: what it finds, what it writes, and what it refuses.

use std::path::Path;

use serde_json::Value;
use unmist::checkpoint::Tensors;
use unmist::image_io::{Picture, read, write_png};

use crate::commands::usage::{fails, shipped, stable_diffusion, succeeds};

fn fixtures(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    path.to_str().expect("UTF-8").to_owned()
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("it was written")).expect("JSON")
}

/// What `anomaly.safetensors` says of a picture comes out of the command, as numbers, table, JSON and picture.
#[test]
fn a_picture_is_that_of_the_fixture() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let [scores, map, strip] = ["a.json", "a.safetensors", "a.png"].map(path);
    let (model, image) = (shipped().to_str().unwrap().to_owned(), fixtures("loss/one/9/boot.png"));
    let asked = ["anomaly", "--model", &model, "--image", &image, "--scheduler", "ddim", "--timestep", "310"];
    let more = ["--steps", "40", "--noise", "simplex", "--repeats", "2", "--percentile", "90"];
    let files = ["--json", &scores, "--map", &map, "--output", &strip];
    let table = succeeds(&[&asked[..], &more, &files].concat());
    let found = json(&scores);
    assert_eq!((&found["timestep"], &found["steps"]), (&300.into(), &13.into()), "{found}");
    assert!(table.contains("boot.png") && table.contains("DDIMScheduler") && table.contains("simplex"), "{table}");
    let map = Tensors::open(&map).and_then(|file| file.read_f32("images")).expect("it was written");
    assert_eq!(map.shape, [1, 1, 32, 32]);
    let mean = map.data.iter().map(|x| f64::from(*x)).sum::<f64>() / 1024.0;
    let mut sorted = map.data.clone();
    sorted.sort_by(f32::total_cmp);
    let high = f64::from(sorted[920]) + 0.7 * f64::from(sorted[921] - sorted[920]); // 0.9 · 1023 = 920.7
    let picture = &found["pictures"][0];
    for (score, expected) in [("mean", mean), ("percentile", high)] {
        let score = picture[score].as_f64().expect("a number");
        assert!((score - expected).abs() < 1e-6, "{score} {expected}");
    }
    // At the timestep 301 of the fixture, whose scheduler has an offset of 1, it is nearly the same.
    let truth = Tensors::open(fixtures("anomaly.safetensors")).and_then(|file| file.read_f32("ddim.map")).unwrap();
    let expected = truth.data.iter().map(|x| f64::from(*x)).sum::<f64>() / 1024.0;
    assert!((mean / expected - 1.0).abs() < 0.1, "{mean} {expected}");
    let strip = read(&strip, 3).expect("it was written");
    assert!(strip.width > 4 * 32 && strip.height >= 32, "{} x {}", strip.width, strip.height);
}

#[test]
fn lesions_of_the_shipped_tissue_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (scores, strips) = (path("scores.json"), path("strips"));
    let (images, masks) = (fixtures("anomaly/test"), fixtures("anomaly/masks"));
    let asked = ["anomaly", "--model", "tissue-32", "--images", &images, "--masks", &masks, "--noise", "simplex"];
    let more = ["--steps", "40", "--json", &scores, "--output", &strips];
    let table = succeeds(&[&asked[..], &more].concat());
    let found = json(&scores);
    let number = |value: &Value| value.as_f64().expect("a number");
    assert!(number(&found["pixel_auroc"]) >= 0.9, "{table}");
    assert!(number(&found["picture_auroc"]["percentile"]) >= 0.9, "{table}");
    for part in ["of pixels, by map", "of pictures, by mean", "of pictures, by 98th percentile"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let pictures = found["pictures"].as_array().expect("a list");
    assert_eq!(pictures.len(), 12);
    for picture in pictures {
        let file = picture["file"].as_str().expect("a path");
        let anomalous = file.starts_with("anomalous");
        assert_eq!(picture["anomalous"], anomalous, "{file}");
        assert_eq!(picture["masked"].as_u64().expect("a number") > 0, anomalous, "{file}");
        assert!(Path::new(&strips).join(file).is_file(), "{file}");
    }

    // A picture's score does not depend on the others, nor on how many are seen at once.
    let (alone, image) = (path("alone.json"), format!("{images}/anomalous/002.png"));
    let asked = ["anomaly", "--model", "tissue-32", "--image", &image, "--noise", "simplex", "--steps", "40"];
    succeeds(&[&asked[..], &["--batch-size", "1", "--json", &alone, "--output", &path("alone.png")]].concat());
    let [alone, among] = [&json(&alone)["pictures"][0], &pictures[2]].map(|one| number(&one["mean"]));
    assert!((alone / among - 1.0).abs() < 1e-3, "{alone} {among}");
}

fn picture(path: &Path, side: usize, level: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).expect("a folder");
    let data = vec![level; side * side];
    write_png(path, &Picture { width: side, height: side, channels: 1, data }, &[]).expect("writes");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (folder, empty) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let at = |name: &str| folder.path().join(name);
    for (name, side, level) in [
        ("one/normal/a.png", 32, 90),
        ("small/a.png", 16, 90),
        ("black/normal/a.png", 32, 0),
        ("white/normal/a.png", 32, 255),
        ("other/normal/b.png", 32, 255),
        ("tiny/normal/a.png", 16, 255),
    ] {
        picture(&at(name), side, level);
    }
    let path = |name: &str| at(name).to_str().expect("UTF-8").to_owned();
    let (model, one, strip) = (shipped().to_str().unwrap().to_owned(), path("one/normal/a.png"), path("strip.png"));
    let refused = |asked: &[&str], parts: &[&str]| {
        let json = empty.path().join("scores.json").to_str().unwrap().to_owned();
        let mut common = vec!["anomaly", "--json", &json];
        for (flag, value) in [("--model", &*model), ("--steps", "8")] {
            if !asked.contains(&flag) {
                common.extend([flag, value]);
            }
        }
        fails(&[&common[..], asked].concat(), parts, empty.path());
    };
    let image = |more: &[&str], parts: &[&str]| {
        refused(&[&["--image", &one, "--output", &strip], more].concat(), parts);
    };
    image(&["--timestep", "1000"], &["timestep 1000", "0 to 999"]);
    image(&["--scheduler", "euler"], &["--scheduler EulerDiscreteScheduler", "DDPM and DDIM", "ddim"]);
    image(&["--repeats", "0"], &["--repeats 0"]);
    image(&["--batch-size", "0"], &["--batch-size 0"]);
    image(&["--percentile", "101"], &["--percentile 101"]);
    image(&["--steps", "1001"], &["--steps 1001"]);
    image(&["--class", "11"], &["--class 11", "0 to 10"]);
    image(&["--model", "emoji-64"], &["--model", "latents"]);
    image(&["--model", stable_diffusion("sd1").to_str().unwrap()], &["--model", "latents"]);
    image(&["--model", &fixtures("score/ve")], &["--scheduler ScoreSdeVeScheduler"]);
    image(&["--masks", &path("white")], &["--images"]);
    image(&["--map", "map.png"], &["--map map.png", ".safetensors"]);
    refused(&["--image", &one, "--output", "strip.jpg"], &["--output strip.jpg", ".png"]);
    refused(&["--image", &one, "--output", &one], &["a.png", "--image and --output", "one file"]);
    refused(&["--image", &path("small/a.png"), "--output", &strip], &["16 x 16", "32 x 32", "--resize"]);
    refused(&[], &["--image"]);
    let images = |more: &[&str], parts: &[&str]| refused(&[&["--images", &path("one")], more].concat(), parts);
    refused(&["--images", &path("nowhere")], &["--images", "no such folder"]);
    images(&["--output", &path("one")], &["--output", "take the place of another file"]);
    images(&["--masks", &path("nowhere")], &["--masks", "no such folder"]);
    images(&["--masks", &path("black")], &["--masks", "black"]);
    images(&["--masks", &path("other")], &["b.png", "no picture of this name", "--images"]);
    images(&["--masks", &path("tiny")], &["16 x 16", "32 x 32"]);
    images(&["--masks", &path("white")], &["a.png", "white somewhere", "in normal"]);
    assert!(!Path::new(&strip).exists());
}
