//! Jobs: what waits, what runs, and what becomes of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use super::order::Order;
use crate::error::Error;
use crate::generate::Inside;
use crate::image_io::Picture;
use crate::pipelines::Cancel;

/// How long a finished job can be asked for.
const KEPT: Duration = Duration::from_secs(600);
/// Bytes of pictures that finished jobs may hold.
const MOST_KEPT: usize = 256 << 20;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// Its pictures are there.
    Finished,
    /// It could not be done.
    Failed,
    /// It was asked to stop.
    Cancelled,
}

impl Status {
    /// Whether nothing will happen any more.
    pub fn is_over(self) -> bool {
        !matches!(self, Status::Queued | Status::Running)
    }
}

/// A finished picture.
#[derive(Clone, Debug)]
pub struct Made {
    /// The picture.
    pub picture: Arc<Picture>,
    /// What it remembers, as the command line writes it into files.
    pub texts: Arc<Vec<(String, String)>>,
    /// The seed of its noise.
    pub seed: u64,
}

/// An unfinished picture, after so many steps.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Steps done.
    pub step: usize,
    /// What they have led to, as far as can be said; the first of several.
    pub picture: Arc<Picture>,
}

/// What can be seen of a job.
#[derive(Clone, Debug)]
pub struct State {
    /// Where it is.
    pub status: Status,
    /// Steps done.
    pub step: usize,
    /// Steps in all; 0 before that is known.
    pub steps: usize,
    /// When it was asked for, began, and was over.
    pub queued: Instant,
    /// See `queued`.
    pub started: Option<Instant>,
    /// See `queued`.
    pub over: Option<Instant>,
    /// When the first step was done, and how many there were then: the first takes longer.
    pub first_step: Option<Instant>,
    /// The latest unfinished picture.
    pub preview: Option<Preview>,
    /// What was made.
    pub pictures: Vec<Made>,
    /// What went wrong.
    pub error: Option<Arc<Error>>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// The model that made it.
    pub model: String,
    /// Every setting of the run, with the defaults filled in.
    pub settings: serde_json::Value,
}

impl State {
    /// Seconds until the steps are done, as the steps so far suggest.
    pub fn seconds_left(&self) -> Option<f64> {
        let since = self.first_step.filter(|_| self.step > 1 && self.status == Status::Running)?;
        let a_step = since.elapsed().as_secs_f64() / (self.step - 1) as f64;
        Some(a_step * self.steps.saturating_sub(self.step) as f64)
    }
}

/// A job.
pub struct Job {
    /// A name that cannot be guessed.
    pub id: String,
    /// What is asked for.
    pub order: Order,
    /// What happens inside, if that was asked for.
    pub inside: Option<Inside>,
    /// Stops it.
    pub cancel: Cancel,
    /// Ends it with what there is.
    finish: AtomicBool,
    /// How many want to see unfinished pictures, and after how many steps each.
    watchers: Mutex<Vec<usize>>,
    /// One unfinished picture is wanted, as soon as there is one.
    glance: AtomicBool,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Job {
    /// A job that waits.
    pub fn new(id: String, order: Order) -> Arc<Self> {
        let state = State {
            status: Status::Queued,
            step: 0,
            steps: 0,
            queued: Instant::now(),
            started: None,
            over: None,
            first_step: None,
            preview: None,
            pictures: Vec::new(),
            error: None,
            notes: Vec::new(),
            model: String::new(),
            settings: serde_json::Value::Null,
        };
        Arc::new(Self {
            id,
            inside: order.inside.then(Inside::default),
            order,
            cancel: Cancel::default(),
            finish: AtomicBool::new(false),
            watchers: Mutex::default(),
            glance: AtomicBool::new(false),
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        })
    }

    /// What can be seen of it.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Changes what can be seen of it. What is over stays as it is.
    pub fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        if state.status.is_over() {
            return;
        }
        change(&mut state);
        if state.status.is_over() {
            state.over = Some(Instant::now());
            state.preview = None;
        }
        drop(state);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Hears of every change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until it is over.
    pub async fn over(&self) -> State {
        let mut changes = self.watch();
        loop {
            changes.borrow_and_update();
            let state = self.state();
            if state.status.is_over() {
                return state;
            }
            // The sender is in `self`, so that it is there.
            let _ = changes.changed().await;
        }
    }

    /// Asks for an early end, with the pictures as they are then.
    pub fn finish_early(&self) {
        self.finish.store(true, Ordering::Relaxed);
    }

    /// Whether an early end was asked for.
    pub fn ends_early(&self) -> bool {
        self.finish.load(Ordering::Relaxed)
    }

    /// Wants an unfinished picture after every `every` steps, until the answer is dropped.
    pub fn preview_every(self: &Arc<Self>, every: usize) -> Watching {
        self.watchers().push(every.max(1));
        Watching { job: self.clone(), every: every.max(1) }
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<usize>> {
        self.watchers.lock().expect("no holder of this lock panics")
    }

    /// Wants one unfinished picture.
    pub fn glance(&self) {
        self.glance.store(true, Ordering::Relaxed);
    }

    /// Whether somebody wants to see what there is after `step` steps.
    pub fn wants_preview(&self, step: usize) -> bool {
        let glance = self.glance.swap(false, Ordering::Relaxed);
        glance || self.watchers().iter().any(|every| step.is_multiple_of(*every))
    }

    /// Bytes of its pictures.
    fn bytes(&self) -> usize {
        let pictures: usize = self.lock().pictures.iter().map(|made| made.picture.data.len()).sum();
        pictures + self.inside.as_ref().map_or(0, Inside::bytes)
    }
}

/// Somebody who wants unfinished pictures, until it is dropped.
pub struct Watching {
    job: Arc<Job>,
    every: usize,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watchers = self.job.watchers();
        if let Some(at) = watchers.iter().position(|every| *every == self.every) {
            watchers.swap_remove(at);
        }
    }
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// As many wait as may.
    Full,
    /// The server is about to end.
    Draining,
}

/// What waits and runs, and what was finished lately.
pub struct Jobs {
    inner: Mutex<Inner>,
    arrived: Condvar,
    capacity: usize,
    running: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Arc<Job>>,
    running: Vec<Arc<Job>>,
    all: BTreeMap<String, Arc<Job>>,
    draining: bool,
}

impl Jobs {
    /// Room for `capacity` jobs that wait.
    pub fn new(capacity: usize) -> Self {
        Self { inner: Mutex::default(), arrived: Condvar::new(), capacity, running: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Adds a job to those that wait.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn add(&self, job: &Arc<Job>) -> Result<(), Turned> {
        let mut inner = self.lock();
        if inner.draining {
            return Err(Turned::Draining);
        }
        if inner.waiting.len() >= self.capacity {
            return Err(Turned::Full);
        }
        inner.forget_old();
        inner.waiting.push_back(job.clone());
        inner.all.insert(job.id.clone(), job.clone());
        drop(inner);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for the next job, and takes others that wait and `fit` it, at most `most` in all. None when the server is
    /// about to end and nothing waits.
    pub fn take(&self, most: usize, fit: impl Fn(&Job, &Job) -> bool) -> Option<Vec<Arc<Job>>> {
        let mut inner = self.lock();
        let first = loop {
            if let Some(job) = inner.waiting.pop_front() {
                break job;
            }
            if inner.draining {
                return None;
            }
            inner = self.arrived.wait(inner).expect("no holder of this lock panics");
        };
        let mut taken = vec![first];
        let mut rest = VecDeque::new();
        for job in std::mem::take(&mut inner.waiting) {
            let fits = taken.len() < most && fit(&taken[0], &job);
            if fits { taken.push(job) } else { rest.push_back(job) }
        }
        inner.waiting = rest;
        inner.running.clone_from(&taken);
        self.running.store(taken.len(), Ordering::Relaxed);
        Some(taken)
    }

    /// Gives jobs that were taken and not begun their places at the front again.
    pub fn put_back(&self, jobs: &[Arc<Job>]) {
        let mut inner = self.lock();
        inner.running.retain(|job| !jobs.iter().any(|other| other.id == job.id));
        self.running.store(inner.running.len(), Ordering::Relaxed);
        let draining = inner.draining;
        if !draining {
            jobs.iter().rev().for_each(|job| inner.waiting.push_front(job.clone()));
        }
        drop(inner);
        for job in jobs.iter().filter(|job| draining || job.cancel.is_cancelled()) {
            self.cancel(job);
            job.update(|state| state.status = Status::Cancelled);
        }
    }

    /// Nothing runs any more.
    pub fn done(&self) {
        self.lock().running.clear();
        self.running.store(0, Ordering::Relaxed);
    }

    /// Stops a job: one that waits at once, one that runs within a step.
    pub fn cancel(&self, job: &Job) {
        job.cancel.cancel();
        let mut inner = self.lock();
        let waited = inner.waiting.len();
        inner.waiting.retain(|other| other.id != job.id);
        let waits = inner.waiting.len() < waited;
        drop(inner);
        if waits {
            job.update(|state| state.status = Status::Cancelled);
        }
    }

    /// Stops a job and forgets it.
    pub fn forget(&self, job: &Job) {
        self.cancel(job);
        self.lock().all.remove(&job.id);
    }

    /// The job of this name.
    pub fn get(&self, id: &str) -> Option<Arc<Job>> {
        self.lock().all.get(id).cloned()
    }

    /// What runs.
    pub fn running(&self) -> Vec<Arc<Job>> {
        self.lock().running.clone()
    }

    /// How many run, and wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.running.load(Ordering::Relaxed), self.lock().waiting.len())
    }

    /// How many may wait.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many jobs are before this one, if it waits.
    pub fn position(&self, job: &Job) -> Option<usize> {
        self.lock().waiting.iter().position(|other| other.id == job.id)
    }

    /// Takes no more jobs; those that wait are cancelled, what runs goes on.
    pub fn drain(&self) {
        let mut inner = self.lock();
        inner.draining = true;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        for job in waiting {
            job.update(|state| state.status = Status::Cancelled);
        }
        self.arrived.notify_all();
    }

    /// Whether the server is about to end.
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }
}

impl Inner {
    /// Forgets what was over long ago, and the oldest of what holds too much.
    fn forget_old(&mut self) {
        self.all.retain(|_, job| job.lock().over.is_none_or(|over| over.elapsed() < KEPT));
        let mut over: Vec<_> = self.all.values().filter_map(|job| Some((job.lock().over?, job.clone()))).collect();
        over.sort_by_key(|(over, _)| std::cmp::Reverse(*over));
        let mut bytes = 0;
        for (_, job) in over {
            bytes += job.bytes();
            if bytes > MOST_KEPT {
                self.all.remove(&job.id);
            }
        }
    }
}
