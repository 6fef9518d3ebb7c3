//! What the page's JavaScript does for the engine: `host` in `web/engine.js`.
//!
//! Buffers, textures, pipelines, lists of launches and files are numbers, which this side chooses. Functions that can
//! fail return 0, or what went wrong; [`check`] then fetches the message.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::refusal::Advised;

/// What the page is told while something runs.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Report {
    /// A sentence for the user.
    Note = 0,
    /// How far a run is, as JSON.
    Progress = 1,
    /// The engine's own fault.
    Panic = 2,
    /// The picture as it would be after the step that was reported last, as PNG.
    Preview = 3,
}

mod imported {
    // SAFETY: `web/engine.js` has functions of these names that take and return these numbers. Those that get an
    // address and a length read or write no other bytes, and only until they return (or resume).
    #[link(wasm_import_module = "unmist")]
    unsafe extern "C" {
        /// Milliseconds since some moment.
        pub safe fn now() -> f64;
        pub fn report(kind: u32, content: *const u8, length: usize);
        /// Bytes of the message of the last failure.
        pub safe fn message_length() -> usize;
        pub fn message(out: *mut u8);
        /// Reads a part of a file; fails if the file has changed or is gone.
        pub fn read_file(file: u32, offset: f64, out: *mut u8, length: usize) -> u32;
        /// Compiles kernels, listed as JSON. Suspends.
        pub fn compile(kernels: *const u8, length: usize) -> u32;
        pub fn create_buffer(memory: u32, bytes: f64, uniform: u32, label: *const u8, length: usize);
        pub safe fn create_texture(memory: u32, width: u32, height: u32, f16: u32);
        pub safe fn drop_memory(memory: u32);
        pub fn write_buffer(memory: u32, bytes: *const u8, length: usize);
        /// Makes a list of launches, given as JSON.
        pub fn create_list(list: u32, json: *const u8, length: usize);
        pub safe fn drop_list(list: u32);
        /// Submits launches of a list, and after its last one its copies.
        pub safe fn submit(list: u32, first: u32, count: u32, submission: u32);
        /// Waits for a submission, or for everything. Suspends.
        pub safe fn wait(submission: u32) -> u32;
        /// Reads the beginning of a buffer. Suspends.
        pub fn read_buffer(memory: u32, out: *mut u8, length: usize) -> u32;
        /// Whether the device has failed since this was last asked.
        pub safe fn check() -> u32;
    }
}

/// The time since some moment.
pub(crate) fn now() -> Duration {
    Duration::from_secs_f64(imported::now() / 1e3)
}

/// Tells the page something.
pub(super) fn report(kind: Report, content: impl AsRef<[u8]>) {
    let content = content.as_ref();
    // SAFETY: the content outlives the call.
    unsafe { imported::report(kind as u32, content.as_ptr(), content.len()) }
}

/// A number that nothing else has.
pub(super) fn fresh() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The message of the last failure.
fn message() -> String {
    let mut bytes = vec![0; imported::message_length()];
    // SAFETY: the message fits, as its length was just asked for.
    unsafe { imported::message(bytes.as_mut_ptr()) };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a function of the host returned.
fn checked(status: u32) -> Result<()> {
    match status {
        0 => Ok(()),
        1 => Err(Error::Limits(Advised::from(message()).or_less_work())),
        2 => Err(Error::Kernel(message())),
        _ => Err(Error::Device(message().into())),
    }
}

/// Whether the device still works.
///
/// # Errors
/// [`Error::Device`] if it was lost, [`Error::Limits`] if its memory ran out.
pub(super) fn check() -> Result<()> {
    checked(imported::check())
}

/// A part of a file.
pub(super) fn read_file(file: u32, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    // SAFETY: the host writes `out` and no more.
    match unsafe { imported::read_file(file, offset as f64, out.as_mut_ptr(), out.len()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::other(message())),
    }
}

/// Compiles kernels.
pub(super) fn compile(kernels: &str) -> Result<()> {
    // SAFETY: the text outlives the call.
    checked(unsafe { imported::compile(kernels.as_ptr(), kernels.len()) })
}

/// Memory on the device, freed when it is dropped. Whether there was room is known at the next [`wait`].
#[derive(Debug)]
pub struct Memory(u32);

impl Memory {
    pub(super) fn buffer(label: &str, bytes: u64, uniform: bool) -> Self {
        let memory = Self(fresh());
        // SAFETY: the label outlives the call.
        unsafe { imported::create_buffer(memory.0, bytes as f64, uniform.into(), label.as_ptr(), label.len()) };
        memory
    }

    pub(super) fn texture(width: u32, height: u32, f16: bool) -> Self {
        let memory = Self(fresh());
        imported::create_texture(memory.0, width, height, f16.into());
        memory
    }

    pub(super) fn number(&self) -> u32 {
        self.0
    }

    pub(super) fn write(&self, bytes: &[u8]) {
        // SAFETY: the host copies the bytes before it returns.
        unsafe { imported::write_buffer(self.0, bytes.as_ptr(), bytes.len()) }
    }

    pub(super) fn read(&self, out: &mut [u8]) -> Result<()> {
        // SAFETY: the host writes `out` and no more, before the module goes on.
        checked(unsafe { imported::read_buffer(self.0, out.as_mut_ptr(), out.len()) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        imported::drop_memory(self.0);
    }
}

/// Launches with all that they bind, dropped with it.
#[derive(Debug)]
pub(super) struct List {
    number: u32,
    /// The parameters of its launches.
    _params: Memory,
}

impl List {
    pub fn new(json: &str, params: Memory) -> Self {
        let number = fresh();
        // SAFETY: the text outlives the call.
        unsafe { imported::create_list(number, json.as_ptr(), json.len()) };
        Self { number, _params: params }
    }

    /// Submits some of its launches; returns what to [`wait`] for.
    pub fn submit(&self, first: usize, count: usize) -> u32 {
        let submission = fresh();
        imported::submit(self.number, first as u32, count as u32, submission);
        submission
    }
}

impl Drop for List {
    fn drop(&mut self) {
        imported::drop_list(self.number);
    }
}

/// Waits for a submission, or without one for everything.
///
/// # Errors
/// [`Error::Device`] if the device was lost, [`Error::Limits`] if its memory ran out.
pub(super) fn wait(submission: Option<u32>) -> Result<()> {
    checked(imported::wait(submission.unwrap_or(0)))
}
