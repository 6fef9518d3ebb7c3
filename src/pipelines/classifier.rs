//! Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4): the gradient of log p(y | x_t, t), of a
//! classifier of noised pictures, in the graph of a step.

use super::denoise::DenoiseSpec;
use crate::error::{Error, Result};
use crate::graph::{Graph, Kept, TensorDesc, ValueId};
use crate::models::{EncoderUNetModel, Layers};
use crate::ops::scale_noise::LearnedVariance;
use crate::refusal::Refusal;
use crate::schedulers::{Frame, PredictionType, Schedule, SchedulerClass, SchedulerConfig};
use crate::tensor::{DType, HostTensor};

/// The name of the classifier's parameters among several sources ([`crate::graph::WeightSources`]), and what its
/// operations' names begin with.
pub(super) const CLASSIFIER: &str = "classifier";
/// Input of a step's graph: 1 at the class of each picture, 0 elsewhere, `[N, classes]`.
pub(super) const LABELS: &str = "classifier_labels";
/// Input of a step's graph: what the gradient is multiplied with, `[1]`.
pub(super) const FACTOR: &str = "classifier_factor";

/// What the gradient moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Algorithm 1: the mean of the next sample, by scale · variance · gradient.
    Mean,
    /// Algorithm 2: the predicted noise, by −scale · √(1 − ᾱ_t) · gradient.
    Noise,
}

/// A classifier, and what its gradient moves.
#[derive(Clone, Copy, Debug)]
pub struct ClassifierGuidance<'a> {
    /// The classifier.
    pub model: &'a EncoderUNetModel,
    /// What is moved.
    pub moved: Moved,
}

impl Moved {
    /// What a scheduler lets a classifier move: DDPM the mean; others the noise, where the model predicts that.
    ///
    /// # Errors
    /// A refusal of a scheduler for models that know noise by other means than numbered timesteps, and of one with
    /// models that do not predict noise.
    pub fn by(scheduler: &SchedulerConfig) -> std::result::Result<Self, Refusal> {
        let refuse = |why| Refusal::of_value("scheduler", scheduler.class.name(), why);
        match (scheduler.class, scheduler.class.frame(), scheduler.prediction_type) {
            (SchedulerClass::Ddpm, ..) => Ok(Self::Mean),
            (_, Frame::Timesteps, PredictionType::Epsilon) => Ok(Self::Noise),
            (_, Frame::Timesteps, _) => Err(refuse(
                "a classifier's gradient is added to predicted noise, and this model predicts something else \
                 (prediction_type); DDPM, which moves the mean, is the one scheduler for it",
            )),
            _ => Err(refuse("classifiers know noise by numbered timesteps, and this scheduler has none")),
        }
    }

    /// What the gradient is multiplied with in each call of the model, but for a learned variance.
    pub(super) fn factors(self, schedule: &Schedule, scale: f64) -> Vec<f64> {
        let noise_coefficient = 3; // sample, model output, x_0, noise
        let factor = |step: &crate::schedulers::Step| match self {
            // σ_t²; without noise there is no variance.
            Self::Mean => step.prev_sample.coefficients(schedule.memory_slots)[noise_coefficient].powi(2),
            // x_0 = (x − σ ε) / α, so that this is −√(1 − ᾱ_t) in the model's input, which has α² + σ² = 1.
            Self::Noise => step.input_scale * step.x0.model_output / step.x0.sample,
        };
        schedule.steps.iter().map(|step| scale * factor(step)).collect()
    }
}

/// The factors of a run as values of [`FACTOR`].
pub(super) fn factor(value: f64) -> HostTensor {
    HostTensor { shape: vec![1], data: vec![value as f32] }
}

/// ∇ log p(y | x, t) with respect to `sample` `[N, H, W, C]`, times [`FACTOR`]. The classifier computes in f32: in f16
/// small gradients would vanish.
///
/// # Errors
/// As [`EncoderUNetModel::build`].
pub(super) fn scaled_gradient(
    g: &mut Graph,
    model: &EncoderUNetModel,
    sample: ValueId,
    timestep: ValueId,
) -> Result<ValueId> {
    let first = g.nodes().len();
    let batch = g.shape(sample)[0];
    let labels = g.condition(LABELS, TensorDesc::f32([batch, model.classes]));
    let factor = g.input(FACTOR, TensorDesc::f32([1]));
    let mut layers = Layers::new(g, DType::F32);
    let logits = layers.from_source(CLASSIFIER, |m| model.build(m, sample, timestep))?;

    // The gradient of log softmax at y: 1 at y, minus the softmax.
    let softmax = g.softmax("softmax", logits)?;
    let negative = g.scale("minus_softmax", softmax, -1.0, 0.0)?;
    let seed = g.add("seed", negative, labels)?;
    let gradients = g.differentiate(logits, seed, &[sample], &Kept::All)?;
    let gradient = gradients[0].ok_or_else(|| Error::Config("the classifier does not see the picture".into()))?;
    let scaled = g.mul("scaled_gradient", gradient, factor)?;
    g.prefix_operations(first, "classifier.");
    Ok(scaled)
}

/// `model_output` `[N, .., C or 2C]` with `delta` `[N, .., C]` added to its first C channels.
///
/// # Errors
/// As [`Graph::push`].
pub(super) fn moved_noise(g: &mut Graph, model_output: ValueId, delta: ValueId) -> Result<ValueId> {
    let (all, channels) = (g.desc(model_output).channels(), g.desc(delta).channels());
    if all == channels {
        return g.add("guided_noise", model_output, delta);
    }
    let noise = g.slice("noise_part", model_output, -1, 0, channels)?;
    let variance = g.slice("variance_part", model_output, -1, channels, all - channels)?;
    let noise = g.add("guided_noise", noise, delta)?;
    g.concat("guided_output", noise, variance, -1)
}

/// `state` `[1, N, .., C]` of a scheduler without memory, with `delta` `[N, .., C]` added, times the learned variance
/// if there is one.
///
/// # Errors
/// As [`Graph::push`].
pub(super) fn moved_mean(
    g: &mut Graph,
    spec: &DenoiseSpec<'_>,
    state: ValueId,
    delta: ValueId,
    learned: Option<(LearnedVariance, ValueId, ValueId)>,
) -> Result<ValueId> {
    let mut delta = delta;
    if let Some((kind, model_output, coefficients)) = learned {
        // σ · noise, twice: σ² · gradient.
        for name in ["deviation_of_gradient", "variance_of_gradient"] {
            delta = g.scale_noise(name, delta, model_output, coefficients, kind)?;
        }
    }
    let delta = g.reshape("shift", delta, [&[1], &spec.shape[..]].concat())?;
    g.add("guided_mean", state, delta)
}
