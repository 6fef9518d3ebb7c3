//! A model on disk, whichever way it lies there.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Component, Folder, Json, SingleFile};
use crate::error::{Error, Result};
use crate::tokenizer::{CLIP_VOCABULARY, Padding, Tokenizer};

/// A model: a diffusers folder, or a single file in the original layout.
#[derive(Debug)]
pub enum Checkpoint {
    /// A folder.
    Folder(Folder),
    /// A single file.
    SingleFile(SingleFile),
}

impl Checkpoint {
    /// Opens a folder or a single `.safetensors` file.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`SingleFile::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        if path.as_ref().is_file() {
            SingleFile::open(path).map(Self::SingleFile)
        } else {
            Folder::open(path).map(Self::Folder)
        }
    }

    /// Prefers weight files of a variant, as [`Folder::with_variant`].
    ///
    /// # Errors
    /// As [`Folder::with_variant`]; [`Error::Usage`] for a single file, which has no variants.
    pub fn with_variant(self, variant: &str) -> Result<Self> {
        match self {
            Self::Folder(folder) => folder.with_variant(variant).map(Self::Folder),
            Self::SingleFile(file) => Err(Error::Usage(format!(
                "{}: a single file has no variants; leave --variant out",
                file.path().display()
            ))),
        }
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder.path(),
            Self::SingleFile(file) => file.path(),
        }
    }

    /// `model_index.json`, as written or as inferred; `None` for a folder without one.
    pub fn index(&self) -> Option<&Json> {
        match self {
            Self::Folder(folder) => folder.index(),
            Self::SingleFile(file) => Some(file.index()),
        }
    }

    /// The pipeline, e.g. `StableDiffusionPipeline`; `None` for a bare component.
    pub fn pipeline_class(&self) -> Option<&str> {
        match self {
            Self::Folder(folder) => folder.pipeline_class(),
            Self::SingleFile(file) => file.index().value["_class_name"].as_str(),
        }
    }

    /// An option of the pipeline in `model_index.json`, e.g. `force_zeros_for_empty_prompt`.
    pub fn option(&self, name: &str) -> Option<&Value> {
        self.index()?.value.get(name)
    }

    /// Names of the components.
    pub fn component_names(&self) -> Vec<String> {
        match self {
            Self::Folder(folder) => folder.component_names(),
            Self::SingleFile(file) => {
                let entries = file.index().value.as_object().into_iter().flatten();
                entries.filter(|(_, entry)| entry.is_array()).map(|(name, _)| name.clone()).collect()
            }
        }
    }

    /// Configuration and weights of a model, e.g. `unet`.
    ///
    /// # Errors
    /// As [`Folder::component`] and [`SingleFile::component`].
    pub fn component(&self, name: &str) -> Result<Component> {
        match self {
            Self::Folder(folder) => folder.component(name),
            Self::SingleFile(file) => file.component(name),
        }
    }

    /// `config.json` of a model, without opening its weights.
    ///
    /// # Errors
    /// As [`Checkpoint::component`].
    pub fn component_config(&self, name: &str) -> Result<Json> {
        match self {
            Self::Folder(folder) => folder.component_config(name),
            Self::SingleFile(file) => file.config(name),
        }
    }

    /// `scheduler_config.json` of a scheduler by its name in the pipeline: `scheduler`, or `low_res_scheduler`.
    ///
    /// # Errors
    /// As [`Folder::scheduler_config_of`] and [`SingleFile::config`].
    pub fn scheduler_config(&self, name: &str) -> Result<Json> {
        match self {
            Self::Folder(folder) => folder.scheduler_config_of(name),
            Self::SingleFile(file) => file.config(name),
        }
    }

    /// The folder of a component that is not a model, e.g. `tokenizer`; `None` if there is none, as in a single file.
    pub fn subfolder(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Folder(folder) => folder.subfolder(name),
            Self::SingleFile(_) => None,
        }
    }

    /// The tokenizer of a text encoder, `tokenizer` or `tokenizer_2`: of its folder, or else CLIP's own vocabulary, padded as
    /// the encoder was trained (OpenAI's with the end token, OpenCLIP's, known by its plain `gelu`, with token 0).
    ///
    /// # Errors
    /// As [`Tokenizer::open`]; [`Error::Config`] if there is no folder and the text encoder has another vocabulary.
    pub fn tokenizer(&self, name: &str) -> Result<Tokenizer> {
        if let Some(folder) = self.subfolder(name) {
            return Tokenizer::open(folder);
        }
        let config = self.component_config(&name.replace("tokenizer", "text_encoder"))?;
        let vocabulary = config.value["vocab_size"].as_u64();
        if vocabulary != Some(u64::from(CLIP_VOCABULARY)) {
            return Err(Error::Config(format!(
                "{}: there is no folder `{name}`, and the text encoder's vocabulary of {} tokens is not CLIP's of {CLIP_VOCABULARY}; add the tokenizer's files",
                self.path().display(),
                vocabulary.map_or("unknown".into(), |tokens| tokens.to_string())
            )));
        }
        Ok(Tokenizer::clip(if config.value["hidden_act"] == "gelu" { Padding::Zero } else { Padding::End }))
    }

    /// What was assumed because the files do not say it, one sentence each.
    pub fn assumptions(&self) -> &[String] {
        match self {
            Self::Folder(_) => &[],
            Self::SingleFile(file) => file.assumptions(),
        }
    }
}
