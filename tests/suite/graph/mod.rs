//! Graphs on a device against the reference: passes, memory, one denoise step, values that overflow f16.

pub mod denoise_step;
pub mod memory;
pub mod overflow;
pub mod parity;
