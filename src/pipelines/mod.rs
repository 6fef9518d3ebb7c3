//! Pipelines: a model, a scheduler and noise, put together so that they read like the paper.

mod denoise;
mod stable_diffusion;
mod text;
mod unet_2d;

pub use denoise::{DenoiseLoop, DenoiseSpec, ModelCall, Progress, coefficients, step_graph};
pub use stable_diffusion::{PIPELINES as STABLE_DIFFUSION_PIPELINES, PromptOptions, StableDiffusionPipeline};
pub use text::{TextConditioning, TextEncoders};
pub use unet_2d::{SampleOptions, UNet2DPipeline};
