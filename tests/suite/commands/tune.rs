//! `unmist tune`: what it measures is used, kept, shared and thrown away when it should be, and nothing wrong is ever
//! chosen.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use unmist::checkpoint::Tensors;
use unmist::plan::Table;
use unmist::verify::{Tolerance, compare};

use crate::commands::usage::{copy, fixture, text};

/// The device under test, as the commands take it.
fn device() -> String {
    std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into())
}

fn command(cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unmist"));
    command.args(args).args(["--device", &device()]).env("UNMIST_CACHE", cache);
    command
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    output
}

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&succeeds(command).stdout).expect("JSON")
}

/// A small model of pixels, with convolutions, norms and attention.
fn model() -> String {
    fixture("pipeline").to_str().expect("UTF-8").to_owned()
}

fn tune<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["tune", "--model", model, "--component", "unet", "--json"], more].concat()
}

/// A copy of the kernels in which the second lesson of contraction computes something else.
fn faulty_kernels(folder: &Path) -> PathBuf {
    let kernels = folder.join("wgsl");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("wgsl"), &kernels);
    let file = kernels.join("contraction/2_vec4.wgsl");
    let right = std::fs::read_to_string(&file).expect("it is there");
    let faulty = right.replace("encode_y(conclude(sum + ", "encode_y(conclude(1.01 * sum + ");
    assert_ne!(faulty, right, "this test knows the kernel's line that stores the result");
    std::fs::write(&file, faulty).expect("can be written");
    kernels
}

/// A folder whose cache has been tuned for the small model, with kernels one of which is faulty, and what `tune` said.
struct Tuned {
    folder: tempfile::TempDir,
    kernels: PathBuf,
    report: Value,
}

impl Tuned {
    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn table(&self) -> PathBuf {
        self.report["table"].as_str().expect("a path").into()
    }

    /// The reasons for all choices in the small model, node by node.
    fn reasons(&self, cache: &Path, more: &[&str]) -> Vec<(String, String)> {
        let model = model();
        let args = [&["inspect", "--model", &model, "--component", "unet", "--json"], more].concat();
        let report = json(command(cache, &args).env("UNMIST_WGSL", &self.kernels));
        let choices = report["choices"].as_array().expect("a list").iter();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        choices.map(|choice| (text(&choice["node"]), text(&choice["decision"]["reason"]))).collect()
    }
}

fn tuned() -> &'static Tuned {
    static TUNED: OnceLock<Tuned> = OnceLock::new();
    TUNED.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let kernels = faulty_kernels(folder.path());
        let cache = folder.path().join("cache");
        let model = model();
        let report = json(command(&cache, &tune(&model, &["--quick"])).env("UNMIST_WGSL", &kernels));
        Tuned { folder, kernels, report }
    })
}

#[test]
fn a_wrong_kernel_is_reported_and_never_chosen() {
    let report = &tuned().report;
    let entries = report["entries"].as_array().expect("a list");
    assert!(entries.len() > 5, "only {} instances were measured", entries.len());
    let mut wrong = 0;
    for entry in entries {
        let faults = entry["wrong"].as_array().expect("a list");
        let faulty = faults.iter().filter(|fault| fault["candidate"].as_str().is_some_and(|c| c.starts_with("vec4")));
        if entry["operation"] == "contraction" {
            assert_ne!(entry["chosen"]["variant"], "vec4", "{entry}");
            wrong += faulty.clone().count();
            assert!(faulty.clone().all(|fault| fault["why"].as_str().is_some_and(|why| why.contains("L2"))), "{entry}");
        } else {
            assert_eq!(faulty.count(), 0, "{entry}");
        }
        assert!(entry["chosen"]["seconds"]["median"].as_f64().is_some_and(|seconds| seconds > 0.0), "{entry}");
    }
    assert!(wrong > 2, "{wrong} faults were noticed");
}

#[test]
fn a_table_keeps_everything_and_goes_from_one_cache_to_another() {
    let tuned = tuned();
    let table = Table::read(&tuned.table()).expect("a table");
    assert_eq!(Some(table.entries.len()), tuned.report["entries"].as_array().map(Vec::len));
    for entry in &table.entries {
        assert!(entry.trials.len() > 1, "{entry:?}");
        let right = entry.trials.iter().filter(|trial| trial.wrong.is_none());
        assert!(right.clone().all(|trial| !trial.seconds.is_empty()), "{entry:?}");
        assert!(entry.chosen().is_some_and(|chosen| chosen.wrong.is_none()), "{entry:?}");
    }

    let (file, other) = (tuned.folder.path().join("export.json"), tuned.folder.path().join("other"));
    let path = file.to_str().expect("UTF-8");
    let with = |cache: &Path, args: &[&str]| {
        let mut command = command(cache, args);
        command.env("UNMIST_WGSL", &tuned.kernels);
        command
    };
    succeeds(&mut with(&tuned.cache(), &["tune", "--export", path]));
    assert_eq!(Table::read(&file).expect("a table"), table);
    succeeds(&mut with(&other, &["tune", "--import", path]));
    let known = json(&mut with(&other, &["tune", "--report", "--json"]));
    assert_eq!(known["entries"].as_array().map(Vec::len), Some(table.entries.len()));

    // What was measured elsewhere is refused, unless it is asked for.
    let foreign = Table { device: "another GPU (Vulkan)".into(), ..table.clone() };
    foreign.write(&file).expect("can be written");
    let third = tuned.folder.path().join("third");
    let refused = with(&third, &["tune", "--import", path]).output().expect("the binary runs");
    let message = text(&refused.stderr);
    assert!(!refused.status.success() && message.contains("another GPU"), "{message}");
    assert!(message.contains("--any-device"), "{message}");
    let args = ["tune", "--import", path, "--any-device"];
    let taken = text(&succeeds(&mut with(&third, &args)).stdout);
    assert!(taken.starts_with(&format!("{0} of {0} instances", table.entries.len())), "{taken}");
}

#[test]
fn other_commands_use_it_until_the_kernels_change() {
    let tuned = tuned();
    let all = tuned.reasons(&tuned.cache(), &[]);
    assert!(all.iter().filter(|(_, reason)| reason == "tuned").count() > 5, "{all:?}");
    let none = tuned.reasons(&tuned.cache(), &["--tuned", "off"]);
    assert!(!none.iter().any(|(_, reason)| reason.contains("tuned")), "{none:?}");
    // A table as a file, in place of the cache.
    let (elsewhere, path) = (tuned.folder.path().join("nothing"), tuned.table());
    let by_file = tuned.reasons(&elsewhere, &["--tuned", path.to_str().expect("UTF-8")]);
    assert_eq!(by_file, all);

    // Another text of one kernel: what was chosen of it counts no more, all else does.
    let table = Table::read(&tuned.table()).expect("a table");
    let kernels = tuned.folder.path().join("changed");
    copy(&tuned.kernels, &kernels);
    let kernel = table.entries.iter().find_map(|e| e.chosen()?.kernels.first().cloned()).expect("some kernel");
    let file = kernels.join(format!("{kernel}.wgsl"));
    let changed = std::fs::read_to_string(&file).expect("it is there") + "// changed\n";
    std::fs::write(&file, changed).expect("can be written");
    let gone = table.entries.iter().filter(|entry| entry.chosen().is_some_and(|t| t.kernels.contains(&kernel))).count();
    assert!(gone > 0 && gone < table.entries.len());
    let model = model();
    let args = ["inspect", "--model", &model, "--component", "unet"];
    let message = text(&succeeds(command(&tuned.cache(), &args).env("UNMIST_WGSL", &kernels)).stderr);
    assert!(message.contains(&format!("{gone} tuned choices in")), "{gone}: {message}");
    assert!(message.contains(&format!("note: {} tuned choices", table.entries.len() - gone)), "{message}");
}

#[test]
fn pictures_are_the_same_as_by_the_rules() {
    let tuned = tuned();
    let model = model();
    let sample = |name: &str, more: &[&str]| {
        let path = tuned.folder.path().join(name);
        let output = ["--output", path.to_str().expect("UTF-8")];
        let args = [&["sample", "--model", &model, "--steps", "3", "--seed", "5"], more, &output].concat();
        // With kernels as they ship the faulty ones are others, of which the table says nothing.
        let ran = succeeds(command(&tuned.cache(), &args).env("UNMIST_WGSL", &tuned.kernels));
        (Tensors::open(&path).expect("a file").read_f32("images").expect("pictures"), text(&ran.stderr))
    };
    let (by_rules, silent) = sample("rules.safetensors", &["--tuned", "off"]);
    let (by_table, said) = sample("tuned.safetensors", &[]);
    assert!(said.contains("tuned choices of kernels in") && !silent.contains("tuned choices"), "{said} {silent}");
    compare(&by_table, &by_rules, Tolerance::l2(1e-4)).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_damaged_table_costs_a_note() {
    let tuned = tuned();
    let cache = tuned.folder.path().join("damaged");
    let table = cache.join("tuned").join(tuned.table().file_name().expect("a name"));
    std::fs::create_dir_all(table.parent().expect("a folder")).expect("can be made");
    std::fs::write(&table, &std::fs::read(tuned.table()).expect("it is there")[..300]).expect("can be written");
    let model = model();
    let args = ["inspect", "--model", &model, "--component", "unet"];
    let output = succeeds(&mut command(&cache, &args));
    let message = text(&output.stderr);
    assert!(message.contains("kernels are chosen by rules") && text(&output.stdout).contains("rules:"), "{message}");
    // `tune` begins a new one; one that a user names stays as it is.
    let output = succeeds(&mut command(&cache, &tune(&model, &["--seconds", "1"])));
    assert!(text(&output.stderr).contains("a new table takes its place"), "{}", text(&output.stderr));
    Table::read(&table).expect("a table");
    std::fs::write(&table, "{").expect("can be written");
    let path = table.to_str().expect("UTF-8");
    let refused = command(&cache, &tune(&model, &["--tuned", path])).output().expect("the binary runs");
    assert!(!refused.status.success() && text(&refused.stderr).contains("EOF"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read(&table).expect("it is there"), b"{");
    // Without a cache folder it needs a file.
    let refused = command(Path::new("off"), &["tune", "--report"]).output().expect("the binary runs");
    assert!(text(&refused.stderr).contains("give a file with --tuned FILE"), "{}", text(&refused.stderr));
    let file = tuned.folder.path().join("new.json");
    succeeds(&mut command(Path::new("off"), &["tune", "--report", "--tuned", file.to_str().expect("UTF-8")]));
}

#[test]
fn what_is_measured_when_it_is_interrupted_is_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let table = folder.path().join("table.json");
    let model = model();
    let args = tune(&model, &["--tuned", table.to_str().expect("UTF-8")]);
    let mut child = command(folder.path(), &args).stderr(std::process::Stdio::null()).spawn().expect("the binary runs");
    while !table.exists() && child.try_wait().expect("it can be asked").is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it still runs");
    child.wait().expect("it ends");
    let kept = Table::read(&table).expect("a whole table").entries;
    assert!(!kept.is_empty());
    // The next one goes on from there, though it has no time to measure anything else.
    let more = tune(&model, &["--tuned", table.to_str().expect("UTF-8"), "--seconds", "0.001"]);
    let report = json(&mut command(folder.path(), &more));
    assert_eq!(report["entries"].as_array().map(Vec::len), Some(kept.len()), "{report}");
    assert!(report["left"].as_u64().is_some_and(|left| left > 0), "{report}");
}

/// What is known is not measured again, the time is kept to, and a step of a real model does not get slower.
#[test]
fn a_model_gets_no_slower_and_the_time_is_kept_to() {
    const SECONDS: u64 = 20;
    // One sample, compilation and check of one candidate may still run when the time is over; other tests run beside.
    const OVERTIME: u64 = 40;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let seconds = SECONDS.to_string();
    let args = ["tune", "--model", "emoji-64", "--quick", "--seconds", &seconds, "--json"];
    let start = Instant::now();
    let report = json(command(folder.path(), &args).current_dir(env!("CARGO_MANIFEST_DIR")));
    assert!(start.elapsed() < Duration::from_secs(SECONDS + OVERTIME), "{:?}", start.elapsed());
    let names: Vec<_> = report["parts"].as_array().expect("a list").iter().map(|part| &part["name"]).collect();
    assert_eq!(names, ["text_encoder", "unet", "vae.decoder"]);
    let measured = report["entries"].as_array().expect("a list").len();
    assert!(measured > 0, "{report}");
    // What takes the most time came first: another run goes on where this one ended, and then compares the whole.
    let again = json(command(folder.path(), &args).current_dir(env!("CARGO_MANIFEST_DIR")));
    assert!(again["entries"].as_array().expect("a list").len() >= measured);
    for part in [&report, &again].into_iter().flat_map(|report| report["parts"].as_array().expect("a list")) {
        assert_ne!(part["whole"]["verdict"], "slower", "{part}");
        let [rules, tuned] = ["rules_seconds", "tuned_seconds"].map(|key| part[key].as_f64().expect("a number"));
        assert!(tuned <= 1.05 * rules, "{part}");
    }
}
