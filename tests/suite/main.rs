//! All integration tests, one module a topic, in one binary: the dependencies are linked once. `tests/fixtures` holds
//! numbers that other programs computed, `tools/make_fixtures.py` makes them.

mod common;
mod damaged_checkpoints;
mod device;
mod fuzz_checkpoints;
mod harness_controls;
mod op_fixtures;
mod op_parity;
mod pictures;
mod rng;
mod scheduler_runs;
mod schedulers;
mod wgsl;
