//! What a page's JavaScript calls, as plain functions that take addresses, lengths and numbers: `wasm` in
//! `web/engine.js`.
//!
//! One call runs at a time, but for [`unmist_cancel`]. Those that return a [`Status`] leave an answer: what was asked
//! for, or JSON with the `kind`, `message` and perhaps `field` of an error.

use std::sync::{LazyLock, Mutex, MutexGuard};

use serde_json::json;

use super::device::{Adapter, WebDevice};
use super::files::PageFiles;
use super::host::{self, Report};
use super::make;
use crate::error::{Error, Result};
use crate::files::Memory;
use crate::pipelines::Cancel;

/// All there is between calls.
#[derive(Default)]
struct Engine {
    device: Option<WebDevice>,
    files: PageFiles,
    /// Pictures that the next request names.
    pictures: Memory,
    answer: Vec<u8>,
}

impl Engine {
    /// The device, or [`Error::Device`] before [`unmist_start`]; and the files.
    fn parts(&self) -> (Result<WebDevice>, PageFiles) {
        let device = self.device.clone().ok_or_else(|| Error::Device("the engine has not been started".into()));
        (device, self.files.clone())
    }
}

static ENGINE: LazyLock<Mutex<Engine>> = LazyLock::new(Mutex::default);
static CANCEL: Mutex<Option<Cancel>> = Mutex::new(None);

/// How a call ended.
#[repr(u32)]
pub enum Status {
    /// The answer is what was asked for.
    Done = 0,
    /// The answer says what went wrong.
    Failed = 1,
}

fn engine() -> MutexGuard<'static, Engine> {
    ENGINE.lock().expect("a panic ends the module")
}

/// Keeps the answer to a call.
fn answer(result: Result<Vec<u8>>) -> Status {
    let (status, answer) = match result {
        Ok(answer) => (Status::Done, answer),
        Err(error) => (Status::Failed, described(&error).to_string().into_bytes()),
    };
    engine().answer = answer;
    status
}

fn described(error: &Error) -> serde_json::Value {
    let kind = match error {
        Error::Cancelled => "cancelled",
        Error::Device(_) => "device",
        Error::Limits(_) => "limits",
        Error::Kernel(_) => "kernel",
        Error::Refused(_) | Error::Usage(_) => "usage",
        _ => "model",
    };
    let field = match error {
        Error::Refused(refusal) => Some(refusal.field),
        _ => None,
    };
    // Fields have labels there, in words; the kind is said apart.
    let message = match error {
        Error::Refused(refusal) => refusal.in_words(&in_words),
        other => {
            let message = other.in_words(&in_words);
            message.split_once(": ").map_or(message.clone(), |(_, rest)| rest.to_owned())
        }
    };
    json!({"kind": kind, "field": field, "message": message})
}

/// The name of a field in a sentence.
fn in_words(field: &str) -> String {
    field.replace('_', " ")
}

/// Bytes that the page has put into memory for this call.
///
/// # Safety
/// They must come from [`unmist_allocate`] with this length, and not be used by the page again.
unsafe fn taken(start: *mut u8, length: usize) -> Vec<u8> {
    // SAFETY: as above; `unmist_allocate` gives boxed slices.
    unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, length)) }.into_vec()
}

/// As [`taken`], a text.
///
/// # Safety
/// As [`taken`].
unsafe fn text(start: *mut u8, length: usize) -> String {
    // SAFETY: as for this function.
    String::from_utf8(unsafe { taken(start, length) }).expect("the page encodes texts as UTF-8")
}

/// Memory for the arguments of a call, which frees it.
#[unsafe(no_mangle)]
pub extern "C" fn unmist_allocate(length: usize) -> *mut u8 {
    Box::into_raw(vec![0u8; length].into_boxed_slice()).cast()
}

/// Where the answer to the last call is.
#[unsafe(no_mangle)]
pub extern "C" fn unmist_answer() -> *const u8 {
    engine().answer.as_ptr()
}

/// Bytes of the answer.
#[unsafe(no_mangle)]
pub extern "C" fn unmist_answer_length() -> usize {
    engine().answer.len()
}

/// Starts the engine on a device, which the page describes as JSON ([`Adapter`]).
///
/// # Safety
/// As [`taken`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unmist_start(adapter: *mut u8, length: usize) -> Status {
    std::panic::set_hook(Box::new(|info| host::report(Report::Panic, info.to_string())));
    // SAFETY: as for this function.
    let adapter = unsafe { taken(adapter, length) };
    let started = serde_json::from_slice::<Adapter>(&adapter)
        .map_err(|error| Error::Usage(format!("the page's account of its device: {error}")))
        .map(|adapter| engine().device = Some(WebDevice::new(&adapter)));
    answer(started.map(|()| Vec::new()))
}

/// Adds a file of the page: the host reads its parts by its number. `id` tells its contents apart from others'.
///
/// # Safety
/// As [`taken`], for both texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unmist_add_file(
    name: *mut u8,
    name_length: usize,
    id: *mut u8,
    id_length: usize,
    number: u32,
    length: f64,
) {
    // SAFETY: as for this function.
    let (name, id) = unsafe { (text(name, name_length), text(id, id_length)) };
    engine().files.insert(&name, number, length as u64, &id);
}

/// Forgets all files.
#[unsafe(no_mangle)]
pub extern "C" fn unmist_clear_files() {
    engine().files.clear();
}

/// What can be asked of the model at a path, as JSON ([`make::describe`]).
///
/// # Safety
/// As [`taken`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unmist_describe(path: *mut u8, length: usize) -> Status {
    // SAFETY: as for this function.
    let path = unsafe { text(path, length) };
    let files = engine().files.clone();
    answer(make::describe(&files, &path))
}

/// Adds a picture, in its file's bytes, that the next request names as `image` or `mask`.
///
/// # Safety
/// As [`taken`], for both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unmist_add_picture(name: *mut u8, name_length: usize, file: *mut u8, length: usize) {
    // SAFETY: as for this function.
    let (name, file) = unsafe { (text(name, name_length), taken(file, length)) };
    engine().pictures.insert(name, file);
}

/// Makes pictures as a request in JSON says, of the pictures that were added before; the answer is a PNG. While it runs
/// it shows at most so many `previews`, evenly spread over the steps. Suspends.
///
/// # Safety
/// As [`taken`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unmist_sample(request: *mut u8, length: usize, previews: usize) -> Status {
    // SAFETY: as for this function.
    let request = unsafe { taken(request, length) };
    let cancel = Cancel::default();
    *CANCEL.lock().expect("a panic ends the module") = Some(cancel.clone());
    let (device, files) = engine().parts();
    let page = make::Page { files, pictures: std::mem::take(&mut engine().pictures), previews };
    answer(device.and_then(|device| make::sample(device, &page, &request, &cancel)))
}

/// One forward pass of a component, as `unmist run`: inputs and outputs are `.safetensors`. Suspends.
///
/// # Safety
/// As [`taken`], for both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unmist_run(request: *mut u8, length: usize, inputs: *mut u8, inputs_length: usize) -> Status {
    // SAFETY: as for this function.
    let (request, inputs) = unsafe { (taken(request, length), taken(inputs, inputs_length)) };
    let (device, files) = engine().parts();
    answer(device.and_then(|device| make::run(device, &files, &request, inputs)))
}

/// Asks the run that is going on to stop. May be called while it is suspended.
#[unsafe(no_mangle)]
pub extern "C" fn unmist_cancel() {
    CANCEL.lock().expect("a panic ends the module").iter().for_each(Cancel::cancel);
}

/// The hash tables of a dependency would like random numbers; these need not be random.
///
/// # Safety
/// `out` must have room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(
    out: *mut u8,
    length: usize,
) -> std::result::Result<(), getrandom::Error> {
    // SAFETY: as for this function.
    unsafe { std::ptr::write_bytes(out, 0x5a, length) };
    Ok(())
}
