//! Noise levels, steps and random numbers against diffusers and PyTorch.

mod frames;
pub mod random_numbers;
pub mod runs;
mod scores;
pub mod tables;
