//! The harness itself must be able to fail.

pub mod controls;
pub mod faulty_kernels;
pub mod references;
mod repository;
