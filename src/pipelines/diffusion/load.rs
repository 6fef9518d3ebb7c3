//! Reading a pipeline: which folders and files there are, and what a checkpoint's parts say of it.

use super::unet::UNet;
use super::{DiffusionPipeline, Kind, Traits};
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::{Error, Result};
use crate::models::{ClassEmbedding, ConditionClassEmbedding};
use crate::overflow::F32Fallback;
use crate::pipelines::autoencoder::Autoencoder;
use crate::pipelines::text::TextEncoders;
use crate::refusal::Refusal;
use crate::schedulers::{Frame, Scheduler, SchedulerClass, SchedulerConfig};

/// Pipelines of diffusers without text whose checkpoints this one runs.
pub const PIXEL_PIPELINES: &[&str] = &[
    "DDPMPipeline",
    "DDIMPipeline",
    "ScoreSdeVePipeline",
    "ScoreSdeVpPipeline",
    "KarrasVePipeline",
    "ConsistencyModelPipeline",
    "RePaintPipeline",
    LDM,
    LDM_SUPER_RESOLUTION,
];

/// The pipeline whose U-Net is one on pixels that works on latents.
const LDM: &str = "LDMPipeline";

/// Such a pipeline whose U-Net sees a small picture, too.
const LDM_SUPER_RESOLUTION: &str = "LDMSuperResolutionPipeline";

/// Text to image before Stable Diffusion, with a text encoder of its own.
const LDM_TEXT: &str = "LDMTextToImagePipeline";

/// Pipelines of diffusers with text whose checkpoints this one runs.
pub const STABLE_DIFFUSION_PIPELINES: &[&str] = &[
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    LDM_TEXT,
];

/// Pipelines that correct old scheduler configs when they are loaded, as diffusers' do.
const MENDING: &[&str] =
    &["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];

impl DiffusionPipeline {
    /// The scheduler config of a checkpoint as its pipeline uses it. The first Stable Diffusion checkpoints were
    /// published with a `steps_offset` of 0 and with `clip_sample`, by mistake: diffusers corrects both on
    /// loading, and so does this.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn scheduler_config(checkpoint: &Checkpoint) -> Result<SchedulerConfig> {
        Self::mended(SchedulerConfig::read(&checkpoint.scheduler_config("scheduler")?)?, checkpoint)
    }

    /// As [`DiffusionPipeline::scheduler_config`], for a run with another scheduler: of one that the engine does not
    /// know, what it says of the model's training ([`SchedulerConfig::training`]).
    ///
    /// # Errors
    /// As [`SchedulerConfig::training`].
    pub fn training_config(checkpoint: &Checkpoint) -> Result<SchedulerConfig> {
        Self::mended(SchedulerConfig::training(&checkpoint.scheduler_config("scheduler")?)?, checkpoint)
    }

    fn mended(config: SchedulerConfig, checkpoint: &Checkpoint) -> Result<SchedulerConfig> {
        if !checkpoint.pipeline_class().is_some_and(|class| MENDING.contains(&class)) {
            return Ok(config);
        }
        config.for_stable_diffusion()
    }

    /// Checks that a checkpoint is one that this pipeline runs; a bare component may be.
    ///
    /// # Errors
    /// [`Error::Unsupported`] listing those that there are.
    pub fn check_class(checkpoint: &Checkpoint) -> Result<()> {
        match checkpoint.pipeline_class() {
            Some(class) if !PIXEL_PIPELINES.contains(&class) && !STABLE_DIFFUSION_PIPELINES.contains(&class) => {
                Err(Error::Unsupported(format!(
                    "{}: a {class}; there are {} and {}",
                    checkpoint.path().display(),
                    PIXEL_PIPELINES.join(", "),
                    STABLE_DIFFUSION_PIPELINES.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// Loads everything but the weights themselves, which each step of [`DiffusionPipeline::sample`] reads when it
    /// needs them.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] for configs, [`Error::Checkpoint`] for weights.
    pub fn load(checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<Self> {
        Self::check_class(checkpoint)?;
        let component = checkpoint.component("unet")?;
        let unet = UNet::new(checkpoint, &component)?;
        let unet_weights = Weights::of(&component, &unet.as_model().parameters()?)?;
        let xl = unet.has_text_time();
        let mut text = None;
        let vae = autoencoder(checkpoint, &unet, xl)?;
        let kind = kind(checkpoint, &unet, vae.as_ref())?;
        let low_res = match kind {
            Kind::Upscale => {
                let config = SchedulerConfig::read(&checkpoint.scheduler_config("low_res_scheduler")?)?;
                Some(Scheduler::new(config)?)
            }
            _ => None,
        };
        if let UNet::Latents(_) = unet {
            text = Some(TextEncoders::load(checkpoint, xl)?);
        }
        let flag = |name, default| checkpoint.option(name).and_then(serde_json::Value::as_bool).unwrap_or(default);
        let scale = vae.as_ref().map_or(1, Autoencoder::downscale);
        let (classes, multiple) = match &unet {
            UNet::Latents(_) => (None, scale),
            UNet::Pixels(model) => {
                let classes = match model.config.class_embedding {
                    ClassEmbedding::Table(rows) | ClassEmbedding::Timestep(Some(rows)) => Some(rows),
                    _ => None,
                };
                (classes, scale << model.config.halvings().min(24))
            }
        };
        let traits = Traits {
            kind,
            xl,
            aesthetic: xl && flag("requires_aesthetics_score", false),
            consistency: scheduler.config.class.frame() == Frame::Consistency
                || checkpoint.pipeline_class().is_some_and(|class| class.starts_with("LatentConsistency")),
            distilled: unet.time_cond_proj_dim().is_some(),
            steps: match scheduler.config.class {
                SchedulerClass::ScoreSdeVe => Some(2000),
                SchedulerClass::ScoreSdeVp => Some(1000),
                _ => None,
            },
            max_noise_level: (kind == Kind::Upscale).then(|| {
                let max = checkpoint.option("max_noise_level").and_then(serde_json::Value::as_u64);
                max.map_or(350, |max| max as usize)
            }),
            classes,
            lacks_labels: match &unet {
                UNet::Pixels(model) => match model.config.class_embedding {
                    ClassEmbedding::Timestep(None) => Some(
                        "its U-Net's class_embed_type is \"timestep\", and without num_class_embeds its config does \
                         not say which labels there are",
                    ),
                    ClassEmbedding::Identity => Some(
                        "its U-Net's class_embed_type is \"identity\": each label is a whole embedding, which only a \
                         single pass takes (`unmist run`)",
                    ),
                    ClassEmbedding::None | ClassEmbedding::Table(_) | ClassEmbedding::Timestep(Some(_)) => None,
                },
                UNet::Latents(_) => None,
            },
            ldm_text: checkpoint.pipeline_class() == Some(LDM_TEXT),
            classifier: None,
            own_size: unet.sample_size().map(|(height, width)| (height * scale, width * scale)),
            multiple,
            scale,
        };
        let zero_negative = xl && flag("force_zeros_for_empty_prompt", true);
        let unet_fallback = F32Fallback::new("U-Net");
        Ok(Self {
            traits,
            scheduler,
            vae,
            text,
            unet,
            unet_weights,
            unet_fallback,
            low_res,
            zero_negative,
            classifier: None,
        })
    }
}

/// The autoencoder of a model on latents: `vae`, or `vqvae` in the first latent diffusion models.
fn autoencoder(checkpoint: &Checkpoint, unet: &UNet, xl: bool) -> Result<Option<Autoencoder>> {
    let first = checkpoint.pipeline_class().filter(|class| [LDM, LDM_SUPER_RESOLUTION, LDM_TEXT].contains(class));
    let Some(class) = first else {
        let latents = matches!(unet, UNet::Latents(_));
        return latents.then(|| Autoencoder::load(checkpoint, "vae", xl)).transpose();
    };
    // They call their components otherwise, and so would not look at these.
    for field in ["vae", "text_encoder", "text_encoder_2"] {
        if checkpoint.component_names().iter().any(|name| name == field) {
            let why = format!("the folder of a {class} has an autoencoder and texts of its own, `vqvae` and `bert`");
            return Err(Refusal::of(field, why).into());
        }
    }
    let vqvae = Autoencoder::load(checkpoint, "vqvae", false)?;
    // That pipeline does not look at the factor.
    Ok(Some(if class == LDM_SUPER_RESOLUTION { vqvae.unscaled() } else { vqvae }))
}

/// What a U-Net is for, by the channels it takes.
fn kind(checkpoint: &Checkpoint, unet: &UNet, vae: Option<&Autoencoder>) -> Result<Kind> {
    let Some(latent) = vae.map(Autoencoder::latent_channels) else { return Ok(Kind::Pixels) };
    let (taken, classes) = (unet.in_channels(), unet.condition_classes());
    if let UNet::Pixels(_) = unet {
        let small = checkpoint.pipeline_class() == Some(LDM_SUPER_RESOLUTION);
        let (expected, kind) = if small { (latent + 3, Kind::SuperResolution) } else { (latent, Kind::Pixels) };
        if taken == expected {
            return Ok(kind);
        }
        let file = checkpoint.path().display();
        let beside = if small { " and the small picture 3" } else { "" };
        return Err(Error::Config(format!("{file}: the U-Net takes {taken} channels, latents have {latent}{beside}")));
    }
    let found = match (taken, classes) {
        (n, ConditionClassEmbedding::None) if n == latent => Some(Kind::Plain),
        (n, ConditionClassEmbedding::None) if n == 2 * latent + 1 => Some(Kind::Inpaint),
        (n, ConditionClassEmbedding::None) if n == 2 * latent => Some(Kind::Edit),
        (n, ConditionClassEmbedding::Table(_)) if n == latent + 3 => Some(Kind::Upscale),
        _ => None,
    };
    found.ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: a U-Net that takes {taken} channels for latents of {latent} and the class embedding {classes:?}; \
            there are text to image ({latent} channels), inpainting ({}), editing ({}) and, with a table of classes, \
            enlarging ({})",
            checkpoint.path().display(),
            2 * latent + 1,
            2 * latent,
            latent + 3,
        ))
    })
}
