//! What a run does, and when: spans of the host's threads and of the device's launches, in the format of Chrome's trace
//! viewer and of Perfetto.
//!
//! There is one recording in a process, because spans come from all layers and threads. While there is none, a span
//! costs one look at a flag.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::Instant;

static ON: AtomicBool = AtomicBool::new(false);
static RECORDING: Mutex<Option<Recording>> = Mutex::new(None);
static THREADS: AtomicU32 = AtomicU32::new(1);

thread_local! {
    /// The number of this thread's track in the present recording; 0 before its first span.
    static TRACK: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

/// Processes of the viewer.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// Everything that was recorded.
pub struct Recording {
    start: Instant,
    /// Tells the recordings of one process apart.
    number: u64,
    events: Vec<Event>,
    /// Number and name of every thread's track.
    threads: Vec<(u32, String)>,
    device: Option<String>,
    notes: Vec<String>,
}

struct Event {
    name: Cow<'static, str>,
    process: u32,
    track: u32,
    /// Microseconds since the recording began.
    start: f64,
    /// Microseconds.
    length: f64,
    args: Value,
}

/// Begins a recording, in place of one that was not finished.
pub fn begin() {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let number = u64::from(NUMBER.fetch_add(1, Ordering::Relaxed));
    let recording = Recording {
        start: Instant::now(),
        number,
        events: Vec::new(),
        threads: Vec::new(),
        device: None,
        notes: Vec::new(),
    };
    *RECORDING.lock().expect("no holder of this lock panics") = Some(recording);
    ON.store(true, Ordering::Release);
}

/// Ends the recording; `None` if there is none.
pub fn finish() -> Option<Recording> {
    ON.store(false, Ordering::Release);
    RECORDING.lock().expect("no holder of this lock panics").take()
}

/// Whether there is a recording.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Does something to the recording, if there is one.
fn record(add: impl FnOnce(&mut Recording)) {
    if let Some(recording) = RECORDING.lock().expect("no holder of this lock panics").as_mut() {
        add(recording);
    }
}

/// Something that a thread of the host does, from the making of this value to its end.
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Open>);

struct Open {
    name: &'static str,
    of: Option<String>,
    start: Instant,
}

/// A span of this name.
pub fn span(name: &'static str) -> Span {
    if is_on() { Span(Some(Open { name, of: None, start: Instant::now() })) } else { Span(None) }
}

/// A span of this name that says what it is about.
pub fn span_of(name: &'static str, of: impl FnOnce() -> String) -> Span {
    if is_on() { Span(Some(Open { name, of: Some(of()), start: Instant::now() })) } else { Span(None) }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(Open { name, of, start }) = self.0.take() else { return };
        let end = Instant::now();
        record(|recording| {
            // What began before the recording is not part of it.
            let Some(since) = start.checked_duration_since(recording.start) else { return };
            let track = recording.own_track();
            let args = of.map_or(Value::Null, |of| json!({ "of": of }));
            let (start, length) = (micros(since), micros(end - start));
            let name = Cow::Borrowed(name);
            recording.events.push(Event { name, process: HOST, track, start, length, args });
        });
    }
}

/// Microseconds since the recording began; 0 without one.
pub(crate) fn now() -> f64 {
    let mut now = 0.0;
    record(|recording| now = micros(recording.start.elapsed()));
    now
}

/// Something that the device did, in microseconds since the recording began; one after the other.
pub(crate) fn device_span(name: String, start: f64, length: f64, args: Value) {
    let event = Event { name: name.into(), process: DEVICE, track: 1, start, length, args };
    record(|recording| recording.events.push(event));
}

/// Names the device.
pub(crate) fn device(name: String) {
    record(|recording| recording.device = Some(name));
}

/// Something that the reader of the recording should know.
pub(crate) fn note(note: String) {
    record(|recording| recording.notes.push(note));
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Recording {
    /// The number of this thread's track.
    fn own_track(&mut self) -> u32 {
        let (number, track) = TRACK.get();
        if number == self.number {
            return track;
        }
        let track = THREADS.fetch_add(1, Ordering::Relaxed);
        let name = std::thread::current().name().map_or_else(|| format!("worker {track}"), str::to_owned);
        self.threads.push((track, name));
        TRACK.set((self.number, track));
        track
    }

    /// What the reader should know: how the clocks were brought together, or why there is no device.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What the device did: each launch's kernel, and its seconds.
    pub fn launches(&self) -> impl Iterator<Item = (&str, f64)> {
        let device = self.events.iter().filter(|event| event.process == DEVICE);
        device.map(|event| (event.name.as_ref(), event.length / 1e6))
    }

    /// It as JSON: an object with `traceEvents`, all of them of the kind "X" (a span: `ts` and `dur` in microseconds)
    /// but for the names of processes and threads; the host is the process 1, the device the process 2.
    pub fn to_json(&self) -> String {
        let name = |what: &str, pid: u32, tid: u32, name: &str| {
            let args = json!({ "name": name });
            json!({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args})
        };
        let mut events = vec![name("process_name", HOST, 0, "host")];
        events.extend(self.threads.iter().map(|(track, thread)| name("thread_name", HOST, *track, thread)));
        if let Some(device) = &self.device {
            events.push(name("process_name", DEVICE, 0, device));
            events.push(name("thread_name", DEVICE, 1, "launches"));
        }
        events.extend(self.events.iter().map(|event| {
            let Event { name, process, track, start, length, args } = event;
            let round = |micros: &f64| (micros * 1e3).round() / 1e3;
            let category = if *process == HOST { "host" } else { "device" };
            let mut json = json!({
                "ph": "X", "name": name, "cat": category, "pid": process, "tid": track, "ts": round(start),
                "dur": round(length),
            });
            if !args.is_null() {
                json["args"] = args.clone();
            }
            json
        }));
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        let about = json!({"version": concat!("unmist ", env!("CARGO_PKG_VERSION")), "notes": self.notes});
        format!("{{\"traceEvents\": [\n{}\n],\n\"otherData\": {about}}}\n", lines.join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_nest_and_say_what_they_are_about() {
        assert!(span("before").0.is_none() || is_on(), "nothing is recorded without a recording");
        begin();
        {
            let _outer = span("outer");
            let _inner = span_of("inner", || "a \"quoted\" name".into());
            std::thread::spawn(|| drop(span("elsewhere"))).join().expect("ends");
        }
        device_span("kernel".into(), 1.0, 2.0, json!({"node": "x"}));
        note("said".into());
        let recording = finish().expect("it began");
        assert!(finish().is_none() && !is_on());
        assert_eq!(recording.launches().collect::<Vec<_>>(), [("kernel", 2e-6)]);
        let json: Value = serde_json::from_str(&recording.to_json()).expect("JSON");
        assert_eq!(json["otherData"]["notes"], json!(["said"]));
        let events = json["traceEvents"].as_array().expect("a list");
        let find = |name: &str| events.iter().find(|event| event["name"] == name).expect("was recorded");
        let ends = |event: &Value| {
            let (ts, dur) = (event["ts"].as_f64().expect("a number"), event["dur"].as_f64().expect("a number"));
            (ts, ts + dur)
        };
        let (outer, inner, elsewhere) = (find("outer"), find("inner"), find("elsewhere"));
        assert!(ends(outer).0 <= ends(inner).0 && ends(inner).1 <= ends(outer).1 + 1e-3);
        assert_eq!(outer["tid"], inner["tid"]);
        assert_ne!(outer["tid"], elsewhere["tid"]);
        assert_eq!(inner["args"]["of"], "a \"quoted\" name");
        assert_eq!((&find("kernel")["pid"], &find("kernel")["ts"]), (&json!(2), &json!(1.0)));
    }
}
