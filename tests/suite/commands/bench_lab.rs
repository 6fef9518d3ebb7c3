//! The kernel lab: `unmist bench --kernel`, `--node`, `--wgsl`, `--watch`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use unmist::measure::{Check, Report};

use super::usage::{fails, fixture, succeeds, text, unmist};

fn wgsl(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("wgsl").join(name);
    std::fs::read_to_string(path).expect("there is such a kernel")
}

#[test]
fn all_variants_of_an_operation_side_by_side() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("lab.json");
    let conv = ["bench", "--kernel", "conv2d", "--shape", "1x12x12x16,16x3x3x16,bias=16", "--seconds", "0"];
    let keep = ["--attributes", "activation=silu", "--json", json.to_str().expect("UTF-8")];
    let printed = succeeds(&[&conv[..], &keep].concat());
    assert!(printed.contains("the rules' choice") && printed.contains("contraction/1_naive"), "{printed}");
    let report: Report =
        serde_json::from_str(&std::fs::read_to_string(&json).expect("it was written")).expect("as the library has it");
    let variants: Vec<&str> = report.operations.iter().map(|o| o.variant.as_str()).collect();
    assert!(["registers", "vec4", "naive"].iter().all(|v| variants.contains(v)), "{variants:?}");
    assert!(report.operations.iter().all(|o| matches!(o.check, Check::Equal(_))), "{:?}", report.operations);
    assert!(report.operations.iter().all(|o| o.operation == "conv2d[windows stride=1,1 padding=1,1,1,1 silu]"));

    // One variant in every setting, in those with some number, and what it has not.
    let linear = ["bench", "--kernel", "linear", "--shape", "64x64,32x64", "--variant", "registers", "--no-check"];
    let settings = |knobs: &str| {
        let printed = succeeds(&[&linear[..], &["--knobs", knobs, "--seconds", "0"]].concat());
        printed.matches("registers [").count()
    };
    let (all, tile) = (settings("all"), settings("TILE=64"));
    assert!(all > tile && tile > 0, "{all} settings, {tile} of them with that tile");
    let nothing = tempfile::tempdir().expect("a folder");
    fails(&[&linear[..], &["--knobs", "TILE=3"]].concat(), &["can run here"], nothing.path());
}

#[test]
fn operations_of_every_kind_can_be_tried() {
    // Of their cases: with indices, with parameters that stay f32, with a seed, with a table.
    for operation in ["embedding", "rope", "randn", "masked_latents"] {
        let printed = succeeds(&["bench", "--kernel", operation, "--seconds", "0", "--precision", "f16"]);
        assert!(printed.contains("error ") && !printed.contains("WRONG"), "{operation}: {printed}");
    }
}

#[test]
fn a_node_of_a_model_is_tried_with_its_attributes() {
    let model = fixture("odd_channels");
    let model = model.to_str().expect("UTF-8");
    let printed = succeeds(&["bench", "--model", model, "--node", "conv_in", "--seconds", "0"]);
    assert!(printed.contains("conv2d[windows stride=1,1 padding=1,1,1,1]"), "{printed}");
    let nothing = tempfile::tempdir().expect("a folder");
    fails(&["bench", "--model", model, "--node", "conv_inn"], &["--node conv_inn", "conv_in"], nothing.path());
    fails(&["bench", "--variant", "naive"], &["--kernel OPERATION"], nothing.path());
    fails(&["bench", "--kernel", "conv"], &["--kernel conv", "conv2d"], nothing.path());
    fails(&["bench", "--kernel", "clamp", "--variant", "fast"], &["--variant fast", "naive"], nothing.path());
}

#[test]
fn ones_own_kernel_is_checked_and_timed_beside_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("own.wgsl");
    let file = own.to_str().expect("UTF-8");
    let clamp = ["bench", "--kernel", "clamp", "--seconds", "0", "--wgsl", file];
    let refused = |parts: &[&str]| {
        let output = unmist(&clamp);
        let message = text(&output.stderr);
        assert!(!output.status.success() && !message.contains("panicked"), "{message}");
        for part in parts {
            assert!(message.contains(part), "expected «{part}» in {message}");
        }
        assert!(!text(&output.stdout).contains("of its time"), "it was timed");
    };
    let sound = wgsl("clamp/naive.wgsl");

    // The same computed in another way.
    let other = sound.replace("clamp(decode_x(x[i]), vec4<f32>(p.low), vec4<f32>(p.high))", "OTHER");
    let other = other.replace("OTHER", "min(max(decode_x(x[i]), vec4<f32>(p.low)), vec4<f32>(p.high))");
    assert_ne!(other, sound);
    std::fs::write(&own, &other).expect("writes");
    let printed = succeeds(&clamp);
    assert!(printed.contains("ours; median") && printed.contains("of its time"), "{printed}");
    assert!(printed.matches("error ").count() >= 2, "both are checked: {printed}");

    // Wrong results, with the difference.
    std::fs::write(&own, sound.replace("p.low)", "p.high)")).expect("writes");
    refused(&[file, "in place of clamp/naive", "is wrong", "expected", "found"]);
    // A write outside the buffer.
    std::fs::write(&own, sound.replace("y[i] =", "y[i + 64u] =")).expect("writes");
    refused(&[file, "is wrong"]);

    // What does not compile: file and line as they are in the file, in front of everything that includes bring.
    let line = |text: &str, part: &str| 1 + text.lines().position(|l| l.contains(part)).expect("a line");
    let broken = sound.replace("let i = ", "let i == ");
    std::fs::write(&own, &broken).expect("writes");
    refused(&[&format!("{file}:{}: ", line(&broken, "let i ==")), "does not parse"]);
    let invalid = sound.replace("flat_index(workgroup,", "flat_index(local,");
    std::fs::write(&own, &invalid).expect("writes");
    refused(&[&format!("{file}:{}: ", line(&invalid, "flat_index(local"))]);
    std::fs::write(&own, sound.replace("low: f32", "least: f32").replace("p.low", "p.least")).expect("writes");
    refused(&[file, "in place of clamp/naive", "parameter"]);
    std::fs::write(&own, sound.replace("//!include flat_index", "//!include flat")).expect("writes");
    refused(&[file, "includes flat"]);
    std::fs::remove_file(&own).expect("it was written");
    refused(&["io: ", file]);
}

#[test]
fn which_kernel_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("mine.wgsl");
    std::fs::write(&own, wgsl("norm/naive.wgsl")).expect("writes");
    let norm = ["bench", "--kernel", "group_norm", "--shape", "1x4x4x32,32,32", "--attributes", "groups=4"];
    let naive = ["--seconds", "0", "--variant", "naive", "--wgsl", own.to_str().expect("UTF-8")];
    let norm = [&norm[..], &naive].concat();
    let message = text(&unmist(&norm).stderr);
    assert!(message.contains("--replaces") && message.contains("norm/naive_statistics"), "{message}");
    let printed = succeeds(&[&norm[..], &["--replaces", "norm/naive"]].concat());
    assert!(printed.contains("of its time"), "{printed}");
    let message = text(&unmist(&[&norm[..], &["--replaces", "norm/rows"]].concat()).stderr);
    assert!(message.contains("--replaces norm/rows") && message.contains("norm/naive"), "{message}");
    // By its name.
    let named = folder.path().join("naive.wgsl");
    std::fs::copy(&own, &named).expect("copies");
    let last = norm.len() - 1;
    let printed = succeeds(&[&norm[..last], &[named.to_str().expect("UTF-8")]].concat());
    assert!(printed.contains("of its time"), "{printed}");
}

/// A program that waits for files, which must not outlive its test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed then.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_watched_kernel_is_tried_whenever_it_is_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("own.wgsl");
    let sound = wgsl("clamp/naive.wgsl");
    std::fs::write(&own, &sound).expect("writes");
    let child = Command::new(env!("CARGO_BIN_EXE_unmist"))
        .args(["bench", "--kernel", "clamp", "--seconds", "0", "--watch", "--wgsl"])
        .arg(&own)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut running = Running(child);
    let child = &mut running.0;
    let (sender, lines) = mpsc::channel();
    let mut readers = Vec::new();
    let streams: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
    for stream in streams {
        let sender = sender.clone();
        readers.push(std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                drop(sender.send(line)); // the test may have failed already
            }
        }));
    }
    let wait_for = |part: &str| {
        let mut seen = Vec::new();
        loop {
            match lines.recv_timeout(Duration::from_secs(120)) {
                Ok(line) if line.contains(part) => return,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no «{part}» after {seen:#?}"),
            }
        }
    };
    wait_for("of its time");
    wait_for("waiting until it is saved");
    std::fs::write(&own, sound.replace("p.low)", "p.high)")).expect("writes");
    // Errors go to another stream than the rest: which comes first is not certain.
    wait_for("is wrong");
    std::fs::write(&own, sound.replace("let i = ", "let i == ")).expect("writes");
    wait_for("does not parse");
    // As editors save: another file takes its name.
    let next = folder.path().join("next.wgsl");
    std::fs::write(&next, sound.replace("// clamp,", "// clamp of my own,")).expect("writes");
    std::fs::rename(&next, &own).expect("renames");
    wait_for("of its time");
    wait_for("waiting until it is saved");
    assert!(child.try_wait().expect("it can be asked").is_none(), "it still waits");
    drop(running);
    readers.into_iter().for_each(|reader| reader.join().expect("nothing panics"));
}
