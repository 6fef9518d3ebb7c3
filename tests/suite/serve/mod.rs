//! `unmist serve`: three APIs that make the same pictures as the command line, and a server that nobody can hurt.

mod command;
mod inside;
mod jobs;
mod limits;
mod load;
mod openai;
mod openapi;
mod operation;
mod page;
mod web;
mod webui;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use serde_json::Value;
use unmist::Result;
use unmist::backend::{Device, LoadOptions};
use unmist::gpu::{Checks, GpuDevice};
use unmist::image_io::{Picture, decode};
use unmist::plan::PlanOptions;
use unmist::serve::{LogFormat, Options, Server, Stop};

use crate::device::gpu;

pub const PROMPT: &str = "a 3d red apple, blue background";

/// A server in this process, on the device under test, as users run it.
pub struct Running {
    pub address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<Result<()>>>,
}

pub fn options() -> Options {
    Options { port: 0, log: LogFormat::Off, ..Options::default() }
}

impl Running {
    pub fn new(options: Options) -> Self {
        Self::on(gpu().with_checks(Checks::Off), options)
    }

    pub fn on(device: GpuDevice, options: Options) -> Self {
        Self::within(device, options, None)
    }

    /// A server that may use so many bytes of the device's memory.
    pub fn within(device: GpuDevice, options: Options, max_memory_bytes: Option<u64>) -> Self {
        let plan = PlanOptions { max_memory_bytes, ..PlanOptions::default() };
        let load = LoadOptions { plan, ..LoadOptions::default() };
        let server = Server::new(options, Device::Gpu(device), load).expect("it listens");
        let (address, stop) = (server.address(), server.stopper());
        Self { address, stop, thread: Some(std::thread::spawn(move || server.run())) }
    }

    /// Tells it to end.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Waits until it has ended.
    pub fn ended(mut self) -> Result<()> {
        self.thread.take().expect("it is joined once").join().expect("it does not panic")
    }

    pub fn get(&self, path: &str) -> Answer {
        ask(self.address, "GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        ask(self.address, "POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Answer {
        ask(self.address, "DELETE", path, &[], b"")
    }

    /// The first picture of a job, as PNG.
    pub fn job(&self, body: &Value) -> Vec<u8> {
        let job = self.post("/v1/jobs", body).good().json()["id"].as_str().expect("an id").to_owned();
        self.get(&format!("/v1/jobs/{job}/events")).good();
        self.get(&format!("/v1/jobs/{job}/pictures/0")).good().body
    }

    /// The value of a counter, with its labels as they are written.
    pub fn counter(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits until something is true.
    pub fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let began = std::time::Instant::now();
        while !is(self) {
            assert!(began.elapsed() < Duration::from_secs(120), "{what}: not within two minutes");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a server answers.
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The answer to something that must have worked.
    pub fn good(self) -> Self {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text());
        self
    }
}

/// A connection with a request on its way.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(180))).expect("a time");
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "host") {
        head += &format!("host: {address}\r\n");
    }
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all((head + "\r\n").as_bytes()).expect("the server reads");
    // A server that refuses early may not read the rest.
    let _ = stream.write_all(body);
    stream
}

pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    receive(send(address, method, path, headers, body))
}

/// Reads a whole answer.
pub fn receive(stream: TcpStream) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer");
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|how| how == "chunked") {
        loop {
            line.clear();
            reader.read_line(&mut line).expect("a chunk");
            let length = usize::from_str_radix(line.trim(), 16).expect("its length");
            let mut chunk = vec![0; length + 2];
            reader.read_exact(&mut chunk).expect("its bytes");
            if length == 0 {
                break;
            }
            body.extend(&chunk[..length]);
        }
    } else {
        let _ = reader.read_to_end(&mut body);
    }
    Answer { status, headers, body }
}

/// The events of a stream: name and data.
pub fn events(answer: &Answer) -> Vec<(String, Value)> {
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let event = |text: &str| {
        let (name, data) = text.strip_prefix("event: ")?.split_once("\ndata: ")?;
        Some((name.to_owned(), serde_json::from_str(data).expect("JSON")))
    };
    answer.text().split("\n\n").filter_map(event).collect()
}

pub fn from_base64(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

pub fn to_base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The pixels of a picture's file.
pub fn pixels(file: &[u8]) -> Picture {
    decode(Path::new("an answer"), file, 3).expect("a picture")
}

/// What the command line makes.
pub fn by_command(args: &[&str]) -> Picture {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out.png");
    let device = std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into());
    let common = ["sample", "--device", &device, "--output", out.to_str().expect("UTF-8")];
    crate::commands::usage::succeeds(&[&common[..], args].concat());
    pixels(&std::fs::read(out).expect("it was written"))
}

/// A form with texts and files.
pub fn form(texts: &[(&str, &str)], files: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, text) in texts {
        let part = format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n");
        body.extend(part.as_bytes());
    }
    for (name, file) in files {
        let head = format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"a.png\"\r\n\r\n");
        body.extend(head.as_bytes());
        body.extend(*file);
        body.extend(b"\r\n");
    }
    body.extend(b"--edge--\r\n");
    ("multipart/form-data; boundary=edge".to_owned(), body)
}

/// A picture of 64 × 64 pixels, as a file, and at a path.
pub fn start(folder: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
    let data = (0..64 * 64 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let picture = Picture { width: 64, height: 64, channels: 3, data };
    let path = folder.path().join("start.png");
    unmist::image_io::write_png(&path, &picture, &[]).expect("writes");
    (path.clone(), std::fs::read(path).expect("it is there"))
}

/// A mask that is transparent in its left half, opaque elsewhere.
pub fn mask(folder: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
    let picture = image::RgbaImage::from_fn(64, 64, |x, _| image::Rgba([0, 0, 0, if x < 32 { 0 } else { 255 }]));
    let path = folder.path().join("mask.png");
    picture.save(&path).expect("writes");
    (path.clone(), std::fs::read(path).expect("it is there"))
}
