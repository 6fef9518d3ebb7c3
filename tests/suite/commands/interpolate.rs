//! `unmist interpolate`: its ends are `unmist sample`'s pictures, its files hold what they should, and what it refuses.

use std::fs::File;
use std::io::{BufReader, Cursor};

use image::codecs::{png::PngDecoder, webp::WebPDecoder};
use image::{AnimationDecoder, Frame};
use serde_json::Value;
use unmist::image_io::{Picture, read, read_text};

use crate::commands::sample::Folder;
use crate::commands::usage::{copy, fails, shipped, stable_diffusion, succeeds, text, unmist};

fn weights(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(name);
    path.to_str().expect("UTF-8").to_owned()
}

/// What the command says while it works.
fn said(args: &[&str]) -> String {
    let output = unmist(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

/// The words of a short run: a model of classes, a tiny Stable Diffusion, and a model that text conditions.
fn runs() -> Vec<Vec<String>> {
    let sd1 = stable_diffusion("sd1").to_str().expect("UTF-8").to_owned();
    let classes = shipped().to_str().expect("UTF-8").to_owned();
    let words = |line: &[&str]| line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        words(&["--model", &classes, "--class", "7", "--steps", "3"]),
        words(&[
            "a fox",
            "--model",
            &sd1,
            "--width",
            "24",
            "--height",
            "16",
            "--steps",
            "2",
            "--scheduler",
            "dpm++ 2m",
        ]),
        words(&["a cat", "--model", &weights("emoji-64"), "--steps", "2", "--rng", "torch-cuda"]),
    ]
}

#[test]
fn frames_at_seeds_are_the_pictures_that_sample_makes() {
    for run in runs() {
        let folder = Folder::new();
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        let frames = folder.path("frames");
        succeeds(&[&["interpolate", "--seed", "5,9,6", "--frames", "5", "--output", &frames], &run[..]].concat());
        let picture = |frame: usize| read(folder.path(&format!("frames/frame-{frame:03}.png")), 3).expect("a frame");
        for (frame, seed) in [(0, "5"), (2, "9"), (4, "6")] {
            let out = folder.path("out.png");
            succeeds(&[&["sample", "--seed", seed, "--output", &out], &run[..]].concat());
            // To the last byte, with all that it remembers.
            assert!(folder.bytes(&format!("frames/frame-{frame:03}.png")) == folder.bytes("out.png"), "{run:?} {seed}");
        }
        let all: Vec<Picture> = (0..5).map(picture).collect();
        for frame in [1, 3] {
            for other in (0..5).filter(|other| *other != frame) {
                assert_ne!(all[frame], all[other], "{run:?}: {frame} and {other}");
            }
        }
        // Between: what was asked for, and where; no record that `sample` would take for a picture of its own.
        let name = "frames/frame-001.png";
        let account: Value = serde_json::from_str(&folder.text(name, "unmist-interpolate")).expect("JSON");
        assert_eq!(account["interpolate"], serde_json::json!({"frame": 1, "frames": 5, "seeds": [5, 9, 6]}));
        assert_eq!(account["options"]["steps"].to_string(), run[run.iter().position(|w| *w == "--steps").unwrap() + 1]);
        assert!(account["files"]["model"].as_object().is_some_and(|files| !files.is_empty()), "{account}");
        let texts = read_text(folder.path(name)).expect("a PNG");
        assert!(!texts.iter().any(|(keyword, _)| keyword == "unmist"));
        let parameters = folder.text(name, "parameters");
        assert!(parameters.ends_with("Interpolation: seeds 5 to 9 to 6, Frames: 5, Frame: 1"), "{parameters}");
        assert!(!std::path::Path::new(&folder.path("frames/frame-005.png")).exists());
    }
}

/// Every picture comes back from the noise that it was led to, the nearer the more steps the way has.
#[test]
fn pictures_come_back_from_their_noise() {
    let folder = Folder::new();
    let (a, b, frames) = (folder.path("a.png"), folder.path("b.png"), folder.path("frames"));
    let check = |line: &[&str], least: f64| {
        let _ = std::fs::remove_dir_all(&frames);
        let line = [&["interpolate", "--image", &a, "--image", &b, "--frames", "2", "--output", &frames][..], line];
        let said = said(&line.concat());
        let found = [("a.png", 0), ("b.png", 1)].map(|(name, frame)| {
            let number = said.split(&format!("{name} again: PSNR ")).nth(1).expect("it is said").split(' ').next();
            let number: f64 = number.unwrap().parse().expect("a number");
            let [picture, frame] = [name, &format!("frames/frame-{frame:03}.png")]
                .map(|name| read(folder.path(name), 3).expect("a picture"));
            let squares = picture.data.iter().zip(&frame.data).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
            let mean = squares.sum::<f64>() / picture.data.len() as f64;
            assert!((number - 10.0 * (255.0 * 255.0 / mean).log10()).abs() < 0.006, "{name}: {number}, MSE {mean}");
            number
        });
        assert!(found.iter().all(|psnr| *psnr > least), "{line:?}: {found:?}, expected {least}");
        (found, said)
    };

    let model = shipped();
    let model = ["--model", model.to_str().expect("UTF-8")];
    for (class, path) in [("3", &a), ("8", &b)] {
        succeeds(&[&["sample", "--class", class, "--seed", class, "--output", path], &model[..]].concat());
    }
    // 14.3 and 13.3 in 10 steps; the pictures that clipping leads to stay at 15 whatever the steps.
    let (few, noted) = check(&[&["--steps", "10"], &model[..]].concat(), 12.0);
    assert!(noted.contains("note: the estimate of x_0 is not clipped"), "{noted}");
    let (many, _) = check(&[&["--steps", "60"], &model[..]].concat(), 20.0);
    assert!(few.iter().zip(many).all(|(few, many)| many > few + 4.0), "{few:?}, {many:?}");
    let account: Value =
        serde_json::from_str(&folder.text("frames/frame-000.png", "unmist-interpolate")).expect("JSON");
    assert_eq!(account["interpolate"]["pictures"], serde_json::json!([a, b]));
    assert_eq!(account["scheduler"]["clip_sample"], false);
    assert_eq!(account["files"]["image"].as_object().map(|files| files.len()), Some(2));

    // On latents, by a prompt that fits the first.
    let model = weights("emoji-64");
    for (prompt, path) in [("cat", &a), ("house", &b)] {
        succeeds(&["sample", prompt, "--model", &model, "--seed", "3", "--output", path]);
    }
    check(&["cat", "--model", &model], 25.0);

    // Pictures of other sizes and colours become the model's; nothing is said of one that no frame shows.
    folder.picture("c.png", 40, 24, 3);
    let images = [folder.path("start.png"), folder.path("c.png"), a.clone()];
    let images: Vec<&str> = images.iter().flat_map(|path| ["--image", path]).collect();
    let out = folder.path("moving.webp");
    let line = ["interpolate", "--frames", "4", "--steps", "2", "--output", &out];
    let model = shipped();
    let said = said(&[&line[..], &["--model", model.to_str().expect("UTF-8")], &images[..]].concat());
    assert!(said.contains("c.png: 40 x 24 pixels become 32 x 32"), "{said}");
    assert_eq!(said.matches("PSNR").count(), 2, "{said}");
}

/// Frames, and how long each is shown, in milliseconds, as the `image` library reads them.
fn decoded(name: &str, file: &[u8]) -> Vec<(Picture, f64)> {
    let frames = match name.rsplit('.').next() {
        Some("png") => PngDecoder::new(Cursor::new(file)).expect("a PNG").apng().expect("it moves").into_frames(),
        Some("webp") => WebPDecoder::new(Cursor::new(file)).expect("a WebP").into_frames(),
        _ => return gif_frames(file),
    };
    let frame = |frame: Frame| {
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let pixels = frame.into_buffer();
        let (width, height) = (pixels.width() as usize, pixels.height() as usize);
        let data = pixels.pixels().flat_map(|pixel| pixel.0[..3].to_vec()).collect();
        (Picture { width, height, channels: 3, data }, f64::from(numerator) / f64::from(denominator))
    };
    frames.map(|found| frame(found.expect("sound"))).collect()
}

fn gif_frames(file: &[u8]) -> Vec<(Picture, f64)> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut decoder = options.read_info(file).expect("a GIF");
    assert!(matches!(decoder.repeat(), gif::Repeat::Infinite));
    let mut frames = Vec::new();
    while let Some(frame) = decoder.read_next_frame().expect("sound") {
        let data = frame.buffer.chunks_exact(4).flat_map(|pixel| pixel[..3].to_vec()).collect();
        let (width, height) = (frame.width.into(), frame.height.into());
        frames.push((Picture { width, height, channels: 3, data }, f64::from(frame.delay) * 10.0));
    }
    frames
}

#[test]
fn what_moves_holds_all_frames_and_their_times() {
    let folder = Folder::new();
    // Grey, and of more colours than 256.
    for run in [&runs()[0], &runs()[2]] {
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        let frames = folder.path("frames");
        let make = |more: &[&str]| {
            succeeds(&[&["interpolate", "--seed", "1,2", "--frames", "4"], &run[..], more].concat());
        };
        let _ = std::fs::remove_dir_all(&frames);
        make(&["--output", &frames]);
        let still: Vec<Picture> =
            (0..4).map(|i| read(folder.path(&format!("frames/frame-{i:03}.png")), 3).expect("a frame")).collect();
        for (name, exact, fps, times) in [
            ("a.png", true, "7", [1000.0 / 7.0; 6]),
            ("a.webp", true, "7", [143.0, 143.0, 143.0, 142.0, 143.0, 143.0]),
            ("a.gif", run[0] == "--model", "12", [80.0, 90.0, 80.0, 80.0, 90.0, 80.0]),
        ] {
            make(&["--fps", fps, "--back-and-forth", "--output", &folder.path(name)]);
            let found = decoded(name, &folder.bytes(name));
            assert_eq!(found.len(), 6, "{name}");
            for (i, ((picture, time), frame)) in found.iter().zip([0, 1, 2, 3, 2, 1]).enumerate() {
                assert!((time - times[i]).abs() < 0.01, "{name} {i}: {time} ms");
                let psnr = picture.psnr(&still[frame]).expect("of one size");
                // Of more colours than 256, a GIF has the best.
                assert!(if exact { psnr.is_infinite() } else { psnr > 34.0 }, "{name} {i}: {psnr} dB");
            }
        }
        for name in ["a.png", "a.webp"] {
            let account: Value = serde_json::from_str(&folder.text(name, "unmist-interpolate")).expect("JSON");
            assert_eq!(account["interpolate"], serde_json::json!({"frames": 4, "seeds": [1, 2]}), "{name}");
            let parameters = folder.text(name, "parameters");
            assert!(parameters.ends_with("Interpolation: seeds 1 to 2, Frames: 4"), "{parameters}");
        }
        let gif = folder.bytes("a.gif");
        let comment = |text: &[u8]| gif.windows(text.len()).any(|window| window == text);
        assert!(comment(b"parameters: ") && comment(b"unmist-interpolate: {"), "comments");
        let plain = folder.path("plain.png");
        make(&["--output", &plain]);
        let found = decoded("plain.png", &folder.bytes("plain.png"));
        assert_eq!(found.len(), 4);
        assert!((found[0].1 - 1000.0 / 12.0).abs() < 0.01, "the default's time");
        let first = png::Decoder::new(BufReader::new(File::open(&plain).expect("it is there")));
        let info = first.read_info().expect("a PNG").info().clone();
        assert_eq!(info.animation_control.map(|control| (control.num_frames, control.num_plays)), Some((4, 0)));
    }
}

#[test]
fn what_has_no_way_between_is_refused() {
    let things = Folder::new();
    let empty = tempfile::tempdir().expect("a folder");
    let output = empty.path().join("out.png");
    let (model, picture) = (shipped(), things.path("start.png"));
    let (model, output) = (model.to_str().expect("UTF-8"), output.to_str().expect("UTF-8"));
    let fails = |args: &[&str], parts: &[&str]| {
        let rest = if args.contains(&"--output") { vec![] } else { vec!["--output", output] };
        let model = if args.contains(&"--model") { vec![] } else { vec!["--model", model] };
        fails(&[&["interpolate"], args, &rest, &model].concat(), parts, empty.path());
    };
    fails(&[], &["--seed", "expected two seeds or more"]);
    fails(&["--seed", "3"], &["--seed", "expected two seeds or more"]);
    fails(&["--image", &picture], &["--image", "expected two pictures or more"]);
    fails(&["--image", &picture, "--image", &picture, "--seed", "1,2"], &["--seed", "noise of their own"]);
    fails(&["--image", &picture, "--image", "nowhere.png"], &["nowhere.png"]);
    fails(&["--seed", "1,2,3", "--frames", "2"], &["--frames 2", "expected 3 to"]);
    fails(&["--seed", "1,2", "--frames", "1"], &["--frames 1", "expected 2 to"]);
    fails(&["--seed", "1,2", "--fps", "51"], &["--fps", "50"]);
    fails(&["--seed", "1,2", "--output", "out.mp4"], &["--output out.mp4", ".webp", "folder"]);
    let frames = empty.path().join("frames");
    let frames = frames.to_str().expect("UTF-8");
    fails(&["--seed", "1,2", "--output", frames, "--fps", "5"], &["--fps", "do not move"]);
    fails(&["--seed", "1,2", "--output", frames, "--back-and-forth"], &["--back-and-forth", "do not move"]);
    fails(&["--seed", "1,2", "--output", "no/such/folder"], &["no/such"]);
    for field in ["--mask", "--latents"] {
        fails(&["--seed", "1,2", field, &picture], &[field, "made of noise alone"]);
    }
    for field in ["--strength", "--batch-size", "--mask-blur", "--padding-mask-crop"] {
        fails(&["--seed", "1,2", field, "1"], &[field, "made of noise alone"]);
    }
    // What draws in its steps, and which do not.
    for name in ["ddpm", "Euler a", "DPM++ SDE", "LCM"] {
        let parts = ["--scheduler", "fresh noise", "DDIM, ", "DPM++ 2M, ", "UniPC", "; use --scheduler ddim"];
        fails(&["--seed", "1,2", "--scheduler", name], &parts);
    }
    fails(&["--seed", "1,2", "--eta", "0.5"], &["--eta 0.5", "fresh noise", "leave --eta out"]);
    let images = ["--image", &picture, "--image", &picture];
    fails(&[&images[..], &["--scheduler", "euler"]].concat(), &["--scheduler", "DDIM's", "use --scheduler ddim"]);
    fails(&[&images[..], &["--eta", "1"]].concat(), &["--eta 1"]);
    fails(&["--seed", "1,2", "--scheduler", "DDIMInverseScheduler"], &["--scheduler", "to its noise", "another"]);
    // A model of which a run makes more than one picture, or that needs one.
    fails(&["--seed", "1,2", "--class", "3,4"], &["--class", "frames are of one"]);
    let [sd1, edit] = ["sd1", "instruct_pix2pix"].map(|name| stable_diffusion(name).display().to_string());
    fails(&["a", "b", "--seed", "1,2", "--model", &sd1], &["PROMPT", "frames are of one"]);
    fails(&["a", "--seed", "1,2", "--model", &edit], &["--model", "pictures of other pictures"]);
    let linspace = things.path("linspace");
    copy(&shipped(), std::path::Path::new(&linspace));
    let config = r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"}"#;
    std::fs::write(things.path("linspace/scheduler/scheduler_config.json"), config).expect("writes");
    fails(&[&images[..], &["--model", &linspace]].concat(), &["timestep_spacing", "linspace"]);

    // Frames of a longer run would look like some of this one; a picture that is read stays.
    let (old, before) = (things.path("old"), things.bytes("start.png"));
    std::fs::create_dir(&old).expect("creates");
    std::fs::write(things.path("old/frame-009.png"), "old").expect("writes");
    let parts = ["frame-009.png", "another run"];
    std::fs::write(things.path("file"), "a file").expect("writes");
    fails(&["--seed", "1,2", "--output", &things.path("file")], &["--output", "a file of this name"]);
    fails(&["--seed", "1,2", "--frames", "4", "--output", &old], &parts);
    fails(&[&images[..], &["--output", &picture]].concat(), &["--output and --image", "overwritten"]);
    assert!(things.bytes("start.png") == before && things.bytes("old/frame-009.png") == b"old");
}
