//! A whole Stable Diffusion checkpoint in one `.safetensors` file, in the key layout of the original code: SD 1.x, 2.x,
//! XL and their inpainting, instruct-pix2pix and upscaling relatives.
//!
//! The file holds no configuration. What shapes tell is read from them (`ldm_config.rs`); what they cannot tell is
//! assumed, and [`SingleFile::assumptions`] says so. Names are translated by `ldm_keys.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::ldm_config::{self, Inferred};
use super::ldm_keys::{self, Part, TEXT_TOWERS, Tower};
use super::{Component, Json, TensorSource, Tensors, quoted};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::files::{Disk, Files};
use crate::graph::Stored;
use crate::refusal::{Refusal, Remedy};
use crate::tensor::HostTensor;

/// A single-file checkpoint.
#[derive(Debug)]
pub struct SingleFile {
    file: Arc<Tensors>,
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
        let file = Arc::new(file);
        recognise(&file)?;
        let inferred = ldm_config::infer(&file)?;
        let index = json(&file, "model_index.json", inferred.index.clone());
        Ok(Self { file, inferred, index })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What `model_index.json` would say.
    pub fn index(&self) -> &Json {
        &self.index
    }

    /// What the shapes do not tell and was assumed, one sentence each.
    pub fn assumptions(&self) -> &[String] {
        &self.inferred.assumptions
    }

    /// Configuration and weights of a model, e.g. `unet`.
    ///
    /// # Errors
    /// [`Error::Config`] if the file does not hold it.
    pub fn component(&self, name: &str) -> Result<Component> {
        let config = self.config(name)?;
        let class_name = self.index.value[name][1].as_str().map(str::to_owned);
        let tensors = Arc::new(Translated { pieces: self.pieces(name), file: self.file.clone() });
        Ok(Component { name: name.to_owned(), class_name, config, tensors })
    }

    /// The configuration of a model or scheduler by its name in the pipeline.
    ///
    /// # Errors
    /// [`Error::Config`] if the file does not hold it.
    pub fn config(&self, name: &str) -> Result<Json> {
        let Some(config) = self.inferred.configs.get(name) else {
            let names: Vec<_> = self.inferred.configs.keys().map(|name| quoted(name)).collect();
            return Err(Error::Config(format!(
                "{}: the file holds no {}; it holds {}",
                self.path().display(),
                quoted(name),
                names.join(", ")
            )));
        };
        Ok(json(&self.file, name, config.clone()))
    }

    /// New name → where it is stored. A key that the map does not know keeps its name, so that the model reports it.
    fn pieces(&self, component: &str) -> BTreeMap<String, Piece> {
        let mut pieces = BTreeMap::new();
        let mut add = |stored: &str, new: Vec<(String, Part)>| {
            let stored_shape = self.file.info(stored).expect("it was listed").shape;
            // A key that the map does not know, or whose new name is taken.
            let known = !new.is_empty() && !new.iter().any(|(name, _)| pieces.contains_key(name));
            let new = if known { new } else { vec![(stored.to_owned(), Part::Whole)] };
            for (name, part) in new {
                let (part, shape) = match (part, stored_shape) {
                    (Part::Third(_), &[rows, ref rest @ ..]) if rows.is_multiple_of(3) => {
                        (part, [&[rows / 3], rest].concat())
                    }
                    (Part::Transposed, &[rows, columns]) => (part, vec![columns, rows]),
                    // If it should be split and cannot be, its shape will not fit.
                    _ => (Part::Whole, stored_shape.to_vec()),
                };
                pieces.insert(name, Piece { stored: stored.to_owned(), shape, part });
            }
        };
        let whole = |name: Option<String>| name.map(|name| (name, Part::Whole)).into_iter().collect();
        for stored in self.file.names() {
            match component {
                "unet" => {
                    if let Some(key) = stored.strip_prefix(ldm_keys::UNET) {
                        add(stored, whole(ldm_keys::unet(key, &self.inferred.levels, self.inferred.vector)));
                    }
                }
                "vae" => {
                    if let Some(key) = stored.strip_prefix(ldm_keys::VAE) {
                        add(stored, whole(ldm_keys::vae(key, self.inferred.vae_levels)));
                    }
                }
                _ => {
                    for &(prefix, tower, _) in TEXT_TOWERS.iter().filter(|(_, _, name)| *name == component) {
                        let Some(key) = stored.strip_prefix(prefix) else { continue };
                        let layer = ldm_keys::open_clip_layer(key).map(|(layer, _)| layer);
                        let dropped = tower == Tower::OpenClipPenultimate
                            && (key == "text_projection"
                                || layer.is_some_and(|layer| layer >= self.inferred.text_layers));
                        // A temperature that only training uses.
                        if dropped || key == "logit_scale" {
                            continue;
                        }
                        match tower {
                            Tower::Clip => add(stored, vec![(key.to_owned(), Part::Whole)]),
                            _ => add(stored, ldm_keys::open_clip(key)),
                        }
                    }
                }
            }
        }
        pieces
    }
}

fn json(file: &Tensors, name: &str, value: Value) -> Json {
    let text = serde_json::to_string_pretty(&value).expect("a JSON value always prints");
    Json { path: format!("{} ({name}, inferred)", file.path().display()).into(), text, value }
}

/// Refuses a file that is not a checkpoint in the original layout, and says what it is instead.
fn recognise(file: &Tensors) -> Result<()> {
    if file.info("model.diffusion_model.input_blocks.0.0.weight").is_some() {
        return Ok(());
    }
    let begins: BTreeSet<&str> = file.names().map(|name| name.split(['.', '_']).next().unwrap_or(name)).collect();
    let has = |part: &str| file.names().any(|name| name.contains(part));
    if has("lora_up") || has("lora_A") || has("lora.up") {
        let why = "expected a model; the file is a LoRA, which is applied to one";
        return Err(Refusal::of_value("model", file.path().display(), why).instead(Remedy::Give(&["lora"])).into());
    }
    let what = if has("double_blocks.") || has("joint_blocks.") {
        "it is a diffusion transformer (SD 3, Flux …), which is not supported".to_owned()
    } else if has("down_blocks.") || has("encoder.layers.") {
        "it is a single component in diffusers' layout: give the folder that holds it and its config.json".to_owned()
    } else {
        let shown: Vec<_> = begins.into_iter().take(8).map(quoted).collect();
        format!("its names begin with {}", shown.join(", "))
    };
    Err(Error::Unsupported(format!(
        "{}: expected a Stable Diffusion checkpoint in the original layout (with \
        `model.diffusion_model.input_blocks.0.0.weight`); {what}",
        file.path().display()
    )))
}

/// Where the tensor with a new name is stored.
#[derive(Debug)]
struct Piece {
    stored: String,
    shape: Vec<usize>,
    part: Part,
}

/// The tensors of one component under their new names.
struct Translated {
    file: Arc<Tensors>,
    pieces: BTreeMap<String, Piece>,
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
