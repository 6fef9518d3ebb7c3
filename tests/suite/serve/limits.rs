//! Who may ask, and how much.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{PROMPT, Running, ask, options};

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn only_those_who_call_it_by_its_name() {
    let server = Running::new(unmist::serve::Options { allowed_hosts: vec!["fox.example".into()], ..options() });
    let port = server.address.port();
    let get = |host: &str| ask(server.address, "GET", "/v1/models", &[("host", host)], b"").status;
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), "fox.example".to_owned()] {
        assert_eq!(get(&host), 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", ""] {
        assert_eq!(get(host), 403, "{host}");
    }
    // Probes may.
    assert_eq!(ask(server.address, "GET", "/health/live", &[("host", "10-0-0-1.pod.local")], b"").status, 200);
}

#[test]
fn pages_from_elsewhere_are_kept_out() {
    let allowed = "https://fox.example";
    let server = Running::new(unmist::serve::Options { cors_origins: vec![allowed.into()], ..options() });
    let own = format!("http://{}", server.address);
    let post = |origin: &str| {
        let headers = [JSON, ("origin", origin)];
        ask(server.address, "POST", "/v1/jobs", &headers, br#"{"prompt": ["a"], "stepz": 0}"#)
    };
    assert_eq!(post(&own).status, 400, "the server's own page is heard");
    let answer = post(allowed);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.headers["access-control-allow-origin"], allowed);
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    for origin in ["https://evil.example", "null", "http://localhost:1"] {
        let answer = post(origin);
        assert_eq!(answer.status, 403, "{origin}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{origin}");
    }
    let asks = |origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        ask(server.address, "OPTIONS", "/v1/jobs", &headers, b"")
    };
    assert_eq!((asks(allowed).status, asks("https://evil.example").status), (204, 403));
    // A form that a page elsewhere could send unasked.
    let headers = [("content-type", "text/plain")];
    assert_eq!(ask(server.address, "POST", "/v1/jobs", &headers, b"{}").status, 415);
    let headers = [("content-type", "multipart/form-data; boundary=x"), ("sec-fetch-site", "cross-site")];
    assert_eq!(ask(server.address, "POST", "/v1/images/edits", &headers, b"").status, 403);
}

#[test]
fn a_key_opens() {
    let server = Running::new(unmist::serve::Options { api_key: Some("geheim".into()), ..options() });
    let get = |headers: &[(&str, &str)]| ask(server.address, "GET", "/v1/models", headers, b"");
    assert_eq!(get(&[("authorization", "Bearer geheim")]).status, 200);
    assert_eq!(get(&[("authorization", "Basic YW55OmdlaGVpbQ==")]).status, 200);
    for wrong in [&[][..], &[("authorization", "Bearer geheimer")], &[("authorization", "Basic !")]] {
        let answer = get(wrong);
        assert_eq!((answer.status, answer.headers["www-authenticate"].as_str()), (401, "Basic realm=\"unmist\""));
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
    }
    assert_eq!(ask(server.address, "GET", "/", &[], b"").status, 401);
    assert_eq!(ask(server.address, "GET", "/health/live", &[], b"").status, 200);
}

#[test]
fn every_answer_carries_what_protects_a_browser() {
    let server = Running::new(options());
    for (path, policy) in
        [("/", "script-src 'self'"), ("/v1/models", "default-src 'none'"), ("/none", "default-src 'none'")]
    {
        let headers = server.get(path).headers;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["x-frame-options"], "DENY", "{path}");
        assert!(headers["content-security-policy"].contains(policy), "{path}: {headers:?}");
        assert!(!headers["content-security-policy"].contains("unsafe-inline"), "{path}");
    }
    let named = ask(server.address, "GET", "/v1/models", &[("x-request-id", "fox-1")], b"");
    assert_eq!(named.headers["x-request-id"], "fox-1");
    let named = ask(server.address, "GET", "/v1/models", &[("x-request-id", "a b{}")], b"");
    assert_eq!(named.headers["x-request-id"].len(), 32, "only plain ones are repeated");
}

#[test]
fn bodies_and_pictures_have_an_end() {
    let limits = unmist::serve::Limits { body: 100_000, pixels: 64 * 64, ..Default::default() };
    let server = Running::new(unmist::serve::Options { limits, ..options() });
    let long = format!(r#"{{"prompt": ["{}"]}}"#, "x".repeat(100_000));
    assert_eq!(ask(server.address, "POST", "/v1/jobs", &[JSON], long.as_bytes()).status, 413);
    // A file of a few bytes that stands for a picture of 10⁹ pixels.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(30_000u32.to_be_bytes());
    png.extend(40_000u32.to_be_bytes());
    png.extend([8, 2, 0, 0, 0]);
    png.extend([0x3d, 0xb5, 0x40, 0x90]);
    let body = json!({"prompt": ["a"], "image": super::to_base64(&png)});
    let began = Instant::now();
    let answer = server.post("/v1/jobs", &body);
    assert!(answer.status == 400 && began.elapsed() < Duration::from_secs(2), "{}", answer.text());
    // The model's own size counts, too.
    let wide = json!({"prompt": [PROMPT], "width": 64, "height": 72});
    assert_eq!(server.post("/v1/jobs", &wide).json()["error"]["field"], "width");
    // Nesting that a parser could fall into.
    let deep = "[".repeat(50_000);
    assert_eq!(ask(server.address, "POST", "/v1/jobs", &[JSON], deep.as_bytes()).status, 400);
}

#[test]
fn silent_and_broken_clients_cost_nothing() {
    let server = Running::new(options());
    let mut open = Vec::new();
    for start in
        ["", "POST /v1/jobs HTTP/1.1\r\n", "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{"]
    {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(server.address).expect("it listens");
            stream.write_all(start.as_bytes()).expect("it reads");
            open.push(stream);
        }
    }
    for garbage in [&b"\0\0\0\0\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", &[0xff; 4096]] {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        let _ = stream.write_all(garbage);
    }
    assert_eq!(server.get("/health/ready").status, 200, "others are answered meanwhile");
    let body = json!({"prompt": PROMPT, "num_inference_steps": 2});
    server.post("/v1/images/generations", &body).good();
}
