//! Pipelines: a model, a scheduler and noise, put together so that they read like the paper.

mod denoise;
mod unet_2d;

pub use denoise::{DenoiseLoop, DenoiseSpec, ModelCall, Progress, coefficients, step_graph};
pub use unet_2d::{SampleOptions, UNet2DPipeline};
