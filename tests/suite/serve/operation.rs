//! What those who run a server rely on.

use std::time::{Duration, Instant};

use serde_json::json;
use unmist::Error;
use unmist::gpu::{Checks, GpuDevice, select_adapter};

use super::{PROMPT, Running, events, from_base64, options, pixels, receive, send};

/// The device under test, opened anew.
fn device() -> GpuDevice {
    let selector = std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into());
    let (_, adapter) = select_adapter(&selector).expect("a name").expect("an adapter");
    GpuDevice::open(adapter, Checks::Off).expect("it opens")
}

#[test]
fn the_second_request_of_a_model_loads_nothing() {
    // A device of its own: what other tests send to theirs would count.
    let server = Running::on(device(), options());
    let body = json!({"prompt": PROMPT, "num_inference_steps": 2, "seed": 1});
    let first = server.post("/v1/images/generations", &body).good().json();
    let uploaded = server.counter("unmist_uploaded_bytes_total");
    let second = server.post("/v1/images/generations", &body).good().json();
    assert_eq!(first["data"], second["data"]);
    assert_eq!(server.counter("unmist_uploaded_bytes_total"), uploaded, "nothing is sent to the device again");
    assert_eq!(server.counter("unmist_model_loaded{model=\"emoji-64\"}"), 1.0);
    assert_eq!(server.counter("unmist_images_total"), 2.0);
    assert_eq!(server.counter("unmist_requests_total{route=\"/v1/images/generations\",code=\"200\"}"), 2.0);
}

#[test]
fn models_give_way_to_others_where_memory_is_short() {
    let text = json!({"prompt": PROMPT, "num_inference_steps": 2, "seed": 1});
    let class = json!({"model": "ddpm-fashion-32", "class": [7], "steps": 2, "seed": [1]});
    let run = |server: &Running, limit: u64| {
        let mut pictures = Vec::new();
        for _ in 0..2 {
            let answer = server.post("/v1/images/generations", &text).good().json();
            pictures.push(from_base64(answer["data"][0]["b64_json"].as_str().expect("a picture")));
            pictures.push(server.job(&class));
            let held = server.counter("unmist_device_memory_bytes");
            assert!(held <= limit as f64, "{held} bytes of {limit}");
        }
        (pictures.iter().map(|file| pixels(file)).collect::<Vec<_>>(), server.counter("unmist_uploaded_bytes_total"))
    };
    let roomy = Running::on(device(), options());
    let (expected, uploaded) = run(&roomy, u64::MAX);
    // Room for either of them, not for both.
    let held = roomy.counter("unmist_device_memory_bytes");
    let limit = held as u64 * 19 / 20;
    let server = Running::within(device(), options(), Some(limit));
    let (pictures, again) = run(&server, limit);
    assert!(pictures == expected, "they are the same pictures");
    assert!(again > uploaded, "{again} bytes sent within {limit}, {uploaded} where there is room");
    assert!(server.counter("unmist_evicted_bytes_total") > roomy.counter("unmist_evicted_bytes_total"));
}

#[test]
fn counters_are_what_prometheus_reads() {
    let server = Running::new(options());
    server.get("/no/such\"thing").body.clear();
    let text = server.get("/metrics").good().text();
    let mut kinds = std::collections::BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            value.parse::<f64>().expect("a number");
            let name = series.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(kinds.contains_key(name) || kinds.get(base).is_some_and(|kind| kind == "histogram"), "{line}");
        }
    }
    assert!(text.contains("route=\"other\",code=\"404\""), "clients make no new series: {text}");
}

#[test]
fn it_ends_in_good_order() {
    let server = Running::new(options());
    let json = [("content-type", "application/json")];
    let body = json!({"prompt": PROMPT, "num_inference_steps": 30, "seed": 1}).to_string();
    let running = send(server.address, "POST", "/v1/images/generations", &json, body.as_bytes());
    server.until("it runs", |server| server.counter("unmist_requests_running") == 1.0);
    let waiting = json!({"prompt": PROMPT, "num_inference_steps": 31, "seed": 1}).to_string();
    let waiting = send(server.address, "POST", "/v1/images/generations", &json, waiting.as_bytes());
    let watched = send(server.address, "POST", "/v1/jobs", &json, br#"{"prompt": ["a"], "steps": 29}"#);
    let id = receive(watched).json()["id"].as_str().expect("a name").to_owned();
    let watched = send(server.address, "GET", &format!("/v1/jobs/{id}/events"), &[], b"");
    server.until("two wait", |server| server.counter("unmist_requests_waiting") == 2.0);
    server.stop();
    // What runs is finished, what waits is turned away to come again elsewhere, streams end.
    let turned = receive(waiting);
    assert_eq!((turned.status, turned.headers["retry-after"].as_str()), (503, "5"), "{}", turned.text());
    assert_eq!(events(&receive(watched)).last().expect("an end").0, "cancelled");
    assert_eq!(receive(running).good().json()["data"].as_array().unwrap().len(), 1);
    server.ended().expect("a good end");
}

#[test]
fn too_long_a_job_does_not_hold_the_end_up() {
    let server = Running::new(unmist::serve::Options { drain_timeout: Duration::from_millis(300), ..options() });
    let json = [("content-type", "application/json")];
    let body = json!({"prompt": PROMPT, "num_inference_steps": 500}).to_string();
    let running = send(server.address, "POST", "/v1/images/generations", &json, body.as_bytes());
    server.until("it runs", |server| server.counter("unmist_requests_running") == 1.0);
    let began = Instant::now();
    server.stop();
    server.ended().expect("a good end");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(running);
}

#[test]
fn a_lost_device_ends_the_server() {
    let device = device();
    let server = Running::on(device.clone(), options());
    let make = |steps: usize, seed: usize| {
        let body = json!({"prompt": PROMPT, "num_inference_steps": steps, "seed": seed}).to_string();
        let json = [("content-type", "application/json")];
        send(server.address, "POST", "/v1/images/generations", &json, body.as_bytes())
    };
    // Two that are alike come up together.
    let first = make(300, 0);
    server.until("it runs", |server| server.counter("unmist_steps_total") > 1.0);
    let (running, waiting) = (make(400, 1), make(400, 2));
    server.until("two wait", |server| server.counter("unmist_requests_waiting") == 2.0);
    drop(first);
    server.until("the first is gone", |server| server.counter("unmist_jobs_total{status=\"cancelled\"}") == 1.0);
    let steps = server.counter("unmist_steps_total");
    server.until("the next one runs", |server| server.counter("unmist_steps_total") > steps + 2.0);
    device.destroy();
    let answer = receive(running);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (500, &json!("device")), "{}", answer.text());
    // On a device that makes both at once it has the first one's end.
    let answer = receive(waiting);
    assert!([500, 503].contains(&answer.status), "{}", answer.text());
    assert!(matches!(server.ended(), Err(Error::Device(_))), "the process ends with an error");
}

#[test]
fn everything_is_saved_where_that_is_wanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::new(unmist::serve::Options { save: Some(folder.path().to_owned()), ..options() });
    let body = json!({"prompt": PROMPT, "num_inference_steps": 2, "n": 2});
    server.post("/v1/images/generations", &body).good();
    let saved = std::fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(saved, 2);
}
