//! Configurations of a single-file checkpoint, inferred from the names and shapes of its tensors.
//!
//! The family comes from the U-Net, the text towers follow from it. Shapes do not tell everything: not the number of
//! attention heads (8 in SD 1 and the upscaler, 64 channels a head in SD 2 and XL), the groups of the norms (32), what
//! the U-Net predicts, the noise schedule, the scale of the latents and the size of the pictures it was trained on.
//! These are the values that the published models of each family have, unless the file's own metadata say otherwise.

mod scheduler;
mod shapes;
mod stated;
mod text;
mod unet;
mod vae;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use shapes::Shapes;
use stated::Stated;

use super::Tensors;
use super::layout::Names;
use super::single_file::Pieces;
use crate::error::Result;

pub use shapes::Evidence;

/// What a file was found to be.
#[derive(Debug)]
pub struct Inferred {
    /// `model_index.json`.
    pub index: Value,
    /// Component → its `config.json` or `scheduler_config.json`.
    pub configs: BTreeMap<String, Value>,
    /// Component → its tensors in diffusers' names, without those that its model does not have.
    pub pieces: BTreeMap<String, Pieces>,
    /// `generation_config.json`: the settings that a distilled model wants.
    pub generation: Option<Value>,
    /// Component → what its configuration was read from.
    pub evidence: BTreeMap<String, Vec<Evidence>>,
    /// What was assumed.
    pub assumptions: Vec<Assumption>,
    /// The timesteps that the U-Net was trained on, where the file says that these are not all: first and last.
    pub timestep_range: Option<(usize, usize)>,
    /// What kind of model it is.
    pub family: Family,
}

/// Something that was assumed because the files do not say it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumption {
    /// What, and why.
    pub what: String,
    /// The field of a [`Request`](crate::request::Request) that says otherwise, if there is one.
    pub field: Option<&'static str>,
}

impl fmt::Display for Assumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.field.map_or(Ok(()), |field| write!(f, " (`{field}` says otherwise)"))
    }
}

/// What a file holds: the pieces of each model, in diffusers' names.
#[derive(Default)]
pub struct Models {
    /// The denoiser.
    pub unet: Option<Pieces>,
    /// The autoencoder.
    pub vae: Option<Pieces>,
    /// The text towers, and whose names they have.
    pub towers: Vec<(Names, Pieces)>,
}

/// The families, which differ in what the shapes do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// SD 1.x: CLIP text tower, 1×1 convolutions round the transformers, 8 heads.
    Sd1,
    /// SD 2.x: OpenCLIP text tower, 64 channels a head.
    Sd2,
    /// SD 2's 4× upscaler: noise level as a class, 8 heads.
    Upscaler,
    /// XL: vector condition, two text towers.
    Xl,
    /// XL's refiner: vector condition, the second text tower alone.
    Refiner,
}

impl Family {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sd1 => "Stable Diffusion 1",
            Self::Sd2 => "Stable Diffusion 2",
            Self::Upscaler => "Stable Diffusion 2's 4x upscaler",
            Self::Xl => "Stable Diffusion XL",
            Self::Refiner => "Stable Diffusion XL's refiner",
        }
    }

    fn is_xl(self) -> bool {
        matches!(self, Self::Xl | Self::Refiner)
    }

    /// The family of a U-Net with this `config.json`.
    pub fn of_config(unet: &Value) -> Self {
        if unet["addition_embed_type"] == "text_time" {
            if unet["cross_attention_dim"] == 1280 { Self::Refiner } else { Self::Xl }
        } else if !unet["num_class_embeds"].is_null() {
            Self::Upscaler
        } else if unet["use_linear_projection"] == true {
            Self::Sd2
        } else {
            Self::Sd1
        }
    }

    /// The family as the U-Net shows it; `towers` are the widths of the text towers beside it.
    fn of(unet: &Shapes<'_>, towers: &[usize]) -> Result<Self> {
        let context = unet.context()?;
        let matrices = unet.any("family", "attentions.0.proj_in.weight").is_some_and(|shape| shape.len() == 2);
        if unet.decides("family", "class_embedding.weight") {
            return Ok(Self::Upscaler);
        }
        // SD 2's unCLIP models have a vector condition too; XL has no attention at the finest level.
        if unet.decides("family", "add_embedding.linear_1.weight") && unet.count("down_blocks.0.attentions.") == 0 {
            let alone = matches!(*towers, [width] if width == context);
            return Ok(if alone || (towers.is_empty() && context == 1280) { Self::Refiner } else { Self::Xl });
        }
        Ok(match context {
            768 => Self::Sd1,
            1024 => Self::Sd2,
            _ if matrices => Self::Sd2,
            _ => Self::Sd1,
        })
    }
}

/// Infers all configurations of `file`, which holds these models. `part` is the component that it is wanted for, if it
/// is to be a part of another model, and that model's family.
pub fn infer(file: &Tensors, models: Models, part: Option<(&'static str, Family)>) -> Result<Inferred> {
    let towers = models.towers.iter().map(|(_, pieces)| width(pieces)).collect::<Vec<_>>();
    let mut family_from = vec![];
    let family = match &models.unet {
        Some(pieces) => {
            let shapes = Shapes::new(file, pieces);
            let family = Family::of(&shapes, &towers)?;
            family_from = shapes.evidence();
            family
        }
        // Without a U-Net nobody asks for what only the families tell apart, but for what these two do.
        None => match part {
            Some((_, family)) => family,
            None if towers.contains(&1280) => Family::Xl,
            None => Family::Sd1,
        },
    };
    let stated = Stated::of(file.metadata());
    let mut found = Inferred {
        index: Value::Null,
        configs: BTreeMap::new(),
        pieces: BTreeMap::new(),
        generation: None,
        evidence: BTreeMap::new(),
        assumptions: stated.doubts(family),
        timestep_range: stated.timestep_range,
        family,
    };
    if let Some(mut pieces) = models.unet {
        if !family.is_xl() {
            rename(&mut pieces, "add_embedding.", "class_embedding.");
        }
        let pooled = models.towers.iter().filter_map(|(_, tower)| tower.get("text_projection.weight")?.shape.first());
        let shapes = Shapes::new(file, &pieces);
        let config = unet::config(&shapes, family, pooled.max().copied())?;
        // The width of the text is asked for both times.
        let evidence = shapes.evidence().into_iter().filter(|evidence| !family_from.contains(evidence));
        let evidence = family_from.iter().cloned().chain(evidence).collect();
        found.add("unet", config, evidence, pieces);
    }
    let wanted = part.map(|(component, _)| component).filter(|component| component.starts_with("text_encoder"));
    for (component, names, mut pieces) in text::assigned(family, models.towers, wanted) {
        let shapes = Shapes::new(file, &pieces);
        let config = text::config(&shapes, family, component, names)?;
        let evidence = shapes.evidence();
        let layers = config["num_hidden_layers"].as_u64().expect("it was written there") as usize;
        let projects = config["architectures"][0] == "CLIPTextModelWithProjection";
        pieces.retain(|name, _| text::belongs(name, layers, projects));
        found.add(component, config, evidence, pieces);
    }
    if let Some(pieces) = models.vae {
        let shapes = Shapes::new(file, &pieces);
        let config = vae::config(&shapes, family)?;
        let evidence = shapes.evidence();
        found.add("vae", config, evidence, pieces);
    }
    if found.configs.contains_key("unet") {
        scheduler::infer(file, family, &stated, &mut found)?;
        found.index = index(family, &found);
    } else {
        found.index = components(&found);
    }
    Ok(found)
}

impl Inferred {
    fn add(&mut self, component: &str, config: Value, evidence: Vec<Evidence>, pieces: Pieces) {
        self.configs.insert(component.to_owned(), config);
        self.evidence.insert(component.to_owned(), evidence);
        self.pieces.insert(component.to_owned(), pieces);
    }

    /// Whether the U-Net is one of a latent consistency model, which is told the guidance.
    fn is_consistency_model(&self) -> bool {
        self.configs.get("unet").is_some_and(|unet| !unet["time_cond_proj_dim"].is_null())
    }
}

/// Channels of a text tower.
fn width(tower: &Pieces) -> usize {
    let table = tower.iter().find(|(name, _)| name.ends_with("embeddings.token_embedding.weight"));
    table.and_then(|(_, piece)| piece.shape.get(1).copied()).unwrap_or(0)
}

fn projects(tower: &Pieces) -> bool {
    tower.contains_key("text_projection.weight")
}

fn sample_size(family: Family) -> usize {
    match family {
        Family::Sd1 => 64,
        Family::Sd2 => 96, // set to 64 where it predicts epsilon, as 2.0 base and 2.1 base do
        Family::Upscaler | Family::Xl | Family::Refiner => 128,
    }
}

fn rename(pieces: &mut Pieces, old: &str, new: &str) {
    let names: Vec<String> = pieces.keys().filter(|name| name.starts_with(old)).cloned().collect();
    for name in names {
        let piece = pieces.remove(&name).expect("it was listed");
        pieces.insert(format!("{new}{}", &name[old.len()..]), piece);
    }
}

fn index(family: Family, found: &Inferred) -> Value {
    let in_channels = found.configs["unet"]["in_channels"].as_u64();
    let class = match (family, in_channels) {
        (Family::Upscaler, _) => "StableDiffusionUpscalePipeline",
        (Family::Xl, Some(9)) => "StableDiffusionXLInpaintPipeline",
        (Family::Xl, Some(8)) => "StableDiffusionXLInstructPix2PixPipeline",
        (Family::Refiner, _) => "StableDiffusionXLImg2ImgPipeline",
        (Family::Xl, _) => "StableDiffusionXLPipeline",
        (_, Some(9)) => "StableDiffusionInpaintPipeline",
        (_, Some(8)) => "StableDiffusionInstructPix2PixPipeline",
        (_, Some(5)) => "StableDiffusionDepth2ImgPipeline",
        (Family::Sd1, Some(4)) if found.is_consistency_model() => "LatentConsistencyModelPipeline",
        _ => "StableDiffusionPipeline",
    };
    let mut index = components(found);
    index["_class_name"] = class.into();
    if family.is_xl() {
        index["force_zeros_for_empty_prompt"] = (family == Family::Xl).into();
    }
    if family == Family::Refiner {
        index["requires_aesthetics_score"] = true.into();
    }
    if family == Family::Upscaler {
        index["max_noise_level"] = 350.into();
    }
    index
}

/// The components with their classes.
fn components(found: &Inferred) -> Value {
    let mut index = json!({});
    for (name, config) in &found.configs {
        let class = config["_class_name"].as_str().or_else(|| config["architectures"][0].as_str());
        let library = if name.starts_with("text_encoder") { "transformers" } else { "diffusers" };
        index[name] = json!([library, class]);
    }
    index
}
