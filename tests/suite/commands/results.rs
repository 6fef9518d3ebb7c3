//! `unmist sample`: nothing beside a run costs its pictures, and no result overwrites another file of the run.

use std::path::Path;
use std::process::{Command, Output, Stdio};

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
