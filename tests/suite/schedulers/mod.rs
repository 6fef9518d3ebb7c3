//! Noise levels, steps and random numbers against diffusers and PyTorch.

pub mod random_numbers;
pub mod runs;
pub mod tables;
