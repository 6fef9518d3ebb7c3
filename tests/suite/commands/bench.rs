//! `unmist bench` of a model, and `bench diff` of two such runs.

use std::path::Path;

use unmist::measure::{Check, Report};

use super::usage::{fails, fixture, succeeds, text, unmist};

/// A run of a small model; everything that it writes.
pub fn bench(folder: &Path, more: &[&str]) -> (String, Report) {
    bench_of("odd_channels", folder, more)
}

fn bench_of(model: &str, folder: &Path, more: &[&str]) -> (String, Report) {
    let model = fixture(model);
    let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let (json, csv, html) = (path("a.json"), path("a.csv"), path("a.html"));
    let files = ["--json", &json, "--csv", &csv, "--html", &html];
    let model = ["bench", "--model", model.to_str().expect("UTF-8"), "--seconds", "0"];
    let printed = succeeds(&[&model[..], &files, more].concat());
    (printed, read(Path::new(&json)))
}

fn read(path: &Path) -> Report {
    serde_json::from_str(&std::fs::read_to_string(path).expect("it was written")).expect("as the library has it")
}

fn write(path: &Path, report: &Report) {
    std::fs::write(path, serde_json::to_string(report).expect("plain data")).expect("writes");
}

#[test]
fn a_model_is_checked_timed_and_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (printed, report) = bench_of("pipeline", folder.path(), &["--picture", "2", "--precision", "f16"]);
    for part in ["multiply-adds in f32", "copy, read and write", "launches", "planned", "allocated", "first step", "±"]
    {
        assert!(printed.contains(part), "no «{part}» in: {printed}");
    }
    assert!(printed.contains("a whole picture of") && printed.contains("made:"), "{printed}");

    // 1. what the device can do, and nothing does more
    let ceilings = &report.ceilings;
    let rates = [ceilings.fma_f32.rate(), ceilings.copy.rate()];
    assert!(rates.iter().all(|rate| *rate > 1e8 && rate.is_finite()), "{rates:?}");
    let launch = ceilings.dispatch.each();
    assert!((1e-8..1e-2).contains(&launch), "{launch} s a launch");
    for operation in &report.operations {
        let share = operation.share_of_ceiling(ceilings);
        // A processor shared with other programs may be faster while the operation is timed.
        assert!((0.0..1.5).contains(&share), "{}: {share}", operation.operation);
        assert!(matches!(operation.check, Check::Equal(error) if error < 1e-2), "{operation:?}");
        assert!(operation.seconds.len() >= 5 && operation.seconds.median() > 0.0, "{operation:?}");
        assert!(!operation.kernels.is_empty() && !operation.variant.is_empty(), "{operation:?}");
    }

    // 2. every operation of a step, once
    let step = report.step.as_ref().expect("a model has steps");
    let launches: usize = report.operations.iter().map(|o| o.nodes.len() * o.kernels.len()).sum();
    assert_eq!(launches, step.launches);
    let flops: u64 = report.operations.iter().map(|o| o.nodes.len() as u64 * o.done_flops).sum();
    assert_eq!(flops, step.cost.flops);
    let shares: f64 = report.operations.iter().map(|o| report.share(o)).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    let times: Vec<f64> = report.operations.iter().map(|o| o.in_step_seconds()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    assert!(step.first_seconds > 0.0 && step.load_seconds > 0.0 && step.compile_seconds > 0.0);
    let picture = report.picture.as_ref().expect("it was asked for");
    assert!(picture.measured && picture.steps == 2 && picture.steps_seconds > 0.0, "{picture:?}");

    // 3. the other files say the same
    let csv = std::fs::read_to_string(folder.path().join("a.csv")).expect("it was written");
    assert_eq!(csv.lines().count(), 1 + report.operations.len());
    let columns = csv.lines().next().expect("a header").split(',').count();
    for (line, operation) in csv.lines().skip(1).zip(&report.operations) {
        let quoted = |part: &str, i: usize| if i % 2 == 1 { part.replace(',', " ") } else { part.to_owned() };
        let plain: String = line.split('"').enumerate().map(|(i, part)| quoted(part, i)).collect();
        let fields: Vec<&str> = plain.split(',').collect();
        assert_eq!(fields.len(), columns, "{line}");
        let median: f64 = fields[8].parse().expect("a number");
        assert_eq!(median, operation.seconds.median(), "{line}");
    }
    assert_eq!(serde_json::to_value(&report).expect("plain data"), {
        let text = std::fs::read_to_string(folder.path().join("a.json")).expect("it was written");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    });
}

#[test]
fn a_part_of_a_preset_without_checks() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("p.json");
    let small = ["bench", "--preset", "ddpm", "--width", "8", "--height", "8", "--seconds", "0", "--runs", "1"];
    let only = ["--operation", "softmax,group_norm", "--no-check", "--json", json.to_str().expect("UTF-8")];
    let printed = succeeds(&[&small[..], &only, &["--picture", "10"]].concat());
    assert!(printed.contains("ddpm, unet") && printed.contains("added up and not made"), "{printed}");
    let report = read(&json);
    assert!(report.operations.len() > 3);
    for operation in &report.operations {
        assert!(operation.operation.starts_with("group_norm["), "{}", operation.operation);
        assert_eq!(operation.check, Check::Unchecked);
    }
    let picture = report.picture.expect("it was asked for");
    let step = report.step.expect("a model has steps").seconds.median();
    assert!(!picture.measured && (picture.seconds() - 10.0 * step).abs() < 1e-9, "{picture:?}");
}

#[test]
fn forced_nodes_are_operations_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, report) = bench(folder.path(), &["--no-check", "--operation", "conv2d"]);
    let many = report.operations.iter().find(|o| o.nodes.len() > 1).expect("two convolutions are alike");
    let node = &many.nodes[1];
    let force = format!("node:{node}=naive");
    let (_, forced) = bench(folder.path(), &["--no-check", "--operation", "conv2d", "--force", &force]);
    let alone = forced.operations.iter().find(|o| o.nodes.contains(node)).expect("it is still there");
    assert_eq!((alone.nodes.len(), alone.variant.as_str(), alone.key()), (1, "naive", many.key()));
    let others = forced.operations.iter().find(|o| o.nodes.contains(&many.nodes[0])).expect("so are the others");
    assert_eq!((others.nodes.len(), &others.variant), (many.nodes.len() - 1, &many.variant));
}

#[test]
fn two_runs_are_compared_with_their_noise() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, before) = bench(folder.path(), &["--no-check", "--operation", "conv2d,linear"]);
    let (a, b) = (folder.path().join("a.json"), folder.path().join("b.json"));
    let diff = |more: &[&str]| {
        let files = [a.to_str().expect("UTF-8"), b.to_str().expect("UTF-8")];
        let output = unmist(&[&["bench", "diff"], &files[..], more].concat());
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    // Times whose noise is known: 1 ms ± 1 %.
    let steady = |seconds: f64| {
        unmist::measure::Samples::new((0..20).map(|i| seconds * (1.0 + 0.001 * (f64::from(i) - 9.5))).collect())
    };
    let mut before = before;
    before.operations.iter_mut().for_each(|o| o.seconds = steady(1e-3));
    before.step.as_mut().expect("a model has steps").seconds = steady(1e-2);
    write(&a, &before);

    write(&b, &before);
    let (ok, said) = diff(&["--fail-on-slower"]);
    let all = before.operations.len() + 1;
    assert!(ok && said.contains(&format!("0 faster, 0 slower, {all} the same")), "{said}");

    let mut after = before.clone();
    after.operations[0].seconds = steady(2e-3);
    after.operations[0].variant = "another".into();
    after.operations[1].seconds = steady(0.5e-3);
    after.operations[2].seconds = steady(1.005e-3); // less than matters
    let dropped = after.operations.pop().expect("there are several");
    write(&b, &after);
    let (ok, said) = diff(&[]);
    assert!(ok && said.contains(&format!("1 faster, 1 slower, {} the same", all - 3)), "{said}");
    let slower = said.lines().find(|line| line.starts_with("slower")).expect("one is");
    assert!(slower.contains(" 2.000 ") && slower.contains("now another"), "{said}");
    assert!(slower.contains("1.000 (0.995 to 1.004)") || slower.contains("1.000 (0.99"), "{said}");
    assert!(said.contains("only in") && said.contains(&dropped.operation), "{said}");
    let (ok, said) = diff(&["--fail-on-slower"]);
    assert!(!ok && said.contains("1 of"), "{said}");

    // A busy machine in one of the runs shows in its ceilings.
    assert!(!said.contains("warning"), "{said}");
    let copy = after.ceilings.copy.clone();
    after.ceilings.copy.work /= 2;
    write(&b, &after);
    let (ok, said) = diff(&[]);
    assert!(ok && said.contains("warning: the ceilings of the two runs are 100 % apart"), "{said}");
    after.ceilings.copy = copy;

    after.device = "another device".into();
    write(&b, &after);
    let (ok, said) = diff(&[]);
    assert!(!ok && said.contains("another device") && said.contains("--other-device"), "{said}");
    let (ok, said) = diff(&["--other-device"]);
    assert!(ok && said.contains("warning: ") && said.contains("1 slower"), "{said}");

    after.device = before.device.clone();
    after.operations.clear();
    after.step = None;
    write(&b, &after);
    let (ok, said) = diff(&[]);
    assert!(!ok && said.contains("in common"), "{said}");
}

#[test]
fn damaged_runs_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, report) = bench(folder.path(), &["--no-check", "--operation", "conv2d"]);
    let sound = std::fs::read_to_string(folder.path().join("a.json")).expect("it was written");
    let bad = folder.path().join("bad.json");
    let operation = &report.operations[0];
    let seconds = serde_json::to_string(&operation.seconds).expect("plain data");
    for (damaged, part) in [
        (sound[..sound.len() / 2].to_owned(), "EOF"),
        ("[1, 2]".to_owned(), "no field `format`"),
        (sound.replace("unmist bench 1", "unmist bench 9"), "unmist bench 9"),
        (sound.replace("\"nodes\"", "\"knots\""), "knots"),
        (sound.replace(&seconds, "[]"), "no samples"),
        (sound.replace(&seconds, "[1.0, -2.0]"), "no time"),
        (sound.replace("\"operations\":[", "\"operations\":[3,"), "3"),
    ] {
        assert_ne!(damaged, sound, "{part}");
        std::fs::write(&bad, damaged).expect("writes");
        let (a, b) = (folder.path().join("a.json"), bad.to_str().expect("UTF-8"));
        let output = unmist(&["bench", "diff", a.to_str().expect("UTF-8"), b]);
        let message = text(&output.stderr);
        assert!(!output.status.success() && !message.contains("panicked"), "{message}");
        assert!(message.contains(b) && message.contains(part), "expected «{part}» in {message}");
    }
    let nothing = tempfile::tempdir().expect("a folder");
    fails(&["bench", "diff", "none.json", "none.json"], &["io: none.json"], nothing.path());
}

#[test]
fn what_bench_cannot_do_is_said_before_anything_is_timed() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("x");
    let (out, gone) = (out.to_str().expect("UTF-8"), folder.path().join("none/x.json"));
    let fails = |args: &[&str], parts: &[&str]| fails(&[&["bench"], args].concat(), parts, folder.path());
    fails(&["--operation", "conv"], &["--operation conv", "conv2d"]);
    fails(&["--operation", "randn"], &["--operation randn", "none in a step"]);
    fails(&["--seconds", "NaN"], &["--seconds"]);
    fails(&["--runs", "0"], &["--runs"]);
    fails(&["--picture", "0"], &["--picture"]);
    fails(&["--json", out, "--csv", out], &["one file"]);
    fails(&["--json", gone.to_str().expect("UTF-8")], &["none", "does not exist"]);
    fails(&["--device", "reference"], &["no adapter"]);
    fails(&["--preset", "sd15", "--model", "x"], &["--preset", "--model"]);
    fails(&["--preset", "sd15", "--force", "conv=naive"], &["--force conv=naive"]);
}
