//! `--trace`: the record of a run is whole and sound, and does not change the picture.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use unmist::checkpoint::Tensors;

use crate::commands::sample::Folder;
use crate::commands::usage::{fails, fixture, shipped, succeeds, text};

const STEPS: usize = 3;
/// Nanoseconds that an end may be off: begin and length are rounded to whole ones, each by itself.
const ROUNDING: i64 = 2;

fn device() -> String {
    std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into())
}

fn events(path: impl AsRef<Path>) -> (Vec<Value>, Value) {
    let text = std::fs::read_to_string(path).expect("it was written");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    let about = json["otherData"].take();
    let Value::Array(events) = json["traceEvents"].take() else { panic!("no list of events") };
    (events, about)
}

/// Begin and end, in whole nanoseconds.
fn ends(event: &Value) -> (i64, i64) {
    let [start, length] = ["ts", "dur"].map(|key| (1e3 * event[key].as_f64().expect("a number")).round() as i64);
    assert!(length >= 0, "{event}");
    (start, start + length)
}

/// Fails unless spans of a track lie one in or beside the other.
fn check_nesting(spans: &[&Value], may_nest: bool) {
    let mut spans: Vec<_> = spans.iter().map(|event| (ends(event), &event["name"])).collect();
    spans.sort_by_key(|((start, end), _)| (*start, -*end));
    let mut open: Vec<((i64, i64), &Value)> = Vec::new();
    for (span, name) in spans {
        open.retain(|((_, end), _)| *end > span.0 + ROUNDING);
        if let Some((outer, outside)) = open.last() {
            assert!(may_nest, "{name} {span:?} begins in {outside} {outer:?}");
            assert!(span.1 <= outer.1 + ROUNDING, "{name} {span:?} begins in {outside} {outer:?} and ends behind it");
        }
        open.push((span, name));
    }
}

/// The record of a run, and the picture with it and without.
#[test]
fn every_launch_of_every_step_is_there() {
    let folder = Folder::new();
    let (trace, traced, plain) = (folder.path("t.json"), folder.path("traced.png"), folder.path("plain.png"));
    let (model, device, steps) = (shipped(), device(), STEPS.to_string());
    let model = model.to_str().expect("UTF-8");
    let args = ["sample", "--model", model, "--steps", &steps, "--device", &device, "--tuned", "off", "--output"];
    succeeds(&[&args[..], &[&plain]].concat());
    let output = Command::new(env!("CARGO_BIN_EXE_unmist"))
        .args([&args[..], &[&traced, "--trace", &trace]].concat())
        .output()
        .expect("the binary runs");
    let message = text(&output.stderr);
    assert!(output.status.success() && message.contains("trace: the device's clock"), "{message}");
    let pixels = |path: &str| unmist::image_io::read(path, 1).expect("a picture").data;
    assert_eq!(pixels(&traced), pixels(&plain), "a recorded run makes another picture");

    let (events, about) = events(&trace);
    assert!(about["notes"][0].as_str().is_some_and(|note| note.contains("µs")), "{about}");
    let spans: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    let mut tracks: BTreeMap<(u64, u64), Vec<&Value>> = BTreeMap::new();
    for span in &spans {
        let id = |key: &str| span[key].as_u64().expect("a number");
        tracks.entry((id("pid"), id("tid"))).or_default().push(span);
    }
    tracks.iter().for_each(|((process, _), spans)| check_nesting(spans, *process == 1));
    let named = |name: &str| spans.iter().filter(|span| span["name"] == name).count();
    for name in ["open the models", "resolve the settings", "open the device", "plan", "compile", "upload", "encode"] {
        assert!(named(name) > 0, "no span {name}");
    }
    for name in ["submit", "wait", "decode", "write the pictures"] {
        assert!(named(name) > 0, "no span {name}");
    }
    assert_eq!(named("step"), STEPS);

    // The U-Net runs alone in a step, so that each of its launches by the plan is there once a step.
    let inspect = ["inspect", "--model", model, "--component", "unet", "--json", "--tuned", "off", "--device", &device];
    let plan = succeeds(&inspect);
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    let launches: Vec<&Value> = spans.iter().copied().filter(|span| span["pid"] == 2).collect();
    let of_steps = launches.iter().filter(|span| span["args"]["rate"] == "step");
    let planned = plan["plan"].as_array().expect("a list").iter().filter(|launch| launch["rate"] == "step");
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    for launch in planned {
        *expected.entry(format!("{} {}", launch["node"], launch["kernel"])).or_default() += STEPS;
    }
    assert!(expected.len() > 20);
    for (key, count) in expected {
        let found = of_steps.clone().filter(|span| format!("{} {}", span["args"]["node"], span["name"]) == key).count();
        assert_eq!(found, count, "{key}");
    }
    for launch in &launches {
        let args = &launch["args"];
        assert!(args["workgroups"].as_array().is_some_and(|groups| groups.len() == 3), "{launch}");
        assert!(["GFLOP", "GB"].iter().all(|key| args[key].as_f64().is_some_and(|value| value >= 0.0)), "{launch}");
        assert!(args["variant"].is_string(), "{launch}");
    }
    // Both clocks agree: what the device does in a run lies between its beginning and its end.
    let host: Vec<_> = tracks.iter().filter(|((process, _), _)| *process == 1).flat_map(|(_, spans)| spans).collect();
    let (first, last) = (host.iter().map(|s| ends(s).0).min(), host.iter().map(|s| ends(s).1).max());
    let (first, last) = (first.expect("there are spans"), last.expect("there are spans"));
    assert!(launches.iter().all(|span| ends(span).0 >= first && ends(span).1 <= last), "{first} to {last}");
}

#[test]
fn without_a_device_the_host_is_recorded() {
    let folder = Folder::new();
    let (trace, out) = (folder.path("t.json"), folder.path("out.png"));
    let model = shipped();
    let args = ["sample", "--model", model.to_str().expect("UTF-8"), "--steps", "2", "--device", "reference"];
    succeeds(&[&args[..], &["--output", &out, "--trace", &trace]].concat());
    let (events, _) = events(&trace);
    assert!(events.iter().any(|event| event["name"] == "step"));
    assert!(!events.iter().any(|event| event["pid"] == 2));
}

#[test]
fn a_pass_of_one_component_is_recorded() {
    let folder = Folder::new();
    let (trace, out, input) = (folder.path("t.json"), folder.path("out.safetensors"), folder.path("in.safetensors"));
    let (model, device) = (fixture("class_table"), device());
    let io = Tensors::open(model.join("io.safetensors")).expect("the fixture is there");
    let inputs: Vec<_> = io.names().filter(|n| *n != "out").map(|n| (n, io.read_f32(n).expect("sound"))).collect();
    let listed: Vec<_> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    let mut file = std::fs::File::create(&input).expect("writable");
    unmist::checkpoint::safetensors::write(&mut file, &listed, &Default::default()).expect("writes");
    let model = model.to_str().expect("UTF-8");
    let args = ["run", "--model", model, "--input", &input, "--device", &device, "--output"];
    succeeds(&[&args[..], &[&out, "--trace", &trace]].concat());
    let output =
        Command::new(env!("CARGO_BIN_EXE_unmist")).args([&args[..], &[&out, "--trace", &out]].concat()).output();
    let message = text(&output.expect("the binary runs").stderr);
    assert!(message.contains("would be overwritten; give another name"), "{message}");
    Tensors::open(&out).expect("the results of the run before");
    let (events, _) = events(&trace);
    assert!(events.iter().any(|event| event["pid"] == 2 && event["args"]["node"].is_string()));
    assert!(events.iter().any(|event| event["name"] == "write the results"));
}

#[test]
fn a_record_overwrites_nothing_of_the_run() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let out = empty.path().join("out.png");
    let (model, out) = (shipped(), out.to_str().expect("UTF-8"));
    let args = ["sample", "--model", model.to_str().expect("UTF-8"), "--steps", "2", "--device", "reference"];
    let same = [&args[..], &["--output", out, "--trace", out]].concat();
    fails(&same, &["--output and --trace name the same file"], empty.path());
    let nowhere = [&args[..], &["--output", out, "--trace", "/no/such/folder/t.json"]].concat();
    fails(&nowhere, &["/no/such/folder"], empty.path());
}
