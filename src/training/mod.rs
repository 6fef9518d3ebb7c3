//! Training: a step is one graph, of the model, its loss, the gradient of every parameter that is trained, and the
//! optimizer's update of it. Parameters and the optimizer's state live on the device from one step to the next.
//!
//! [`TrainingGraph`] makes the step of any graph that has a difference to make small; [`Trainer`] runs it.
//! `pipelines::DiffusionPipeline::training_model` knows what that difference is for a diffusion model.

mod coefficients;
mod lora;
mod muon;
mod optimizer;
mod rate;
mod step;
mod trainable;
mod trainer;
mod word;

pub use coefficients::StepSettings;
pub use lora::{ATTENTION, LORA, Lora};
pub use optimizer::{Keeps, Optimizer, OptimizerKind, State};
pub use rate::{RateSchedule, RateScheduleKind};
pub(crate) use step::{BOUND, DIFFERENCE};
pub use step::{TrainingGraph, checkpoints_at};
pub use trainable::Trainable;
pub use trainer::{Report, Trainer};
pub use word::{TEXT_ENCODER, VECTORS, WORD, with_word};
