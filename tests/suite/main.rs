//! All integration tests, one module a topic, in one binary: the dependencies are linked once. `tests/fixtures` holds
//! numbers that other programs computed, `tools/make_fixtures.py` makes them.

mod adapters;
mod autoencoder;
mod cli;
mod common;
mod damaged_checkpoints;
mod denoise_step;
mod device;
mod fuzz_checkpoints;
mod fuzz_configs;
mod fuzz_inputs;
mod graph_parity;
mod harness_controls;
mod memory;
mod op_fixtures;
mod op_parity;
mod overflow;
mod pictures;
mod pipeline_parity;
mod rng;
mod sample;
mod sample_pictures;
mod scheduler_runs;
mod schedulers;
mod sd_parity;
mod single_file;
mod stable_diffusion_options;
mod stable_diffusion_parity;
mod tokenizer;
mod unet2d_parity;
mod wgsl;
