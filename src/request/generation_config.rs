//! What a model's folder says of how it is best asked.

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// `generation_config.json` beside `model_index.json`: what a run takes that is not asked otherwise. diffusers has no
/// such file; the name is that of transformers' language models, the keys are those of diffusers' pipelines.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationConfig {
    /// The sampler, as [`Request::scheduler`](super::Request::scheduler) names it.
    pub scheduler: Option<String>,
    /// Number of denoise steps.
    pub num_inference_steps: Option<usize>,
    /// Classifier-free guidance.
    pub guidance_scale: Option<f64>,
    /// DDIM: see [`crate::schedulers::Sampling::use_clipped_model_output`].
    pub use_clipped_model_output: Option<bool>,
}

impl GenerationConfig {
    /// That of a model; nothing, if it has none.
    ///
    /// # Errors
    /// [`Error::Config`] if the file is not understood.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let Some(json) = checkpoint.json("generation_config.json")? else { return Ok(Self::default()) };
        serde_json::from_value(json.value).map_err(|error| Error::Config(format!("{}: {error}", json.path.display())))
    }
}
