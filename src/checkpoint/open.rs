//! A model in whatever layout, on disk or in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::inferred::Family;
use super::lora::{self, Scales};
use super::{Assumption, Component, Folder, Ignore, Json, Lora, SingleFile, TextualInversion, quoted};
use crate::error::{Error, Result};
use crate::files::{Disk, Files};
use crate::refusal::{Refusal, Remedy};
use crate::tokenizer::{CLIP_VOCABULARY, Padding, Tokenizer};

/// A model: a diffusers folder, or a single file in the original layout, and what changes it as it is read.
pub struct Checkpoint {
    source: Source,
    /// Components that a LoRA or a textual inversion changes, in place of the stored ones.
    changed: BTreeMap<String, Component>,
    /// Where components come from that were taken from elsewhere.
    given: BTreeMap<&'static str, Vec<PathBuf>>,
    /// Tokenizers that know the words of textual inversions.
    tokenizers: BTreeMap<String, Tokenizer>,
    /// The config of another scheduler than the model's own.
    scheduler: Option<Json>,
    /// CLIP's own list of merges, where the program does not hold it.
    clip_merges: Option<Arc<str>>,
    /// What may be left unread.
    ignore: Arc<Ignore>,
}

#[derive(Debug)]
enum Source {
    Folder(Folder),
    SingleFile(SingleFile),
}

/// Components that can be taken from elsewhere: as fields of a request, which are called as they are.
pub const PARTS: [&str; 4] = ["unet", "vae", "text_encoder", "text_encoder_2"];

/// What to say of a model at `path` that lacks a component: `why`, and how to give it.
pub(super) fn missing(path: &Path, component: &str, why: String) -> Error {
    let give: Option<Remedy> = match component {
        "unet" => Some(Remedy::Give(&["unet"])),
        "vae" => Some(Remedy::Give(&["vae"])),
        "text_encoder" => Some(Remedy::Give(&["text_encoder"])),
        "text_encoder_2" => Some(Remedy::Give(&["text_encoder_2"])),
        _ => None,
    };
    match give {
        Some(give) => Refusal::of_value("model", path.display(), why).instead(give).into(),
        None => Error::Config(format!("{}: {why}", path.display())),
    }
}

/// Components that LoRAs and textual inversions change.
const ADAPTED: [&str; 3] = ["unet", "text_encoder", "text_encoder_2"];

impl Checkpoint {
    /// Opens a folder, or a single `.safetensors` or GGUF file, on disk.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`SingleFile::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(Arc::new(Disk), path)
    }

    /// As [`Checkpoint::open`], of a folder or file among `files`: a model in memory.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`SingleFile::open`].
    pub fn open_in(files: Arc<dyn Files>, path: impl AsRef<Path>) -> Result<Self> {
        // The index stands for its folder.
        let path = path.as_ref();
        let index = path.file_name().is_some_and(|name| name == "model_index.json") && files.is_file(path);
        let path = if index { path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")) } else { path };
        let source = if files.is_file(path) {
            Source::SingleFile(SingleFile::open_in(&*files, path)?)
        } else {
            Source::Folder(Folder::open_in(files, path)?)
        };
        Ok(Self {
            source,
            changed: BTreeMap::new(),
            given: BTreeMap::new(),
            tokenizers: BTreeMap::new(),
            scheduler: None,
            clip_merges: None,
            ignore: Arc::default(),
        })
    }

    /// Gives leave to ignore tensors and fields of configs that no model asks for. Call this before anything else that
    /// changes the checkpoint.
    #[must_use]
    pub fn with_ignored(self, ignore: Arc<Ignore>) -> Self {
        Self { ignore, ..self }
    }

    /// With CLIP's own list of merges, for a model without a tokenizer in a program that does not hold the list
    /// ([`Tokenizer::clip_of`]).
    #[must_use]
    pub fn with_clip_merges(self, merges: impl Into<Arc<str>>) -> Self {
        Self { clip_merges: Some(merges.into()), ..self }
    }

    /// Takes the scheduler's config from a file of its own.
    ///
    /// # Errors
    /// As [`Json::read`].
    pub fn with_scheduler_config(mut self, path: impl AsRef<Path>) -> Result<Self> {
        self.scheduler = Some(Json::read(path)?);
        Ok(self)
    }

    /// Takes a component (one of [`PARTS`]) from elsewhere: from a folder of its own, a pipeline's folder, or a single
    /// file that holds it. Call this before anything that changes the weights.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::component`].
    pub fn with_component(self, name: &'static str, path: impl AsRef<Path>) -> Result<Self> {
        self.with_component_in(Arc::new(Disk), name, path)
    }

    /// As [`Checkpoint::with_component`], from among `files`.
    ///
    /// # Errors
    /// As [`Checkpoint::with_component`].
    pub fn with_component_in(
        mut self,
        files: Arc<dyn Files>,
        name: &'static str,
        path: impl AsRef<Path>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let (component, paths) = if files.is_file(path) {
            let file = match self.family() {
                // Where there is none, the U-Net that is given says what family it is.
                Err(_) if name == "unet" => SingleFile::open_in(&*files, path)?,
                family => SingleFile::open_part(&*files, path, name, family?)?,
            };
            (file.component(name)?, vec![path.to_owned()])
        } else {
            let folder = Folder::open_in(files, path)?;
            (folder.component(name)?, folder.component_files(name)?)
        };
        self.changed.insert(name.to_owned(), self.lenient(component));
        self.given.insert(name, paths);
        Ok(self)
    }

    /// What kind of Stable Diffusion model it is.
    pub(crate) fn family(&self) -> Result<Family> {
        match &self.source {
            Source::SingleFile(file) if !self.given.contains_key("unet") => Ok(file.family()),
            _ => Ok(Family::of_config(&self.component_config("unet")?.value)),
        }
    }

    /// Prefers weight files of a variant, as [`Folder::with_variant`]. Call this before anything that changes the
    /// weights.
    ///
    /// # Errors
    /// As [`Folder::with_variant`]; [`Error::Refused`] for a single file, which has no variants.
    pub fn with_variant(self, variant: &str) -> Result<Self> {
        match self.source {
            Source::Folder(folder) => Ok(Self { source: Source::Folder(folder.with_variant(variant)?), ..self }),
            Source::SingleFile(file) => {
                let why = format!("{}: a single file has no variants", file.path().display());
                Err(Refusal::of("variant", why).instead(Remedy::LeaveOut(&["variant"])).into())
            }
        }
    }

    /// Merges LoRAs, each with its scales, into the weights of the U-Net and the text encoders as they are read.
    ///
    /// # Errors
    /// As [`lora::apply`], which lists the layers that do not fit, and as [`Checkpoint::component`].
    pub fn with_loras(mut self, loras: &[(Arc<Lora>, Scales)]) -> Result<Self> {
        let mut components = self.adapted_components()?;
        lora::apply(loras, &mut components.iter_mut().collect::<Vec<_>>(), &self.ignore)?;
        self.changed.extend(components.into_iter().map(|component| (component.name.clone(), component)));
        Ok(self)
    }

    /// Adds the words of textual inversions to the tokenizers and their vectors to the text encoders.
    ///
    /// # Errors
    /// As [`TextualInversion::apply`], [`Checkpoint::component`] and [`Checkpoint::tokenizer`];
    /// [`Error::Refused`] if there is no text encoder.
    pub fn with_textual_inversions(mut self, embeddings: &[TextualInversion]) -> Result<Self> {
        let mut encoders = self.adapted_components()?;
        encoders.retain(|component| component.name != "unet");
        if let (Some(embedding), true) = (embeddings.first(), encoders.is_empty()) {
            let why =
                format!("{} has no text encoder that could learn {}", self.path().display(), quoted(embedding.word()));
            return Err(Refusal::of("embedding", why).instead(Remedy::LeaveOut(&["embedding"])).into());
        }
        for mut encoder in encoders {
            let name = encoder.name.replace("text_encoder", "tokenizer");
            let mut tokenizer = self.tokenizer(&name)?;
            embeddings.iter().try_for_each(|embedding| embedding.apply(&mut encoder, &mut tokenizer))?;
            self.changed.insert(encoder.name.clone(), encoder);
            self.tokenizers.insert(name, tokenizer);
        }
        Ok(self)
    }

    fn adapted_components(&self) -> Result<Vec<Component>> {
        let names = self.component_names();
        ADAPTED.iter().filter(|name| names.iter().any(|n| n == *name)).map(|name| self.component(name)).collect()
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Folder(folder) => folder.path(),
            Source::SingleFile(file) => file.path(),
        }
    }

    /// `model_index.json`, as written or as inferred; `None` for a folder without one.
    pub fn index(&self) -> Option<&Json> {
        match &self.source {
            Source::Folder(folder) => folder.index(),
            Source::SingleFile(file) => Some(file.index()),
        }
    }

    /// The pipeline, e.g. `StableDiffusionPipeline`; `None` for a bare component.
    pub fn pipeline_class(&self) -> Option<&str> {
        match &self.source {
            Source::Folder(folder) => folder.pipeline_class(),
            Source::SingleFile(file) => file.index().value["_class_name"].as_str(),
        }
    }

    /// An option of the pipeline in `model_index.json`, e.g. `force_zeros_for_empty_prompt`.
    pub fn option(&self, name: &str) -> Option<&Value> {
        self.index()?.value.get(name)
    }

    /// Names of the components.
    pub fn component_names(&self) -> Vec<String> {
        let mut names = self.own_names();
        names.extend(
            self.given
                .keys()
                .filter(|given| !names.iter().any(|name| name == *given))
                .map(|n| n.to_string())
                .collect::<Vec<_>>(),
        );
        names
    }

    fn own_names(&self) -> Vec<String> {
        match &self.source {
            Source::Folder(folder) => folder.component_names(),
            Source::SingleFile(file) => {
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
        if let Some(component) = self.changed.get(name) {
            return Ok(component.clone());
        }
        let component = match &self.source {
            Source::Folder(folder) => folder.component(name),
            Source::SingleFile(file) => file.component(name),
        }?;
        Ok(self.lenient(component))
    }

    /// A component of which some may be left unread.
    fn lenient(&self, component: Component) -> Component {
        let config = Json { ignore: self.ignore.clone(), ..component.config };
        Component { config, ignore: self.ignore.clone(), ..component }
    }

    /// `config.json` of a model, without opening its weights.
    ///
    /// # Errors
    /// As [`Checkpoint::component`].
    pub fn component_config(&self, name: &str) -> Result<Json> {
        if let Some(component) = self.changed.get(name) {
            return Ok(component.config.clone());
        }
        let config = match &self.source {
            Source::Folder(folder) => folder.component_config(name),
            Source::SingleFile(file) => file.config(name),
        }?;
        Ok(Json { ignore: self.ignore.clone(), ..config })
    }

    /// `scheduler_config.json` of a scheduler by its name in the pipeline: `scheduler`, or `low_res_scheduler`.
    ///
    /// # Errors
    /// As [`Folder::scheduler_config_of`] and [`SingleFile::config`].
    pub fn scheduler_config(&self, name: &str) -> Result<Json> {
        let own = || match &self.source {
            Source::Folder(folder) => folder.scheduler_config_of(name),
            Source::SingleFile(file) => file.config(name),
        };
        let config = self.scheduler.clone().filter(|_| name == "scheduler").map_or_else(own, Ok)?;
        Ok(Json { ignore: self.ignore.clone(), ..config })
    }

    /// A JSON file beside `model_index.json`, e.g. `generation_config.json`; `None` if there is none. A single file has
    /// what follows from its tensors.
    ///
    /// # Errors
    /// As [`Json::read`].
    pub fn json(&self, name: &str) -> Result<Option<Json>> {
        match &self.source {
            Source::Folder(folder) => folder.json(name),
            Source::SingleFile(file) if name == "generation_config.json" => Ok(file.generation()),
            Source::SingleFile(_) => Ok(None),
        }
    }

    /// The tokenizer of a text encoder, `tokenizer` or `tokenizer_2`: from its folder, or else CLIP's own vocabulary,
    /// padded as the encoder was trained (OpenAI's with the end token, OpenCLIP's, known by its plain `gelu`, with
    /// token 0).
    ///
    /// # Errors
    /// As [`Tokenizer::open`]; [`Error::Config`] if there is no folder and the text encoder has another vocabulary.
    pub fn tokenizer(&self, name: &str) -> Result<Tokenizer> {
        if let Some(tokenizer) = self.tokenizers.get(name) {
            return Ok(tokenizer.clone());
        }
        if let Source::Folder(folder) = &self.source
            && let Some(tokenizer) = folder.tokenizer(name)?
        {
            return Ok(tokenizer);
        }
        let encoder = if self.component_names().iter().any(|name| name == "bert") { "bert" } else { "text_encoder" };
        let config = self.component_config(&name.replace("tokenizer", encoder))?;
        let vocabulary = config.value["vocab_size"].as_u64();
        if vocabulary != Some(u64::from(CLIP_VOCABULARY)) {
            return Err(Error::Config(format!(
                "{}: there is no folder `{name}`, and the text encoder's vocabulary of {} tokens is not CLIP's of \
                {CLIP_VOCABULARY}; add the tokenizer's files",
                self.path().display(),
                vocabulary.map_or("unknown".into(), |tokens| tokens.to_string())
            )));
        }
        let padding = if config.value["hidden_act"] == "gelu" { Padding::Zero } else { Padding::End };
        match &self.clip_merges {
            Some(merges) => Tokenizer::clip_of(merges, padding),
            None => self.clips_own(padding),
        }
    }

    #[cfg(feature = "clip-merges")]
    fn clips_own(&self, padding: Padding) -> Result<Tokenizer> {
        Ok(Tokenizer::clip(padding))
    }

    #[cfg(not(feature = "clip-merges"))]
    fn clips_own(&self, _padding: Padding) -> Result<Tokenizer> {
        Err(Error::Config(format!(
            "{}: it comes without a tokenizer, and this program without CLIP's list of merges; add the tokenizer's \
             files",
            self.path().display()
        )))
    }

    /// The folder of a tokenizer, if the checkpoint has its own.
    pub fn tokenizer_folder(&self, name: &str) -> Option<PathBuf> {
        match &self.source {
            Source::Folder(folder) => folder.subfolder(name),
            Source::SingleFile(_) => None,
        }
    }

    /// Every file that decides what the models compute: configurations, weights and vocabularies, each with its path
    /// below the folder (a single file with its own name).
    ///
    /// # Errors
    /// As [`Checkpoint::component`].
    pub fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let files = match &self.source {
            Source::Folder(folder) => folder.files(&self.given.keys().copied().collect::<Vec<_>>())?,
            Source::SingleFile(file) => vec![file.path().to_owned()],
        };
        let root = match &self.source {
            Source::Folder(folder) => folder.path(),
            Source::SingleFile(file) => file.path().parent().unwrap_or(Path::new("")),
        };
        let name = |file: &PathBuf| {
            let below = file.strip_prefix(root).unwrap_or(file);
            below.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
        };
        let own = files.into_iter().map(|file| (name(&file), file));
        let given = self.given.iter().flat_map(|(component, paths)| paths.iter().map(move |path| (*component, path)));
        Ok(own
            .chain(given.map(|(component, path)| (format!("{component}: {}", path.display()), path.clone())))
            .collect())
    }

    /// The timesteps that the U-Net was trained on, first and last, where the file says that these are not all.
    pub fn timestep_range(&self) -> Option<(usize, usize)> {
        match &self.source {
            Source::SingleFile(file) => file.timestep_range(),
            Source::Folder(_) => None,
        }
    }

    /// The single file that it was read from.
    pub fn single_file(&self) -> Option<&SingleFile> {
        match &self.source {
            Source::SingleFile(file) => Some(file),
            Source::Folder(_) => None,
        }
    }

    /// What was assumed because the files do not say it.
    pub fn assumptions(&self) -> &[Assumption] {
        match &self.source {
            Source::Folder(folder) => folder.assumptions(),
            Source::SingleFile(file) => file.assumptions(),
        }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({:?}, changed: {:?})", self.source, self.changed.keys())
    }
}
