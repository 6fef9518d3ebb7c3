//! Models against diffusers and transformers, block by block.

pub mod autoencoder;
mod gradients;
pub mod stable_diffusion;
pub mod unet_2d;
pub mod unet_ports;
