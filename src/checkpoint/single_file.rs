//! A Stable Diffusion checkpoint in one `.safetensors` or GGUF file, whole or in part: SD 1.x, 2.x, XL and their
//! inpainting, instruct-pix2pix and upscaling relatives, as the original code, diffusers and other programs write them.
//!
//! Which models it holds and in whose names is found by `layout.rs`; the names are translated by `ldm_keys.rs`. The
//! file holds no configuration. What names and shapes tell is read from them (`inferred`); what they cannot tell is
//! assumed, and [`SingleFile::assumptions`] says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::inferred::{self, Assumption, Evidence, Family, Inferred, Models};
use super::layout::{self, Kind, Names, Place};
use super::ldm_keys::{self, Part};
use super::{Component, Json, TensorSource, Tensors, gguf, quoted};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::files::{Disk, Files};
use crate::graph::{Stored, StoredType};
use crate::refusal::{Refusal, Remedy};
use crate::tensor::HostTensor;

/// A single-file checkpoint.
#[derive(Debug)]
pub struct SingleFile {
    file: Arc<Tensors>,
    places: Vec<Place>,
    inferred: Inferred,
    index: Json,
}

impl SingleFile {
    /// Opens a file and infers what it is.
    ///
    /// # Errors
    /// As [`Tensors::open`]; [`Error::Refused`] if the file is a LoRA, [`Error::Unsupported`] if the file is not a
    /// Stable Diffusion checkpoint in the original layout.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(&Disk, path)
    }

    /// As [`SingleFile::open`], of a file among `files`.
    ///
    /// # Errors
    /// As [`SingleFile::open`].
    pub fn open_in(files: &dyn Files, path: impl AsRef<Path>) -> Result<Self> {
        Self::from_tensors(Tensors::open_in(files, path)?)
    }

    /// Infers what the tensors of an open file are.
    ///
    /// # Errors
    /// As [`SingleFile::open`].
    pub fn from_tensors(file: Tensors) -> Result<Self> {
        Self::new(file, None)
    }

    /// As [`SingleFile::open_in`], of a file that gives a model of this family its component `name`.
    pub(super) fn open_part(files: &dyn Files, path: &Path, name: &'static str, family: Family) -> Result<Self> {
        Self::new(Tensors::open_in(files, path)?, Some((name, family)))
    }

    fn new(file: Tensors, part: Option<(&'static str, Family)>) -> Result<Self> {
        let file = Arc::new(file);
        let places = layout::find(&file);
        recognise(&file, &places)?;
        let inferred = inferred::infer(&file, models(&file, &places), part)?;
        let index = json(&file, "model_index.json", inferred.index.clone());
        Ok(Self { file, places, inferred, index })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What kind of model it is.
    pub(super) fn family(&self) -> Family {
        self.inferred.family
    }

    /// What kind of model it is, for people.
    pub fn family_name(&self) -> &'static str {
        self.inferred.family.name()
    }

    /// The models that were found: what each is, in whose names, and behind which prefix.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// What the configuration of a component was read from.
    pub fn evidence(&self, component: &str) -> &[Evidence] {
        self.inferred.evidence.get(component).map_or(&[], Vec::as_slice)
    }

    /// Names of the tensors that belong to no component.
    pub fn unused(&self) -> Vec<String> {
        let used: BTreeSet<&str> = self
            .inferred
            .pieces
            .values()
            .flat_map(|pieces| pieces.values().map(|piece| piece.stored.as_str()))
            .collect();
        let unused = self.file.names().filter(|name| !used.contains(name) && !MARKERS.contains(name));
        unused.map(str::to_owned).collect()
    }

    /// What `model_index.json` would say.
    pub fn index(&self) -> &Json {
        &self.index
    }

    /// What the shapes do not tell and was assumed.
    pub fn assumptions(&self) -> &[Assumption] {
        &self.inferred.assumptions
    }

    /// The timesteps that the U-Net was trained on, first and last, where the file says that these are not all.
    pub fn timestep_range(&self) -> Option<(usize, usize)> {
        self.inferred.timestep_range
    }

    /// What `generation_config.json` would say; `None` if the model wants nothing of its own.
    pub(super) fn generation(&self) -> Option<Json> {
        self.inferred.generation.clone().map(|value| json(&self.file, "generation_config.json", value))
    }

    /// Configuration and weights of a model, e.g. `unet`.
    ///
    /// # Errors
    /// [`Error::Config`] if the file does not hold it.
    pub fn component(&self, name: &str) -> Result<Component> {
        let config = self.config(name)?;
        let class_name = self.index.value[name][1].as_str().map(str::to_owned);
        let pieces = self.inferred.pieces.get(name).cloned().unwrap_or_default();
        let tensors = Arc::new(Translated { pieces, file: self.file.clone() });
        Ok(Component { name: name.to_owned(), class_name, config, tensors, ignore: Arc::default() })
    }

    /// The configuration of a model or scheduler by its name in the pipeline.
    ///
    /// # Errors
    /// [`Error::Config`] if the file does not hold it.
    pub fn config(&self, name: &str) -> Result<Json> {
        let Some(config) = self.inferred.configs.get(name) else {
            let names: Vec<_> = self.inferred.configs.keys().map(|name| quoted(name)).collect();
            let why = format!("the file holds no {}; it holds {}", quoted(name), names.join(", "));
            return Err(super::open::missing(self.path(), name, why));
        };
        Ok(json(&self.file, name, config.clone()))
    }
}

/// What files hold besides their models' tensors: marks of what the model predicts, and a temperature of training.
const MARKERS: &[&str] =
    &["v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "logit_scale"];

/// The models of a file, each tensor under its name in diffusers.
fn models(file: &Tensors, places: &[Place]) -> Models {
    let mut keys = vec![Vec::new(); places.len()];
    for name in file.names() {
        if let Some((place, key)) = layout::owner(places, name).filter(|(_, key)| !MARKERS.contains(key)) {
            keys[place].push((name, key));
        }
    }
    let mut models = Models::default();
    for (place, keys) in places.iter().zip(keys) {
        let pieces = pieces(file, place, &keys);
        match place.kind {
            Kind::UNet => models.unet = Some(pieces),
            Kind::Vae => models.vae = Some(pieces),
            Kind::Text => models.towers.push((place.names, pieces)),
        }
    }
    models
}

/// New name → where it is stored, for the tensors of one model, each with its key behind the prefix. A key that the map
/// does not know keeps its name, so that the model reports it.
fn pieces(file: &Tensors, place: &Place, keys: &[(&str, &str)]) -> Pieces {
    let whole = |name: Option<String>| name.map(|name| (name, Part::Whole)).into_iter().collect();
    let own = || keys.iter().map(|(_, key)| *key);
    let levels = ldm_keys::Levels::of(own());
    let vae_levels = ldm_keys::vae_levels(own());
    let mut pieces = Pieces::new();
    for &(stored, key) in keys {
        let new: Vec<(String, Part)> = match (place.kind, place.names) {
            (Kind::Text, Names::Diffusers) => ldm_keys::clip(key),
            (_, Names::Diffusers) => vec![(key.to_owned(), Part::Whole)],
            (Kind::UNet, _) => whole(ldm_keys::unet(key, &levels)),
            (Kind::Vae, _) => whole(ldm_keys::vae(key, vae_levels)),
            (Kind::Text, _) => ldm_keys::open_clip(key),
        };
        let shape = file.info(stored).expect("it was listed").shape;
        // A key that the map does not know, or whose new name is taken.
        let known = !new.is_empty() && !new.iter().any(|(name, _)| pieces.contains_key(name));
        let new = if known { new } else { vec![(stored.to_owned(), Part::Whole)] };
        for (name, part) in new {
            let (part, shape) = match (part, shape) {
                (Part::Third(_), &[rows, ref rest @ ..]) if rows.is_multiple_of(3) => {
                    (part, [&[rows / 3], rest].concat())
                }
                (Part::Transposed, &[rows, columns]) => (part, vec![columns, rows]),
                // If it should be split and cannot be, its shape will not fit.
                _ => (Part::Whole, shape.to_vec()),
            };
            pieces.insert(name, Piece { stored: stored.to_owned(), shape, part });
        }
    }
    pieces
}

fn json(file: &Tensors, name: &str, value: Value) -> Json {
    let text = serde_json::to_string_pretty(&value).expect("a JSON value always prints");
    let path = format!("{} ({name}, inferred)", file.path().display()).into();
    Json { path, text, value, ignore: Arc::default() }
}

/// How the architectures of language models begin in GGUF files, for a message.
const LANGUAGE_MODELS: &[&str] = &[
    "llama",
    "qwen",
    "gemma",
    "mistral",
    "mixtral",
    "phi",
    "gpt",
    "falcon",
    "bloom",
    "mamba",
    "rwkv",
    "deepseek",
    "command-r",
    "bert",
    "nomic-bert",
    "t5",
    "starcoder",
    "glm",
    "chatglm",
    "granite",
    "olmo",
    "exaone",
    "minicpm",
];

/// Refuses a file in which no model was found, and says what it is instead.
fn recognise(file: &Tensors, places: &[Place]) -> Result<()> {
    let has = |part: &str| file.names().any(|name| name.contains(part));
    if has("lora_up") || has("lora_A") || has("lora.up") {
        let why = "expected a model; the file is a LoRA, which is applied to one";
        return Err(Refusal::of_value("model", file.path().display(), why)
            .instead(Remedy::GiveInstead(&["lora"]))
            .into());
    }
    if !places.is_empty() && !has("double_blocks.") && !has("joint_blocks.") {
        return Ok(());
    }
    let architecture = file.metadata().get(gguf::ARCHITECTURE);
    let begins: BTreeSet<&str> = file.names().map(|name| name.split(['.', '_']).next().unwrap_or(name)).collect();
    let what = if has("double_blocks.") || has("joint_blocks.") {
        "it is a diffusion transformer (SD 3, Flux …), which is not supported".to_owned()
    } else if has("input_hint_block") || has("controlnet_cond_embedding") {
        "it is a ControlNet, which is not supported".to_owned()
    } else if let Some(architecture) = architecture {
        let text = LANGUAGE_MODELS.iter().any(|name| architecture.starts_with(name));
        let kind = if text { "a language model" } else { "another kind of model" };
        format!("its `{}` is {}, {kind}", gguf::ARCHITECTURE, quoted(architecture))
    } else {
        let shown: Vec<_> = begins.into_iter().take(8).map(quoted).collect();
        format!("its names begin with {}", shown.join(", "))
    };
    Err(Error::Unsupported(format!(
        "{}: expected a Stable Diffusion checkpoint, or its U-Net, autoencoder or text encoder alone; {what}",
        file.path().display()
    )))
}

/// The tensors of a model by their names in diffusers.
pub(super) type Pieces = BTreeMap<String, Piece>;

/// Where the tensor with a new name is stored.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Its name in the file.
    pub stored: String,
    /// Its new shape.
    pub shape: Vec<usize>,
    /// Which part of the stored one it is.
    pub part: Part,
}

/// The tensors of one component under their new names.
struct Translated {
    file: Arc<Tensors>,
    pieces: Pieces,
}

impl TensorSource for Translated {
    fn label(&self) -> String {
        self.file.label()
    }

    fn names(&self) -> Vec<String> {
        self.pieces.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.pieces.get(name).map(|piece| piece.shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<HostTensor> {
        let Some(Piece { stored, shape, part }) = self.pieces.get(name) else {
            return Err(Error::Checkpoint(format!("{}: there is no tensor {}", self.label(), quoted(name))));
        };
        let whole = self.file.read_f32(stored)?;
        match part {
            Part::Whole => Ok(whole),
            Part::Third(i) => {
                let third = whole.len() / 3;
                HostTensor::new(shape.clone(), whole.data[i * third..(i + 1) * third].to_vec())
            }
            Part::Transposed => {
                let (rows, columns) = (shape[0], shape[1]);
                Ok(HostTensor::from_fn(shape.clone(), |i| whole.data[i % columns * rows + i / columns]))
            }
        }
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        let piece = self.pieces.get(name)?;
        let whole = self.file.stored(&piece.stored)?;
        match piece.part {
            Part::Whole => Some(whole),
            Part::Third(i) => {
                let third = whole.bytes.len() / 3;
                Some(Stored { bytes: &whole.bytes[i * third..(i + 1) * third], ..whole })
            }
            Part::Transposed => None,
        }
    }

    fn stored_as(&self, name: &str) -> Option<StoredType> {
        self.file.stored_as(&self.pieces.get(name)?.stored)
    }

    fn content(&self, name: &str) -> Result<ContentId> {
        let Some(piece) = self.pieces.get(name) else {
            return Err(Error::Checkpoint(format!("{}: there is no tensor {}", self.label(), quoted(name))));
        };
        let part = format!("{:?}", piece.part);
        Ok(ContentId::of(&[self.file.content(&piece.stored)?.bytes(), part.as_bytes()]))
    }
}

#[cfg(test)]
#[path = "single_file_tests.rs"]
mod tests;
