//! The harness itself must be able to fail.

pub mod browser;
pub mod controls;
pub mod faulty_kernels;
pub mod references;
mod repository;
