//! Models: each turns a typed config into a graph. They know nothing of devices.
//!
//! Names are those of diffusers and transformers, verbatim, because they are the keys of the checkpoints. Reading
//! order: [`Layers`] (a layer with its parameters), `resnet.rs`, `attention.rs`, `embeddings.rs` (the blocks all U-Nets
//! share), then [`UNet2DModel`]. Stable Diffusion: [`CLIPTextModel`] reads the prompt, [`UNet2DConditionModel`] with
//! its [`Transformer2DModel`] denoises a latent, [`AutoencoderKL`] turns that into a picture. [`EncoderUNetModel`] says
//! what a noised picture shows.

mod attention;
mod autoencoder_kl;
mod autoencoder_tiny;
mod clip_text;
mod config;
mod embeddings;
mod encoder_unet;
mod encoder_unet_names;
mod layers;
mod ldm_bert;
mod load;
mod model;
mod preset;
mod resnet;
mod text_model;
mod transformer_2d;
mod unet_2d;
mod unet_2d_blocks;
mod unet_2d_condition;
mod unet_2d_condition_blocks;
mod unet_2d_condition_config;
mod unet_2d_config;
mod unet_2d_skip_blocks;
mod vq_model;

pub use autoencoder_kl::{AutoencoderBlockType, AutoencoderKL, AutoencoderKLConfig, DecoderKL, EncoderKL};
pub use autoencoder_tiny::{AutoencoderTiny, AutoencoderTinyConfig, DecoderTiny, EncoderTiny};
pub(crate) use clip_text::TOKEN_EMBEDDING;
pub use clip_text::{CLIPTextConfig, CLIPTextModel, EndOfText, TextOutput};
pub use config::ConfigReader;
pub use encoder_unet::EncoderUNetModel;
pub use layers::Layers;
pub use ldm_bert::{LDMBertConfig, LDMBertModel};
pub use load::LoadedModel;
pub use model::{Layout, Model, NamedTensors, Sizes, prepare};
pub use preset::{Preset, RandomWeights};
pub use text_model::TextModel;
pub use transformer_2d::{AdditionalContext, Transformer2DModel};
pub use unet_2d::{UNet2DInputs, UNet2DModel};
pub use unet_2d_condition::{Additional, AdditionalResiduals, UNet2DConditionInputs, UNet2DConditionModel};
pub use unet_2d_condition_config::{
    ConditionBlock, ConditionBlockType, ConditionClassEmbedding, TextTime, UNet2DConditionConfig,
};
pub use unet_2d_config::{
    ClassEmbedding, DownBlockType, ResampleType, TimeEmbedding, TimeScaleShift, UNet2DConfig, UpBlockType,
};
pub use vq_model::{DecoderVQ, EncoderVQ, VQModel, VQModelConfig};
