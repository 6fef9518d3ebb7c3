//! `docs/systems.md` and `docs/score.md`: what stands there as a command is one.

use crate::commands::usage::succeeds;

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
    let commands = commands(include_str!("../../../docs/systems.md"));
    assert!(commands.len() > 3, "{commands:?}");
    for command in commands {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        if arguments[0] == "sample" {
            arguments.push("--explain-settings");
        } else {
            let place = arguments.iter().position(|argument| *argument == "--output").expect("it writes a file") + 1;
            arguments[place] = output.to_str().expect("a name in UTF-8");
            arguments.extend(["--frames", "2", "--steps", "2"]);
        }
        succeeds(&arguments);
    }
    assert!(output.is_file());
}

#[test]
fn the_commands_about_scores_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("out.png");
    let commands = commands(include_str!("../../../docs/score.md"));
    assert!(commands.len() > 3, "{commands:?}");
    for command in commands {
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
