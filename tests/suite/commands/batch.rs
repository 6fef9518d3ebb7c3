//! `unmist batch`: many requests, made once each.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use unmist::image_io::read;

use crate::commands::sample::Folder;
use crate::commands::usage::{fails, succeeds, text};

fn lines(printed: &str) -> Vec<Value> {
    printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn what_is_there_is_not_made_again() {
    let folder = Folder::new();
    let (jobs, out) = (folder.path("jobs.jsonl"), folder.path("pictures"));
    let requests = [
        json!({"prompt": ["a red apple"], "steps": 2, "seed": [3]}),
        json!({"class": [7, 9], "steps": 2, "seed": [5, 6]}),
        json!({"prompt": ["a fox"], "steps": 2, "scheduler": "no such"}),
        json!({"prompt": ["a fox"], "stepz": 2}),
        json!({"prompt": ["a fox"], "steps": 2, "seed": [3]}),
    ];
    let file: String = requests.iter().map(|request| format!("{request}\n")).collect();
    std::fs::write(&jobs, file.replace("\n{\"prompt\":[\"a fox\"],\"stepz\"", "\n\n{\"prompt\":[\"a fox\"],\"stepz\""))
        .expect("writes");
    let run = |more: &[&str]| {
        let device = std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into());
        let args = [&["batch", &jobs, "--output", &out, "--device", &device], more].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_unmist")).args(args).output().expect("it runs");
        (output.status.success(), lines(&text(&output.stdout)), text(&output.stderr))
    };
    let (good, first, message) = run(&[]);
    assert!(!good && message.contains("2 of 5 jobs"), "{message}");
    let told: Vec<_> =
        first.iter().map(|line| (line["line"].as_u64().unwrap(), line["status"].as_str().unwrap())).collect();
    assert_eq!(told, [(1, "made"), (2, "made"), (3, "failed"), (5, "failed"), (6, "made")], "{message}");
    assert!(
        first[2]["error"].as_str().unwrap().contains("no such")
            && first[3]["error"].as_str().unwrap().contains("stepz")
    );
    let path = |line: &Value, i: usize| Path::new(&out).join(line["files"][i].as_str().expect("a file"));
    // As `sample` makes it, with its settings inside.
    let alone = folder.path("alone.png");
    succeeds(&["sample", "a red apple", "--steps", "2", "--seed", "3", "--output", &alone]);
    assert_eq!(read(path(&first[0], 0), 3).unwrap(), read(&alone, 3).unwrap());
    let again = folder.path("again.png");
    succeeds(&["sample", "--from", path(&first[0], 0).to_str().unwrap(), "--output", &again]);
    assert_eq!(read(&again, 3).unwrap(), read(&alone, 3).unwrap());
    assert_eq!(first[1]["files"].as_array().unwrap().len(), 2);

    // The second time nothing is made; what is lost is made anew, and so is what was changed.
    std::fs::remove_file(path(&first[1], 1)).expect("it was there");
    let changed = std::fs::read_to_string(&jobs).unwrap().replace("a red apple", "a green apple");
    std::fs::write(&jobs, changed).expect("writes");
    let (_, second, _) = run(&[]);
    let told: Vec<_> = second.iter().map(|line| line["status"].as_str().unwrap()).collect();
    assert_eq!(told, ["made", "made", "failed", "failed", "there"]);
    // Parts are disjoint, and all of it together.
    let mut all = Vec::new();
    for part in ["1/2", "2/2"] {
        all.extend(run(&["--shard", part]).1.iter().map(|line| line["line"].as_u64().unwrap()));
    }
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 5, 6]);
    for wrong in ["0/2", "3/2", "x", "1/0"] {
        let args = ["batch", jobs.as_str(), "--output", "nowhere", "--shard", wrong];
        fails(&args, &["--shard", "K/N"], tempfile::tempdir().unwrap().path());
    }
}
