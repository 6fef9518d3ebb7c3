//! From prompt or class to picture, against diffusers' pipelines.

mod activations;
mod anomaly;
pub mod attention;
mod batches;
mod classes;
mod classifier;
pub mod consistency;
mod editing;
mod flow;
mod frames;
pub mod inversion;
mod latent;
mod ldm;
mod loss;
pub mod options;
mod repaint;
mod score;
mod sdedit;
pub mod stable_diffusion;
pub mod tokenizer;
