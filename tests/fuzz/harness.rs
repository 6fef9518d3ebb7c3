//! What is watched while an input is read: panics, the time, and memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The system's allocator, counting the bytes that are held, and the most that were.
pub struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn take(bytes: usize) {
    MOST.fetch_max(HELD.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new are there at once, as when the system cannot extend the old.
        take(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Time that a thread has computed, so that a busy machine lets no input look slow.
pub struct Clock {
    /// Where Linux counts it; elsewhere all time counts.
    counter: Option<PathBuf>,
    start: Instant,
}

impl Clock {
    /// Of the thread that calls this.
    pub fn new() -> Self {
        let thread = std::fs::read_link("/proc/thread-self").ok();
        Self { counter: thread.map(|id| Path::new("/proc").join(id).join("schedstat")), start: Instant::now() }
    }

    pub fn now(&self) -> Duration {
        let counted = self.counter.as_ref().and_then(|counter| std::fs::read_to_string(counter).ok());
        let counted = counted.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
        counted.map_or_else(|| self.start.elapsed(), Duration::from_nanos)
    }
}

/// What an input may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub time: Duration,
    /// Bytes of memory beyond four times the input.
    pub memory: usize,
}

pub const LIMITS: Limits = Limits { time: Duration::from_secs(10), memory: 256 << 20 };

/// What became of an input that did no harm.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub accepted: bool,
    pub time: Duration,
    /// The most memory that was held at once beyond what was before.
    pub memory: usize,
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// While it lives, the message of a panic is kept for [`watched`] instead of printed.
pub struct KeptPanics;

impl KeptPanics {
    pub fn new() -> Self {
        std::panic::set_hook(Box::new(|info| {
            PANIC.with(|kept| *kept.borrow_mut() = info.to_string().replace('\n', " "));
        }));
        Self
    }
}

impl Drop for KeptPanics {
    fn drop(&mut self) {
        // While a panic goes on, its hook cannot be taken away.
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
    }
}

/// Reads an input of `length` bytes. The error says which of its duties the reader has failed in: it panicked, took too
/// long, took too much memory, or refused the input without a message worth the name.
pub fn watched(
    length: usize,
    limits: Limits,
    read: impl FnOnce() -> unmist::Result<()>,
) -> std::result::Result<Outcome, String> {
    let clock = Clock::new();
    let start = clock.now();
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = catch_unwind(AssertUnwindSafe(read));
    let time = clock.now().saturating_sub(start);
    let memory = MOST.load(Relaxed).saturating_sub(before);
    let accepted = match result {
        Err(_) => return Err(PANIC.with(|kept| std::mem::take(&mut *kept.borrow_mut()))),
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            let message = error.to_string();
            if !(20..20_000).contains(&message.len()) {
                return Err(format!("refused with a message of {} bytes: {message:.200}", message.len()));
            }
            false
        }
    };
    if time > limits.time {
        return Err(format!("took {time:?}, more than {:?}", limits.time));
    }
    if memory > length.saturating_mul(4).saturating_add(limits.memory) {
        return Err(format!("took {memory} bytes of memory for an input of {length}"));
    }
    Ok(Outcome { accepted, time, memory })
}
