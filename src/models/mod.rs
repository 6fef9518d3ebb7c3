//! Models: from a typed config to a graph. They know nothing of devices.
//!
//! Names are those of diffusers, verbatim, because they are the keys of the checkpoints. Reading order: [`Layers`] (a layer with its parameters),
//! `resnet.rs`, `attention.rs`, `embeddings.rs` (the blocks all U-Nets share), then [`UNet2DModel`].

mod attention;
mod config;
mod embeddings;
mod layers;
mod resnet;
mod unet_2d;
mod unet_2d_blocks;
mod unet_2d_config;

pub use config::ConfigReader;
pub use layers::Layers;
pub use unet_2d::{UNet2DInputs, UNet2DModel};
pub use unet_2d_config::{ClassEmbedding, DownBlockType, ResampleType, TimeScaleShift, UNet2DConfig, UpBlockType};
