//! The only code that names wgpu: adapters, pipelines, and the encoding of a plan.

mod adapters;
mod device;
mod profile;
mod session;

pub use adapters::{AdapterReport, adapters, select_adapter};
pub use device::{Checks, GpuDevice};
pub use session::GpuSession;
