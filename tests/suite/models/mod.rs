//! Models against diffusers and transformers, block by block.

pub mod autoencoder;
pub mod stable_diffusion;
pub mod unet_2d;
pub mod unet_ports;
