//! The settings that a model's folder recommends.

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// `generation_config.json` beside `model_index.json`: settings for runs that do not choose others. diffusers has no
/// such file; the name comes from transformers' language models, the keys from diffusers' pipelines.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationConfig {
    /// The sampler, as [`Request::scheduler`](super::Request::scheduler) names it.
    pub scheduler: Option<String>,
    /// Number of denoise steps.
    pub num_inference_steps: Option<usize>,
    /// Classifier-free guidance.
    pub guidance_scale: Option<f64>,
    /// SDXL: the share of the noise, from 0 to 1, after which a refiner goes on.
    pub denoising_end: Option<f64>,
    /// DDIM: see [`crate::schedulers::Sampling::use_clipped_model_output`].
    pub use_clipped_model_output: Option<bool>,
}

impl GenerationConfig {
    /// Reads a model's; empty if it has none.
    ///
    /// # Errors
    /// [`Error::Config`] if the file holds anything else.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let Some(json) = checkpoint.json("generation_config.json")? else { return Ok(Self::default()) };
        serde_json::from_value(json.value).map_err(|error| Error::Config(format!("{}: {error}", json.path.display())))
    }
}
