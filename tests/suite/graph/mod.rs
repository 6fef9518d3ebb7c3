//! Graphs on a device against the reference: kernel choice, passes, memory, one denoise step, values that overflow f16.

pub mod arithmetic;
pub mod choice;
pub mod denoise_step;
pub mod memory;
pub mod overflow;
pub mod parity;
pub mod program;
pub mod store;
pub mod views;
