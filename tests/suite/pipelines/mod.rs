//! From prompt or class to picture, against diffusers' pipelines.

mod activations;
mod anomaly;
pub mod attention;
mod batches;
mod classes;
mod classifier;
pub mod consistency;
pub mod inversion;
mod latent;
mod loss;
pub mod options;
mod repaint;
mod score;
pub mod stable_diffusion;
pub mod tokenizer;
