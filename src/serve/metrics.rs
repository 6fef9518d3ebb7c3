//! What the server has done and holds, as Prometheus reads it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::catalogue::Catalogue;
use super::jobs::{Jobs, Status};
use crate::store::StoreStats;

/// Upper bounds of the histograms' buckets, seconds.
const BOUNDS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Counters since the server began.
#[derive(Default)]
pub struct Metrics {
    steps: AtomicU64,
    pictures: AtomicU64,
    lost: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By route and status code.
    requests: BTreeMap<(String, u16), u64>,
    jobs: BTreeMap<&'static str, u64>,
    duration: Histogram,
    waiting: Histogram,
    store: StoreStats,
    /// The models that are open.
    models: Vec<String>,
}

#[derive(Default)]
struct Histogram {
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (count, bound) in self.counts.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, text: &mut String, name: &str, help: &str) {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (count, bound) in self.counts.iter().zip(BOUNDS) {
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(text, "{name}_sum {}\n{name}_count {}", self.sum, self.count);
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// A request was answered. `route` is a pattern, so that clients cannot make new ones.
    pub fn answered(&self, route: &str, code: u16) {
        *self.lock().requests.entry((route.to_owned(), code)).or_default() += 1;
    }

    /// A job has begun after it had waited so long.
    pub fn begun(&self, waited: Duration) {
        self.lock().waiting.add(waited);
    }

    /// A job is over, so long after it began.
    pub fn over(&self, status: Status, took: Duration) {
        let mut inner = self.lock();
        let name = match status {
            Status::Finished => "finished",
            Status::Cancelled => "cancelled",
            _ => "failed",
        };
        *inner.jobs.entry(name).or_default() += 1;
        inner.duration.add(took);
    }

    /// A step was done.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Pictures were made.
    pub fn made(&self, pictures: usize) {
        self.pictures.fetch_add(pictures as u64, Ordering::Relaxed);
    }

    /// The device was lost.
    pub fn device_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the device was lost.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) > 0
    }

    /// What the device holds of weights.
    pub fn store(&self, stats: StoreStats) {
        self.lock().store = stats;
    }

    /// Which models are open.
    pub fn open<'a>(&self, paths: impl Iterator<Item = &'a Path>, catalogue: &Catalogue) {
        let mut models: Vec<String> = paths.map(|path| catalogue.without_paths(&path.display().to_string())).collect();
        models.sort();
        models.dedup();
        self.lock().models = models;
    }

    /// Everything as text.
    pub fn text(&self, jobs: &Jobs) -> String {
        let mut text = String::new();
        let inner = self.lock();
        let mut single = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let (running, waiting) = jobs.counts();
        single("unmist_requests_running", "gauge", "Jobs that run now.", running as u64);
        single("unmist_requests_waiting", "gauge", "Jobs that wait for their turn.", waiting as u64);
        single("unmist_queue_capacity", "gauge", "Jobs that may wait.", jobs.capacity() as u64);
        single("unmist_steps_total", "counter", "Denoise steps done.", self.steps.load(Ordering::Relaxed));
        single("unmist_images_total", "counter", "Pictures made.", self.pictures.load(Ordering::Relaxed));
        single("unmist_device_lost_total", "counter", "Devices lost.", self.lost.load(Ordering::Relaxed));
        single("unmist_device_memory_bytes", "gauge", "Weights on the device.", inner.store.bytes);
        single(
            "unmist_uploaded_bytes_total",
            "counter",
            "Weights ever sent to the device.",
            inner.store.uploaded_bytes,
        );
        single("unmist_evicted_bytes_total", "counter", "Weights ever evicted from it.", inner.store.evicted_bytes);
        let _ = writeln!(text, "# HELP unmist_requests_total Requests answered.\n# TYPE unmist_requests_total counter");
        for ((route, code), count) in &inner.requests {
            let _ = writeln!(text, "unmist_requests_total{{route=\"{route}\",code=\"{code}\"}} {count}");
        }
        let _ = writeln!(text, "# HELP unmist_jobs_total Jobs that are over.\n# TYPE unmist_jobs_total counter");
        for (status, count) in &inner.jobs {
            let _ = writeln!(text, "unmist_jobs_total{{status=\"{status}\"}} {count}");
        }
        let _ = writeln!(text, "# HELP unmist_model_loaded Models that are open.\n# TYPE unmist_model_loaded gauge");
        for model in &inner.models {
            let _ = writeln!(text, "unmist_model_loaded{{model=\"{}\"}} 1", escaped(model));
        }
        inner.duration.write(&mut text, "unmist_request_duration_seconds", "From a job's begin to its end.");
        inner.waiting.write(&mut text, "unmist_queue_duration_seconds", "From a job's arrival to its begin.");
        text
    }
}

/// As the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
