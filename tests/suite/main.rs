//! All integration tests in one binary, so that the dependencies are linked once, with one folder for each thing they
//! prove (`tests/README.md`). `tests/fixtures` holds numbers that other programs computed; `tools/make_fixtures.py`
//! makes them.

mod browser;
mod checkpoints;
mod commands;
mod common;
mod device;
mod graph;
mod harness;
mod kernels;
mod models;
mod pipelines;
mod schedulers;
#[cfg(feature = "serve")]
mod serve;
mod training;
