//! Many at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::{PROMPT, Running, from_base64, options, pixels, receive, send};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn body(seed: usize, steps: usize) -> String {
    json!({"prompt": PROMPT, "num_inference_steps": steps, "seed": seed}).to_string()
}

/// 100 requests of five kinds by 16 clients; those that are alike and wait may be done at once. Every answer is the
/// one that the request has by itself.
#[test]
fn each_gets_its_own_picture() {
    let alone = Running::new(unmist::serve::Options { batch: 1, ..options() });
    let expected: BTreeMap<usize, _> = (0..5)
        .map(|seed| {
            let body = json!({"prompt": PROMPT, "num_inference_steps": 2, "seed": seed});
            let answer = alone.post("/v1/images/generations", &body).good().json();
            (seed, pixels(&from_base64(answer["data"][0]["b64_json"].as_str().unwrap())))
        })
        .collect();
    let steps_alone = alone.counter("unmist_steps_total");
    assert_eq!(steps_alone, 10.0);

    let server = Running::new(options());
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= 100 {
                        return;
                    }
                    let stream =
                        send(server.address, "POST", "/v1/images/generations", &JSON, body(n % 5, 2).as_bytes());
                    let answer = receive(stream);
                    let right = answer.status == 200 && {
                        let json = answer.json();
                        pixels(&from_base64(json["data"][0]["b64_json"].as_str().unwrap())) == expected[&(n % 5)]
                    };
                    if !right {
                        wrong.lock().unwrap().push((n, answer.status));
                    }
                }
            });
        }
    });
    assert_eq!(*wrong.lock().unwrap(), [], "request, status");
    assert_eq!(server.counter("unmist_images_total"), 100.0);
    let steps = server.counter("unmist_steps_total");
    assert!(steps <= 120.0, "{steps} steps for 100 requests of 2: those that waited were not made at once");
}

#[test]
fn more_than_may_wait_are_turned_away() {
    let server = Running::new(unmist::serve::Options { queue: 3, ..options() });
    let long = send(server.address, "POST", "/v1/images/generations", &JSON, body(1, 300).as_bytes());
    server.until("it runs", |server| server.counter("unmist_requests_running") == 1.0);
    let waiting: Vec<_> = (0..3)
        .map(|i| {
            let stream = send(server.address, "POST", "/v1/images/generations", &JSON, body(i, 2).as_bytes());
            server.until("it waits", |server| server.counter("unmist_requests_waiting") == (i + 1) as f64);
            stream
        })
        .collect();
    assert_eq!(server.get("/health/ready").status, 503, "a balancer goes elsewhere");
    let turned = receive(send(server.address, "POST", "/v1/images/generations", &JSON, body(1, 2).as_bytes()));
    assert_eq!((turned.status, turned.headers["retry-after"].as_str()), (429, "5"));
    assert_eq!(turned.json()["error"]["type"], "rate_limit_error");
    // Its client leaves: the others have their turn.
    drop(long);
    for stream in waiting {
        receive(stream).good();
    }
    assert_eq!(server.counter("unmist_jobs_total{status=\"cancelled\"}"), 1.0);
    assert_eq!(server.get("/health/ready").status, 200);
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let server = Running::new(options());
    for i in 0..40 {
        let path = ["/v1/images/generations", "/sdapi/v1/txt2img"][i % 2];
        let body = json!({"prompt": PROMPT, "steps": 300, "num_inference_steps": 300, "seed": i}).to_string();
        let stream = send(server.address, "POST", path, &JSON, body.as_bytes());
        if i % 8 == 0 {
            server.until("it runs", |server| server.counter("unmist_requests_running") > 0.0);
        }
        drop(stream);
    }
    server.until("nothing is left", |server| {
        let [running, waiting] = ["running", "waiting"].map(|what| server.counter(&format!("unmist_requests_{what}")));
        running + waiting == 0.0
    });
    assert!(server.counter("unmist_steps_total") < 200.0);
    let answer = receive(send(server.address, "POST", "/v1/images/generations", &JSON, body(1, 2).as_bytes()));
    assert_eq!(answer.status, 200, "{}", answer.text());
}
