//! Pipelines: a model, a scheduler and noise, put together so that they read like the paper.

mod autoencoder;
mod denoise;
mod diffusion;
mod text;

use crate::backend::{Device, LoadOptions};
use crate::tensor::DType;

pub use autoencoder::{Autoencoder, Tiling};
pub use denoise::{DenoiseLoop, DenoiseSpec, ModelCall, Progress, coefficients, guidance_weights, step_graph};
pub use diffusion::{
    DiffusionPipeline, Kind, PIXEL_PIPELINES, PipelinePlan, STABLE_DIFFUSION_PIPELINES, SampleOptions, Stage, Traits,
    check_fits,
};
pub use text::{TextConditioning, TextEncoders};

/// Where and how a pipeline computes.
#[derive(Clone, Copy)]
pub struct Runtime<'a> {
    /// The device.
    pub device: &'a Device,
    /// How graphs are prepared for it.
    pub load: &'a LoadOptions,
    /// How weights and activations are stored.
    pub dtype: DType,
}
