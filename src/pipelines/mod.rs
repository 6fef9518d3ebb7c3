//! Pipelines: a model, a scheduler and noise, put together so that they read like the paper.

mod activations;
mod adaptive;
mod attention;
mod autoencoder;
mod classifier;
mod denoise;
mod diffusion;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::{Device, LoadOptions};
use crate::error::{Error, Result};
use crate::tensor::DType;

pub use activations::{Activation, Activations};
pub use attention::CrossAttention;
pub use autoencoder::{Autoencoder, Tiling};
pub use classifier::{ClassifierGuidance, Moved};
pub use denoise::{
    Changing, DenoiseLoop, DenoiseSpec, ModelCall, Progress, Shown, coefficients, guidance_weights, step_graph,
};
pub use diffusion::{
    Bound, Classifier, ClassifierTraits, DiffusionPipeline, EditMask, Example, ExampleLoss, Kind, Likelihood,
    MaskReduction, NoiseShape, Noised, PIXEL_PIPELINES, PipelinePlan, Prepared, STABLE_DIFFUSION_PIPELINES,
    SampleOptions, Stage, Style, TimestepSampling, TrainingProcess, Traits, VarianceTraining, changes, check_fits,
    check_scheduler, squared_difference, thresholded,
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
    /// Asked between the steps of a run, and between its stages, whether to go on.
    pub cancel: Option<&'a Cancel>,
    /// Whether [`Progress::attention`] can be read after each step; without, a step reads and keeps less.
    pub attention: bool,
    /// Whether [`Progress::activations`] and [`Progress::prediction_rms`] can be read after each step; as above.
    pub activations: bool,
}

impl<'a> Runtime<'a> {
    /// A runtime whose runs go on to their end.
    pub fn new(device: &'a Device, load: &'a LoadOptions, dtype: DType) -> Self {
        Self { device, load, dtype, cancel: None, attention: false, activations: false }
    }

    /// The same, whose runs end with [`Error::Cancelled`] soon after `cancel` says so.
    pub fn with_cancel(self, cancel: &'a Cancel) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    /// The same, whose runs show where the picture looks at the text.
    pub fn with_attention(self) -> Self {
        Self { attention: true, ..self }
    }

    /// The same, whose runs show how large the numbers inside the model are.
    pub fn with_activations(self) -> Self {
        Self { activations: true, ..self }
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if not.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.is_cancelled() => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}

/// A request to stop, from any thread. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks every run that looks at this, or at a clone, to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a run was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
