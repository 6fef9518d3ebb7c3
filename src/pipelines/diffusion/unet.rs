//! The U-Net of a pipeline: one on pixels, or one on latents with a text.

use crate::checkpoint::{Checkpoint, Component};
use crate::error::Result;
use crate::graph::{TensorDesc, ValueId};
use crate::models::{ConditionClassEmbedding, Layers, Model, Sizes, UNet2DConditionModel, UNet2DInputs, UNet2DModel};
use crate::pipelines::{ModelCall, STABLE_DIFFUSION_PIPELINES};

/// The two kinds of U-Net.
pub(super) enum UNet {
    Pixels(UNet2DModel),
    Latents(UNet2DConditionModel),
}

impl UNet {
    /// The U-Net that a checkpoint's component describes.
    ///
    /// # Errors
    /// What the configs of the two report.
    pub fn new(checkpoint: &Checkpoint, component: &Component) -> Result<Self> {
        let latents = component.class_name.as_deref() == Some("UNet2DConditionModel")
            || checkpoint.pipeline_class().is_some_and(|class| STABLE_DIFFUSION_PIPELINES.contains(&class));
        Ok(if latents {
            Self::Latents(UNet2DConditionModel::from_json(&component.config)?)
        } else {
            Self::Pixels(UNet2DModel::from_json(&component.config)?)
        })
    }

    /// Either of them as a [`Model`].
    pub fn as_model(&self) -> &dyn Model {
        match self {
            Self::Pixels(model) => model,
            Self::Latents(model) => model,
        }
    }

    /// Channels of its input.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::Pixels(model) => model.config.in_channels,
            Self::Latents(model) => model.config.in_channels,
        }
    }

    /// Rows and columns of the samples that it was trained on.
    pub fn sample_size(&self) -> Option<(usize, usize)> {
        match self {
            Self::Pixels(model) => model.config.sample_size,
            Self::Latents(model) => Some(model.config.sample_size.unwrap_or((64, 64))),
        }
    }

    /// Whether it takes Stable Diffusion XL's numbers about the picture.
    pub fn has_text_time(&self) -> bool {
        matches!(self, Self::Latents(model) if model.config.text_time.is_some())
    }

    /// Width of the guidance scale's embedding in distilled models.
    pub fn time_cond_proj_dim(&self) -> Option<usize> {
        match self {
            Self::Pixels(_) => None,
            Self::Latents(model) => model.config.time_cond_proj_dim,
        }
    }

    /// How a model on latents takes classes; only enlarging uses them.
    pub fn condition_classes(&self) -> ConditionClassEmbedding {
        match self {
            Self::Pixels(_) => ConditionClassEmbedding::None,
            Self::Latents(model) => model.config.class_embedding,
        }
    }

    /// Adds one call to a graph, with the inputs that it needs besides `call`: `condition` `[N, H, W, C′]` if the U-Net
    /// takes more channels than `call.sample` has, and those of its class.
    ///
    /// # Errors
    /// As the models' `build`.
    pub fn build(&self, m: &mut Layers<'_>, sizes: &Sizes, call: ModelCall) -> Result<ValueId> {
        let ModelCall { mut sample, timestep, coefficients } = call;
        match self {
            Self::Pixels(model) => {
                let beside = model.config.in_channels - m.graph.desc(sample).channels();
                if beside > 0 {
                    let desc = TensorDesc::f32([sizes.batch, sizes.height, sizes.width, beside]);
                    let mut condition = m.graph.condition("condition", desc);
                    // Unlike those with text, such a model sees both scaled.
                    if let Some(coefficients) = coefficients {
                        let factor = m.graph.slice("input_scale", coefficients, 0, 0, 1)?;
                        condition = m.graph.mul("scaled_condition", condition, factor)?;
                    }
                    sample = m.graph.concat("sample_and_condition", sample, condition, -1)?;
                }
                let class_labels =
                    model.class_labels_desc(sizes.batch).map(|desc| m.graph.condition("class_labels", desc));
                model.build(m, UNet2DInputs { sample, timestep, class_labels })
            }
            Self::Latents(model) => {
                let beside = model.config.in_channels - m.graph.desc(sample).channels();
                if beside > 0 {
                    let desc = TensorDesc::f32([sizes.batch, sizes.height, sizes.width, beside]);
                    let condition = m.graph.condition("condition", desc);
                    sample = m.graph.concat("sample_and_condition", sample, condition, -1)?;
                }
                let inputs = model.inputs(m.graph, sizes, sample, timestep)?;
                model.build(m, inputs)
            }
        }
    }
}
