//! `docs/README.md`, `docs/editing.md`, `docs/latent.md`, `docs/systems.md`, `docs/score.md`, `docs/classifier.md` and
//! `docs/consistency.md`: what stands there as a command is one.

use std::path::Path;

use crate::commands::usage::{program, succeeds, text};

/// The lines of a page that are commands, without the program's name, as their arguments.
fn commands(page: &str) -> Vec<Vec<String>> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("    unmist "));
    let arguments = |line: &str| {
        let parts = line.split('"').enumerate();
        let of = |(number, part): (usize, &str)| -> Vec<String> {
            if number % 2 == 1 { vec![part.into()] } else { part.split_whitespace().map(String::from).collect() }
        };
        parts.flat_map(of).collect()
    };
    lines.map(arguments).collect()
}

#[test]
fn the_commands_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("out.webp");
    let strip = folder.path().join("out.png");
    let commands = commands(include_str!("../../../docs/systems.md"));
    assert!(commands.len() > 3, "{commands:?}");
    for command in commands {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        if arguments[0] == "sample" {
            arguments.push("--explain-settings");
        } else {
            let place = arguments.iter().position(|argument| *argument == "--output").expect("it writes a file") + 1;
            let anomaly = arguments[0] == "anomaly";
            arguments[place] = if anomaly { &strip } else { &output }.to_str().expect("a name in UTF-8");
            arguments.extend(if anomaly { &["--steps", "8"][..] } else { &["--frames", "2", "--steps", "2"] });
        }
        succeeds(&arguments);
    }
    assert!(output.is_file() && strip.is_file());
}

#[test]
fn the_commands_about_scores_and_classifiers_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("out.png");
    let pages = [include_str!("../../../docs/score.md"), include_str!("../../../docs/classifier.md")].map(commands);
    assert!(pages[0].len() > 3 && !pages[1].is_empty(), "{pages:?}");
    for command in pages.concat() {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        if let Some(place) = arguments.iter().position(|argument| *argument == "--output") {
            arguments[place + 1] = output.to_str().expect("a name in UTF-8");
            succeeds(&arguments);
            std::fs::remove_file(&output).expect("a picture was made");
        } else {
            succeeds(&arguments);
        }
    }
}

#[test]
fn the_commands_of_consistency_models_and_repaint_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| folder.path().join(name).to_str().expect("a name in UTF-8").to_owned();
    let picture = unmist::image_io::Picture { width: 32, height: 32, channels: 1, data: vec![90; 32 * 32] };
    let mut mask = picture.clone();
    mask.data.iter_mut().enumerate().for_each(|(i, pixel)| *pixel = if i % 32 < 12 { 255 } else { 0 });
    for (name, picture) in [("shoe.png", &picture), ("toe.png", &mask)] {
        unmist::image_io::write_png(std::path::Path::new(&place(name)), picture, &[]).expect("writes");
    }
    let commands = commands(include_str!("../../../docs/consistency.md"));
    assert!(commands.len() > 4, "{commands:?}");
    for mut command in commands {
        for argument in command.iter_mut().filter(|argument| argument.ends_with(".png")) {
            *argument = place(argument);
        }
        if command.contains(&"repaint".into()) {
            command.extend(["--steps", "4", "--jump-length", "2", "--jump-n-sample", "2"].map(String::from));
        }
        succeeds(&command.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let read = |name: &str| unmist::image_io::read(std::path::Path::new(&place(name)), 1).expect("reads");
    let [shoe, new] = ["shoe.png", "new.png"].map(read);
    let pixels = shoe.data.iter().zip(&new.data).enumerate();
    let differs: Vec<usize> = pixels.filter(|(_, (old, new))| old != new).map(|(i, _)| i % 32).collect();
    assert!(differs.len() > 100 && differs.iter().all(|column| *column < 12), "the rest stays to the pixel");
}

#[test]
fn the_commands_of_latent_diffusion_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("out.png");
    let commands = commands(include_str!("../../../docs/latent.md"));
    assert!(commands.len() > 3, "{commands:?}");
    for command in commands {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        let place = arguments.iter().position(|argument| *argument == "--output");
        place.iter().for_each(|place| arguments[place + 1] = output.to_str().expect("a name in UTF-8"));
        succeeds(&arguments);
        assert_eq!(output.is_file(), place.is_some());
        let _ = std::fs::remove_file(&output);
    }
    for model in ["text2im", "upscale"] {
        let model = format!("tests/fixtures/ldm/{model}");
        let copy = folder.path().join("copy");
        let copy = copy.to_str().expect("a name in UTF-8");
        succeeds(&["inspect", "--model", &model]);
        succeeds(&["convert", &model, copy]);
        succeeds(&["inspect", "--model", copy]);
        std::fs::remove_dir_all(copy).expect("it was written");
    }
}

/// Every picture in the chapters is what their commands make.
#[test]
fn the_commands_of_the_chapters_make_their_pictures() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = concat!(include_str!("../../../docs/README.md"), include_str!("../../../docs/editing.md"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    for made in ["docs/images", "clothes"] {
        std::fs::create_dir_all(folder.path().join(made)).expect("a temporary folder");
    }
    let commands = commands(page);
    assert!(commands.len() > 10, "{commands:?}");
    for mut command in commands {
        // What is read lies in the repository, what is written goes to the temporary folder.
        for argument in &mut command {
            if argument.starts_with("weights/") || argument.starts_with("tests/") {
                *argument = repository.join(&argument).to_str().expect("a path in UTF-8").to_owned();
            }
        }
        let output = program().args(&command).current_dir(folder.path()).output().expect("the binary runs");
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    }
    assert!(folder.path().join("apple.html").is_file() && folder.path().join("clothes-model/unet").is_dir());
    let images = repository.join("docs/images");
    let mut bytes = 0;
    for entry in std::fs::read_dir(&images).expect("it is there").flatten() {
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let read = |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (there, made) = (read(&entry.path()), read(&folder.path().join("docs/images").join(&name)));
        bytes += there.len();
        assert!(page.contains(&format!("images/{name}")), "no chapter shows {name}");
        match name.ends_with(".svg") {
            // The loss is measured; the others are formulas.
            true if name == "loss.svg" => assert!(made.starts_with(b"<svg")),
            true => assert!(there == made, "{name} is not what its command draws"),
            false => {
                let size = |file: &[u8]| unmist::image_io::dimensions(Path::new(&name), file).expect("a picture");
                assert_eq!(size(&there), size(&made), "{name}");
            }
        }
    }
    assert!(bytes < 250_000, "{bytes} bytes of pictures");
}
