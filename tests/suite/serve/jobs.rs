//! The server's own API.

use serde_json::{Value, json};
use unmist::request::Request;

use super::{PROMPT, Running, ask, by_command, events, options, pixels, start, to_base64};

fn create(server: &Running, body: &Value) -> String {
    let answer = server.post("/v1/jobs", body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.json()["id"].as_str().expect("a name").to_owned();
    assert_eq!(answer.headers["location"], format!("/v1/jobs/{id}"));
    id
}

#[test]
fn a_job_is_a_request_watched_and_fetched() {
    let server = Running::new(options());
    let id = create(&server, &json!({"prompt": [PROMPT, "a fox"], "steps": 4, "seed": [1, 2]}));
    let all = events(&server.get(&format!("/v1/jobs/{id}/events?preview_every=2")).good());
    let (last, before) = all.split_last().expect("events");
    let steps: Vec<_> = before.iter().filter(|(name, _)| name == "step").map(|(_, data)| &data["step"]).collect();
    assert!(steps.windows(2).all(|pair| pair[0].as_u64() < pair[1].as_u64()), "{steps:?}");
    assert!(before.iter().any(|(name, data)| name == "preview" && data["image"].as_str().unwrap().len() > 1000));
    assert_eq!(last.0, "finished", "{}", last.1);
    let job = server.get(&format!("/v1/jobs/{id}")).good().json();
    assert_eq!((&job["status"], &job["step"], &job["steps"]), (&json!("finished"), &json!(4), &json!(4)));
    assert_eq!(job["settings"]["guidance_scale"], json!([1.5]), "what the model's files recommend");
    assert_eq!(job["pictures"].as_array().unwrap().len(), 2);
    for (i, (prompt, seed)) in [(PROMPT, "1"), ("a fox", "2")].into_iter().enumerate() {
        let url = job["pictures"][i]["url"].as_str().unwrap();
        let expected = by_command(&[prompt, "--steps", "4", "--seed", seed]);
        for (format, kind) in [("", "image/png"), ("?format=webp", "image/webp"), ("?format=jpeg", "image/jpeg")] {
            let file = server.get(&format!("{url}{format}")).good();
            assert_eq!(file.headers["content-type"], kind);
            let exact = kind == "image/jpeg" || pixels(&file.body) == expected;
            assert!(exact, "{prompt} as {kind}");
            // The file says how it was made, to this server and to the command line.
            let told = ask(server.address, "POST", "/v1/settings", &[("content-type", kind)], &file.body).good().json();
            let request: Request = serde_json::from_value(told["request"].clone()).expect("a request");
            assert_eq!((request.seed, request.steps), (vec![1, 2], Some(4)), "{told}");
        }
    }
    assert_eq!(server.get(&format!("/v1/jobs/{id}/pictures/2")).status, 404);
    assert_eq!(server.delete(&format!("/v1/jobs/{id}")).status, 204);
    assert_eq!(server.get(&format!("/v1/jobs/{id}")).status, 404, "it is forgotten");
}

#[test]
fn classes_and_pictures_to_begin_with() {
    let server = Running::new(options());
    let finished = |body: &Value| {
        let id = create(&server, body);
        let all = events(&server.get(&format!("/v1/jobs/{id}/events")).good());
        assert_eq!(all.last().unwrap().0, "finished", "{all:?}");
        pixels(&server.get(&format!("/v1/jobs/{id}/pictures/0")).good().body)
    };
    let clothes = finished(&json!({"model": "ddpm-fashion-32", "class": [7], "steps": 3, "seed": [5]}));
    assert_eq!(clothes, by_command(&["--class", "7", "--steps", "3", "--seed", "5"]));
    let folder = tempfile::tempdir().expect("a folder");
    let (path, file) = start(&folder);
    let image = format!("data:image/png;base64,{}", to_base64(&file));
    let changed = finished(&json!({"prompt": [PROMPT], "image": image, "strength": 0.5, "steps": 4, "seed": [9]}));
    let own = ["--image", path.to_str().unwrap(), "--strength", "0.5", "--steps", "4", "--seed", "9"];
    assert_eq!(changed, by_command(&[&[PROMPT][..], &own].concat()));
}

#[test]
fn a_job_is_stopped_within_a_step_and_frees_what_it_held() {
    let server = Running::new(options());
    let body = json!({"prompt": [PROMPT], "steps": 400, "seed": [1]});
    let first = create(&server, &body);
    let second = create(&server, &json!({"prompt": [PROMPT], "steps": 399, "seed": [1]}));
    server.until("the first runs", |server| server.get(&format!("/v1/jobs/{first}")).json()["step"].as_u64() > Some(1));
    let waiting = server.get(&format!("/v1/jobs/{second}")).json();
    assert_eq!((&waiting["status"], &waiting["position"]), (&json!("queued"), &json!(0)));
    // One that waits goes at once, one that runs within a step.
    assert_eq!(server.delete(&format!("/v1/jobs/{second}")).status, 204);
    assert_eq!(server.counter("unmist_requests_waiting"), 0.0);
    let steps = server.counter("unmist_steps_total");
    assert_eq!(server.delete(&format!("/v1/jobs/{first}")).status, 204);
    server.until("nothing runs", |server| server.counter("unmist_requests_running") == 0.0);
    assert!(server.counter("unmist_steps_total") <= steps + 3.0);
    assert_eq!(server.counter("unmist_jobs_total{status=\"cancelled\"}"), 1.0);
}

#[test]
fn what_is_not_a_request_is_refused_by_name() {
    let server = Running::new(options());
    for (body, field, part) in [
        (json!({"prompt": ["a"], "stepz": 3}), "stepz", "no field"),
        (json!({"prompt": "a"}), "prompt", "sequence"),
        (json!({"prompt": ["a"], "steps": "many"}), "steps", "usize"),
        (json!({"prompt": ["a"], "unet": "/etc/passwd"}), "unet", "does not take"),
        (json!({"prompt": ["a"], "latents": "x.safetensors"}), "latents", "does not take"),
        (json!({"prompt": ["a"], "lora_dir": "/"}), "lora_dir", "does not take"),
        (json!({"prompt": ["a"], "device": {"device": "reference"}}), "device", "one device"),
        (json!({"prompt": ["a"], "lora": ["../../x"]}), "lora", "this server has none"),
        (json!({"prompt": ["a"], "image": "https://example.org/a.png"}), "image", "not fetched"),
        (json!({"prompt": ["a"], "image": to_base64(b"GIF89a")}), "image", "expected a PNG"),
        (json!({"prompt": ["a"], "batch_size": 17}), "batch_size", "16"),
        (json!({"prompt": ["x".repeat(20_001)]}), "prompt", "20000"),
        (json!({"prompt": ["a"], "width": 1e6 as u64}), "width", "pixels"),
    ] {
        let answer = server.post("/v1/jobs", &body);
        let shown: String = body.to_string().chars().take(200).collect();
        assert!((400..500).contains(&answer.status), "{shown}: {} {}", answer.status, answer.text());
        let error = &answer.json()["error"];
        assert!(error["field"] == field, "{shown}: {error}");
        assert!(error["message"].as_str().unwrap_or_default().contains(part), "{shown}: {error}");
    }
    // What only the model can tell comes with the job.
    let id = create(&server, &json!({"prompt": [PROMPT], "class": [3], "steps": 2}));
    let all = events(&server.get(&format!("/v1/jobs/{id}/events")).good());
    let (name, data) = all.last().expect("an end");
    assert_eq!((name.as_str(), &data["error"]["field"]), ("failed", &json!("class")), "{data}");
}
