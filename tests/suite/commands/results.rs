//! `unmist sample`: nothing beside a run costs its pictures, and no result overwrites another file of the run.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use unmist::image_io::read;

use crate::commands::sample::Folder;
use crate::commands::usage::{fails, shipped, text};

/// Two steps of the shipped model, on the CPU, with these options.
fn command(more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unmist"));
    let model = shipped();
    command.args(["sample", "--model", model.to_str().unwrap(), "--device", "reference", "--steps", "2"]).args(more);
    command
}

fn run(more: &[&str]) -> Output {
    command(more).output().expect("the binary runs")
}

#[test]
fn nobody_has_to_read_the_messages() {
    let folder = Folder::new();
    // The reader of standard error is gone before the first line.
    let picture = folder.path("a.png");
    let mut child = command(&["--output", &picture]).stderr(Stdio::piped()).spawn().expect("the binary runs");
    drop(child.stderr.take());
    assert!(child.wait().expect("ends").success());
    read(&picture, 1).expect("a picture");
    // A log on a full disk.
    #[cfg(target_os = "linux")]
    {
        let picture = folder.path("b.png");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        assert!(command(&["--output", &picture]).stderr(full).status().expect("runs").success());
        read(&picture, 1).expect("a picture");
    }
}

#[test]
fn what_fails_beside_the_pictures_does_not_cost_them() {
    let folder = Folder::new();
    // Of three pictures one is blocked; that is said before the first step.
    std::fs::create_dir(folder.path("e-0001.png")).expect("a folder");
    let output = run(&["--class", "1,2,3", "--batch-size", "3", "--separate", "--output", &folder.path("e.png")]);
    let message = text(&output.stderr);
    assert!(!output.status.success() && message.contains("e-0001.png") && message.contains("folder"), "{message}");
    assert!(message.find("will not be written") < message.find("steps for"), "{message}");
    ["e-0002.png", "e-0003.png"].iter().for_each(|name| drop(read(folder.path(name), 1).expect("a picture")));
    // A preview becomes impossible while the run goes on.
    let picture = folder.path("d.png");
    let preview = folder.path("d.preview.png");
    let more = ["--steps", "40", "--preview-every", "1", "--output", &picture];
    let mut command = Command::new(env!("CARGO_BIN_EXE_unmist"));
    command.args(["sample", "--device", "reference", "--model", shipped().to_str().unwrap()]).args(more);
    let child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
    while !Path::new(&preview).exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::remove_file(&preview).expect("it was there");
    std::fs::create_dir(&preview).expect("a folder in its place");
    let output = child.wait_with_output().expect("ends");
    assert!(!output.status.success() && text(&output.stderr).contains("d.preview.png"), "{}", text(&output.stderr));
    read(&picture, 1).expect("a picture");
}

#[cfg(target_os = "linux")]
#[test]
fn latents_that_cannot_be_saved_do_not_cost_the_pictures() {
    use crate::commands::usage::stable_diffusion;
    let folder = Folder::new();
    let sd1 = stable_diffusion("sd1");
    let size = ["a fox", "--width", "24", "--height", "16"];
    let more = [&size[..], &["--model", sd1.to_str().unwrap(), "--save-latents", "/dev/full"]].concat();
    let picture = folder.path("c.png");
    let output = Command::new(env!("CARGO_BIN_EXE_unmist"))
        .args(["sample", "--device", "reference", "--steps", "2", "--output", &picture])
        .args(&more)
        .output()
        .expect("the binary runs");
    assert!(!output.status.success() && text(&output.stderr).contains("/dev/full"), "{}", text(&output.stderr));
    read(&picture, 3).expect("a picture");
}

#[test]
fn names_are_checked_before_the_first_step() {
    let folder = Folder::new();
    let results = tempfile::tempdir().expect("a temporary folder");
    let refused = |name: &str, part: &str| {
        let output = run(&["--output", name]);
        let message = text(&output.stderr);
        assert!(!output.status.success() && message.contains(part), "{message}");
        assert!(!message.contains("steps for") && !message.contains("device:"), "{message}");
    };
    refused(&folder.path(&format!("{}.png", "x".repeat(300))), "xxx");
    refused(&folder.path("no/such/folder/a.png"), "does not exist");
    let blocked = ["e-0001.png", "e-0002.png"].map(|name| folder.path(name));
    blocked.iter().for_each(|name| std::fs::create_dir(name).expect("a folder"));
    let all = folder.path("e.png");
    let model = shipped();
    let run = ["sample", "--model", model.to_str().unwrap(), "--class", "1,2", "--batch-size", "2", "--separate"];
    fails(&[&run[..], &["--output", &all]].concat(), &["e-0001.png", "folder"], results.path());
}

#[test]
fn two_options_never_name_one_file() {
    let folder = Folder::new();
    let photo = folder.bytes("start.png");
    let start = folder.path("start.png");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&start, folder.path("link.png")).expect("links");
    let model = crate::commands::usage::stable_diffusion("sd1");
    let both = folder.path("both.safetensors");
    let (again, preview) = (folder.path("start.png"), folder.path("p.preview.png"));
    let mut cases = vec![
        (vec!["--image", &start, "--output", &again], ["--output", "--image"]),
        (vec!["--output", &both, "--save-latents", &both], ["--output", "--save-latents"]),
        (vec!["--preview-every", "1", "--save-latents", &preview, "--output"], ["--preview-every", "--save-latents"]),
    ];
    let (picture, link) = (folder.path("p.png"), folder.path("link.png"));
    cases[2].0.push(&picture);
    if cfg!(unix) {
        cases.push((vec!["--image", &start, "--output", &link], ["--output", "--image"]));
    }
    for (more, parts) in cases {
        let common = ["sample", "a fox", "--model", model.to_str().unwrap(), "--device", "reference", "--steps", "2"];
        let output = Command::new(env!("CARGO_BIN_EXE_unmist")).args(common).args(&more).output().expect("runs");
        let message = text(&output.stderr);
        assert!(!output.status.success() && !message.contains("steps for"), "{more:?}: {message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{more:?}: {message}");
    }
    assert_eq!(folder.bytes("start.png"), photo, "the user's own picture is as it was");
    assert!(!Path::new(&both).exists());
}

/// Decoders fill up with grey what is missing. Every file that is cut must be refused, wherever it is cut.
#[test]
fn a_damaged_jpeg_is_not_taken_for_a_picture() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cut.jpg");
    let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/rotated.jpg"))
        .expect("the fixture is there");
    let picture = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("writes");
        read(&path, 3)
    };
    picture(&whole).expect("sound");
    for cut in (1..whole.len()).step_by(7).chain([whole.len() - 1, whole.len() - 2]) {
        let message = picture(&whole[..cut]).expect_err("it is cut").to_string();
        assert!(message.contains("cut.jpg"), "{message}");
    }
    // What cameras append behind the picture is no damage.
    picture(&[&whole[..], b"more of the maker's own"].concat()).expect("sound");
    // A marker where no marker may be.
    let mut broken = whole.clone();
    let at = whole.len() - 40;
    broken[at..at + 2].copy_from_slice(&[0xff, 0xc4]);
    picture(&broken).expect_err("a marker in the data");
}

#[test]
fn a_damaged_webp_is_not_taken_for_a_picture() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cut.webp");
    for name in ["lossy", "lossy_alpha", "lossless", "animation", "rotated"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/images/webp/{name}.webp"));
        let whole = std::fs::read(file).expect("the fixture is there");
        let picture = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("writes");
            read(&path, 3)
        };
        picture(&whole).expect("sound");
        for cut in (1..whole.len()).step_by(7).chain([whole.len() - 1, whole.len() - 2]) {
            let message = picture(&whole[..cut]).expect_err("it is cut").to_string();
            assert!(message.contains("cut.webp"), "{name}, {cut}: {message}");
        }
        // Cut, with lengths that fit again.
        if name == "lossy" || name == "lossless" {
            let data = (whole.len() - 20) / 4 * 2;
            let length = |n: usize| u32::try_from(n).expect("small").to_le_bytes();
            let mended =
                [b"RIFF", &length(data + 12)[..], &whole[8..16], &length(data), &whole[20..20 + data]].concat();
            picture(&mended).expect_err("half of its data");
        }
    }
}

/// What changes nothing is said, and the picture does not claim to have been made with it.
#[test]
fn options_without_effect_are_said_and_not_remembered() {
    let folder = Folder::new();
    let model = crate::commands::usage::stable_diffusion("sd1");
    let made = |name: &str, more: &[&str]| {
        let out = folder.path(name);
        let common = ["sample", "a fox", "--steps", "2", "--width", "24", "--height", "16", "--device", "reference"];
        let output = Command::new(env!("CARGO_BIN_EXE_unmist"))
            .args(common)
            .args(["--model", model.to_str().unwrap(), "--output", &out])
            .args(more)
            .output()
            .expect("the binary runs");
        let message = text(&output.stderr);
        assert!(output.status.success(), "{more:?}: {message}");
        message
    };
    made("plain.png", &["--guidance-scale", "1"]);
    for (option, value, more) in [
        ("negative_prompt", Some("fog"), &["--guidance-scale", "1"][..]),
        ("guidance_rescale", Some("0.5"), &["--guidance-scale", "1"]),
        ("eta", Some("0.5"), &["--guidance-scale", "1", "--scheduler", "Euler"]),
        ("eta", Some("0.5"), &["--scheduler", "DDPM"]),
        ("use_clipped_model_output", Some("on"), &["--scheduler", "Euler"]),
    ] {
        let flag = format!("--{}", option.replace('_', "-"));
        let given: Vec<&str> = [flag.as_str()].into_iter().chain(value).chain(more.iter().copied()).collect();
        let message = made("out.png", &given);
        assert!(message.contains(&format!("{flag} has no effect")), "{given:?}: {message}");
        let options = folder.record("out.png")["options"].clone();
        let neutral = [Value::Null, Value::from(0.0), Value::from("off")];
        assert!(neutral.contains(options.get(option).unwrap_or(&Value::Null)), "{given:?}: {options}");
        // Where it counts, nothing is said and all is remembered.
        let counts: &[&str] = if option.contains("eta") || option.contains("clipped") {
            &["--scheduler", "DDIM"]
        } else {
            &["--guidance-scale", "3"]
        };
        let given: Vec<&str> = [flag.as_str()].into_iter().chain(value).chain(counts.iter().copied()).collect();
        let message = made("out.png", &given);
        assert!(!message.contains("no effect"), "{given:?}: {message}");
        assert!(folder.record("out.png")["options"].get(option).is_some(), "{given:?}");
    }
}

#[test]
fn a_seed_may_be_left_to_chance() {
    let folder = Folder::new();
    let drawn = |name: &str| {
        let output = run(&["--seed", "-1", "--output", &folder.path(name)]);
        let message = text(&output.stderr);
        assert!(output.status.success(), "{message}");
        let seed = folder.record(name)["options"]["seed"][0].as_u64().expect("a number");
        assert!(message.contains(&format!("seed: {seed}")), "{message}");
        seed
    };
    assert_ne!(drawn("a.png"), drawn("b.png"), "two draws of 32 bits agree once in four billion times");
    let again = folder.path("again.png");
    assert!(run(&["--from", &folder.path("a.png"), "--output", &again]).status.success());
    assert!(folder.bytes("a.png") == folder.bytes("again.png"), "made again bit for bit");
    let results = tempfile::tempdir().expect("a temporary folder");
    fails(&["sample", "--seed", "-2"], &["--seed", "-1 for a random one"], results.path());
}

/// Every piece of advice about memory names what is in force, and helps.
#[test]
fn advice_about_memory_leads_somewhere() {
    let folder = Folder::new();
    let tight = ["--max-memory", "0.0001", "--output"];
    let out = folder.path("out.png");
    let output = run(&[&tight[..], &[out.as_str()]].concat());
    let message = text(&output.stderr);
    assert!(!output.status.success() && message.contains("the limit that was set is"), "{message}");
    assert!(message.contains("a larger --max-memory"), "{message}");
    for (advice, followed) in [("--precision f16", ["--precision", "f16"]), ("another --device", ["--device", "auto"])]
    {
        if message.contains(advice) {
            let output = run(&[&tight[..], &[out.as_str()], &followed].concat());
            assert!(output.status.success(), "{advice}: {}", text(&output.stderr));
        }
    }
    assert!(run(&["--max-memory", "4", "--output", &out]).status.success());
}
