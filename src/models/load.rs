//! Models by their names in a checkpoint.

use super::autoencoder_kl::{AutoencoderKL, DecoderKL, EncoderKL};
use super::autoencoder_tiny::{AutoencoderTiny, DecoderTiny, EncoderTiny};
use super::clip_text::CLIPTextModel;
use super::ldm_bert::LDMBertModel;
use super::model::Model;
use super::unet_2d::UNet2DModel;
use super::unet_2d_condition::UNet2DConditionModel;
use super::vq_model::{DecoderVQ, EncoderVQ, VQModel};
use crate::checkpoint::{Checkpoint, Json, Weights};
use crate::error::{Error, Result};

/// A model of a checkpoint with its parameters.
#[derive(Debug)]
pub struct LoadedModel {
    /// The class that its config or `model_index.json` names.
    pub class_name: String,
    /// `config.json`.
    pub config: Json,
    /// The model.
    pub model: Box<dyn Model>,
    /// Its parameters, none of them read yet.
    pub weights: Weights,
}

impl LoadedModel {
    /// Opens a model by its name in the pipeline: `unet`, `text_encoder`, `text_encoder_2`, `bert`; an
    /// autoencoder's halves are `vae.encoder` and `vae.decoder`.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such model, [`Error::Usage`] if it has no such half,
    /// [`Error::Unsupported`] for a class that the engine does not have; and what the class's config and
    /// [`Weights::new`] report.
    pub fn open(checkpoint: &Checkpoint, name: &str) -> Result<Self> {
        let (stem, half) = name.split_once('.').map_or((name, None), |(stem, half)| (stem, Some(half)));
        let component = checkpoint.component(stem)?;
        let config = component.config.clone();
        let file = config.path.display();
        let class_name = component.class_name.clone().ok_or_else(|| {
            Error::Config(format!(
                "{file}: neither this file nor model_index.json names the class of {stem} (`_class_name`)"
            ))
        })?;

        let model: Box<dyn Model> = match (class_name.as_str(), half) {
            ("UNet2DModel", None) => Box::new(UNet2DModel::from_json(&config)?),
            ("UNet2DConditionModel", None) => Box::new(UNet2DConditionModel::from_json(&config)?),
            ("CLIPTextModel" | "CLIPTextModelWithProjection", None) => {
                Box::new(CLIPTextModel::from_json(&config, Some(&class_name))?)
            }
            ("LDMBertModel", None) => Box::new(LDMBertModel::from_json(&config)?),
            ("AutoencoderKL", Some("encoder")) => Box::new(EncoderKL(AutoencoderKL::from_json(&config)?)),
            ("AutoencoderKL", Some("decoder")) => Box::new(DecoderKL(AutoencoderKL::from_json(&config)?)),
            ("AutoencoderTiny", Some("encoder")) => Box::new(EncoderTiny(AutoencoderTiny::from_json(&config)?)),
            ("AutoencoderTiny", Some("decoder")) => Box::new(DecoderTiny(AutoencoderTiny::from_json(&config)?)),
            ("VQModel", Some("encoder")) => Box::new(EncoderVQ(VQModel::from_json(&config)?)),
            ("VQModel", Some("decoder")) => Box::new(DecoderVQ(VQModel::from_json(&config)?)),
            ("AutoencoderKL" | "AutoencoderTiny" | "VQModel", _) => {
                // In a folder of its own an autoencoder has any name, so that a half's may have been taken for it.
                let stem = match (stem, class_name.as_str()) {
                    ("encoder" | "decoder", "VQModel") => "vqvae",
                    ("encoder" | "decoder", _) => "vae",
                    _ => stem,
                };
                return Err(Error::Usage(format!(
                    "{name}: an autoencoder has two halves, {stem}.encoder and {stem}.decoder"
                )));
            }
            (
                "UNet2DModel"
                | "UNet2DConditionModel"
                | "CLIPTextModel"
                | "CLIPTextModelWithProjection"
                | "LDMBertModel",
                Some(_),
            ) => {
                return Err(Error::Usage(format!("{name}: {stem} is one model and has no halves")));
            }
            _ => {
                return Err(Error::Unsupported(format!(
                    "{file}: a model of class \"{class_name}\"; there are UNet2DModel, UNet2DConditionModel, \
                    AutoencoderKL, AutoencoderTiny, VQModel, CLIPTextModel, CLIPTextModelWithProjection and \
                    LDMBertModel"
                )));
            }
        };
        let parameters = match (class_name.as_str(), half) {
            ("AutoencoderKL", Some("decoder")) => {
                AutoencoderKL::from_json(&config)?.parameters_among(&component.tensors.names())?
            }
            _ => model.parameters()?,
        };
        let weights = Weights::of(&component, &parameters)?;
        Ok(Self { class_name, config, model, weights })
    }
}
