//! The engine in a browser: a session on the page's WebGPU, the page's files, and what a page calls.
//!
//! Nothing but the device is JavaScript (`web/engine.js`): planning, kernels' texts, tokenizer, schedulers, random
//! numbers and files are this library, compiled to WebAssembly. The two sides share memory and call each other's plain
//! functions ([`host`], [`calls`]); no binding generator is involved.
//!
//! WebGPU answers later, [`Session::read`](crate::session::Session::read) at once: calls that wait for the device
//! suspend the module's stack by JavaScript Promise Integration
//! (<https://github.com/WebAssembly/js-promise-integration>).

mod calls;
mod device;
mod files;
mod host;
mod make;
mod session;

pub use device::WebDevice;
pub(crate) use host::now;
pub(crate) use session::WebSession;
