//! The only code that names wgpu: adapters, pipelines, and programs on devices.

mod adapters;
mod cache;
mod device;
mod load;
mod memory;
mod profile;
mod session;
mod tables;
mod timed;

pub use adapters::{AdapterReport, adapters, select_adapter};
pub use device::{Checks, GpuDevice};
pub use memory::Memory;
pub use session::GpuSession;
pub use tables::DeviceChoices;
