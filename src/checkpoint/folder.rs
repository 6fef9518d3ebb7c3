//! A model folder as diffusers lays it out.
//!
//! Three layouts are read:
//! - pipeline: `model_index.json`, and one folder a component (`unet/`, `scheduler/`, `vae/`, `text_encoder/` …);
//! - flat (`google/ddpm-*`): `model_index.json`, `config.json`, `scheduler_config.json` and the weights side by side;
//! - a bare component: `config.json` and the weights.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Assumption, Ignore, Json, TensorSource, Tensors, quoted};
use crate::error::{Error, Result};
use crate::files::{Disk, Files, Kind};
use crate::tokenizer::Tokenizer;

/// First part of the names of weight files: what diffusers' models and transformers' models are saved as.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// A model folder.
#[derive(Debug)]
pub struct Folder {
    files: Arc<dyn Files>,
    path: PathBuf,
    index: Option<Json>,
    pipeline_class: Option<String>,
    assumptions: Vec<Assumption>,
    variant: Option<String>,
}

/// One model of a folder: its configuration and its weights.
#[derive(Clone)]
pub struct Component {
    /// Its name in the pipeline, e.g. `unet`.
    pub name: String,
    /// Its class, e.g. `UNet2DModel`: the one in `model_index.json`, as in diffusers, or else the one that its
    /// configuration names (`_class_name`, or the first of transformers' `architectures`).
    pub class_name: Option<String>,
    /// `config.json`.
    pub config: Json,
    /// The weights, validated; from disk, memory-mapped.
    pub tensors: Arc<dyn TensorSource>,
    /// Tensors that the model need not ask for.
    pub ignore: Arc<Ignore>,
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Component({}, {:?}, {})", self.name, self.class_name, self.tensors.label())
    }
}

impl Folder {
    /// Opens a model folder.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such folder, [`Error::Config`] if it does not hold a model or its
    /// `model_index.json` is malformed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(Arc::new(Disk), path)
    }

    /// As [`Folder::open`], of a folder among `files`.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn open_in(files: Arc<dyn Files>, path: impl AsRef<Path>) -> Result<Self> {
        let path = snapshot(&*files, path.as_ref());
        let shown = path.display();
        match files.kind(&path) {
            Ok(Kind::Folder) => {}
            Ok(Kind::File(_) | Kind::Other) => {
                return Err(Error::Usage(format!(
                    "{shown}: expected a model folder (with model_index.json or config.json), found a file"
                )));
            }
            Err(_) => {
                return Err(Error::Usage(format!(
                    "{shown}: there is no such folder; give the folder that holds model_index.json or config.json"
                )));
            }
        }
        let index_path = path.join("model_index.json");
        let index = if files.kind(&index_path).is_ok() { Some(Json::read_in(&*files, index_path)?) } else { None };
        let pipeline_class = index.as_ref().map(pipeline_class).transpose()?;
        let names = list(&*files, &path)?;
        let components = names.iter().any(|name| files.is_file(&path.join(name).join("config.json")));
        if index.is_none() && !components && !files.is_file(&path.join("config.json")) {
            return Err(Error::Config(format!(
                "{shown}: expected model_index.json or config.json; found {}",
                shown_list(&names)
            )));
        }
        let mut folder = Self { files, path, index, pipeline_class, assumptions: vec![], variant: None };
        if folder.pipeline_class.as_deref() == Some("DiffusionPipeline") {
            let class = folder.inferred_class();
            let what = format!("the pipeline is a {class}, by its components");
            folder.assumptions.push(Assumption { what, field: None });
            folder.pipeline_class = Some(class.to_owned());
        }
        Ok(folder)
    }

    /// Prefers weight files of a variant, e.g. `fp16` for `diffusion_pytorch_model.fp16.safetensors`. A component
    /// without that variant uses its plain files, as in diffusers.
    ///
    /// # Errors
    /// [`Error::Usage`] if no component has that variant.
    pub fn with_variant(mut self, variant: &str) -> Result<Self> {
        let mut found = Vec::new();
        let folders = self.list(&self.path)?.into_iter().map(|name| self.path.join(name));
        for folder in folders.filter(|folder| self.files.is_folder(folder)).chain([self.path.clone()]) {
            found.extend(variants(&self.list(&folder)?));
        }
        found.sort();
        found.dedup();
        if !found.iter().any(|name| name == variant) {
            return Err(Error::Usage(format!(
                "{}: there are no weights of the variant {}; variants found: {}",
                self.path.display(),
                quoted(variant),
                shown_list(&found)
            )));
        }
        self.variant = Some(variant.to_owned());
        Ok(self)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `model_index.json`, if there is one.
    pub fn index(&self) -> Option<&Json> {
        self.index.as_ref()
    }

    /// The pipeline that `model_index.json` names, e.g. `DDPMPipeline`; `None` for a bare component.
    pub fn pipeline_class(&self) -> Option<&str> {
        self.pipeline_class.as_deref()
    }

    /// What was assumed because the files do not say it.
    pub fn assumptions(&self) -> &[Assumption] {
        &self.assumptions
    }

    /// The pipeline where the index names only diffusers' base class.
    fn inferred_class(&self) -> &'static str {
        if self.index_class("text_encoder_2").is_some() {
            "StableDiffusionXLPipeline"
        } else if self.index_class("text_encoder").is_some() {
            "StableDiffusionPipeline"
        } else {
            "DDPMPipeline"
        }
    }

    /// Names of the components: those of `model_index.json` that are not null; without it, the folders that hold a
    /// configuration.
    pub fn component_names(&self) -> Vec<String> {
        match self.index.as_ref().and_then(|index| index.value.as_object()) {
            Some(entries) => entries.keys().filter(|name| self.index_class(name).is_some()).cloned().collect(),
            None => {
                let is_component = |name: &String| {
                    ["config.json", "scheduler_config.json"]
                        .iter()
                        .any(|file| self.files.is_file(&self.path.join(name).join(file)))
                };
                self.list(&self.path).unwrap_or_default().into_iter().filter(is_component).collect()
            }
        }
    }

    /// The class that `model_index.json` gives a component (`["diffusers", "UNet2DModel"]`); `None` if it has none.
    pub fn index_class(&self, name: &str) -> Option<&str> {
        self.index.as_ref()?.value.get(name)?.as_array()?.get(1)?.as_str()
    }

    /// The folder of a component, if it has its own: `tokenizer`, `feature_extractor` …
    pub fn subfolder(&self, name: &str) -> Option<PathBuf> {
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0']);
        Some(self.path.join(name)).filter(|folder| plain && self.files.is_folder(folder))
    }

    /// Configuration and weights of a model, e.g. `unet`.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such component or its configuration is malformed; [`Error::Checkpoint`] if its
    /// weights are missing, damaged, or not `.safetensors`.
    pub fn component(&self, name: &str) -> Result<Component> {
        let (folder, config) = self.config(name, "config.json")?;
        let tensors = Arc::new(self.weights(&folder)?);
        let class_name = self.index_class(name).map(str::to_owned).or_else(|| class_name(&config));
        Ok(Component { name: name.to_owned(), class_name, config, tensors, ignore: Arc::default() })
    }

    /// `config.json` of a model, without opening its weights.
    ///
    /// # Errors
    /// As [`Folder::component`].
    pub fn component_config(&self, name: &str) -> Result<Json> {
        self.config(name, "config.json").map(|(_, config)| config)
    }

    /// `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none or it is malformed.
    pub fn scheduler_config(&self) -> Result<Json> {
        self.scheduler_config_of("scheduler")
    }

    /// `scheduler_config.json` of a scheduler by its name in the pipeline, e.g. `low_res_scheduler`.
    ///
    /// # Errors
    /// As [`Folder::scheduler_config`].
    pub fn scheduler_config_of(&self, name: &str) -> Result<Json> {
        self.config(name, "scheduler_config.json").map(|(_, config)| config)
    }

    /// The files that decide what the models compute: `model_index.json`, configurations, weights with all shards,
    /// vocabularies.
    ///
    /// # Errors
    /// As [`Folder::component`].
    pub fn files(&self, given: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files: Vec<_> = self.index.iter().map(|index| index.path.clone()).collect();
        let names = self.component_names();
        let parts = ["unet", "vae", "vqvae", "bert", "text_encoder", "text_encoder_2"];
        for name in parts.iter().filter(|n| names.iter().any(|m| m == *n)) {
            match self.component_files(name) {
                Ok(own) => files.extend(own),
                // One that comes from elsewhere need not be here too.
                Err(_) if given.contains(name) => {}
                Err(error) => return Err(error),
            }
        }
        for folder in ["tokenizer", "tokenizer_2"].iter().filter_map(|name| self.subfolder(name)) {
            let all = self.list(&folder)?.into_iter().map(|name| folder.join(name));
            files.extend(all.filter(|file| self.files.is_file(file)));
        }
        Ok(files)
    }

    /// The configuration and the weights of one model, with all shards.
    ///
    /// # Errors
    /// As [`Folder::component`].
    pub fn component_files(&self, name: &str) -> Result<Vec<PathBuf>> {
        let (folder, config) = self.config(name, "config.json")?;
        let weights = self.weights(&folder)?;
        Ok([config.path].into_iter().chain(weights.files().map(Path::to_owned)).collect())
    }

    /// A JSON file beside `model_index.json`; `None` if there is none of that name.
    ///
    /// # Errors
    /// As [`Json::read`].
    pub fn json(&self, name: &str) -> Result<Option<Json>> {
        let path = self.path.join(name);
        self.files.is_file(&path).then(|| Json::read_in(&*self.files, path)).transpose()
    }

    /// The tokenizer in the folder of a component; `None` if it has none of its own.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn tokenizer(&self, name: &str) -> Result<Option<Tokenizer>> {
        self.subfolder(name).map(|folder| Tokenizer::open_in(&*self.files, folder)).transpose()
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        list(&*self.files, folder)
    }

    /// The weights in a component's folder.
    fn weights(&self, folder: &Path) -> Result<Tensors> {
        let file = find_weights(folder, &self.list(folder)?, self.variant.as_deref())?;
        Tensors::open_in(&*self.files, file)
    }

    /// `file` in the folder of the component, or in the root of a flat folder; and the folder.
    fn config(&self, name: &str, file: &str) -> Result<(PathBuf, Json)> {
        if let Some(folder) = self.subfolder(name) {
            let config = Json::read_in(&*self.files, folder.join(file))?;
            return Ok((folder, config));
        }
        let nothing = |why: String| {
            super::open::missing(&self.path, name, format!("there is no component {}: {why}", quoted(name)))
        };
        let path = self.path.join(file);
        if !self.files.is_file(&path) {
            return Err(nothing(format!(
                "neither the folder nor {file} is there; components: {}",
                shown_list(&self.component_names())
            )));
        }
        // In a flat folder only one component's config.json is at the root: the class tells which.
        let config = Json::read_in(&*self.files, path)?;
        match (&self.index, self.index_class(name), class_name(&config)) {
            (Some(_), None, _) => Err(nothing(format!("model_index.json has {}", shown_list(&self.component_names())))),
            (Some(_), Some(expected), Some(found)) if expected != found => Err(nothing(format!(
                "model_index.json expects {} {}, {file} describes {}",
                quoted(name),
                quoted(expected),
                quoted(&found)
            ))),
            _ => Ok((self.path.clone(), config)),
        }
    }
}

/// The revision that a model's folder in Hugging Face's cache means: the one that `refs/main` names, or the only one
/// there is. Any other folder is meant itself.
fn snapshot(files: &dyn Files, path: &Path) -> PathBuf {
    let revisions = list(files, &path.join("snapshots")).unwrap_or_default();
    let main = path.join("refs/main");
    // A revision is a hash.
    let short = matches!(files.kind(&main), Ok(Kind::File(length)) if length <= 256);
    let main = if short { files.open(&main).ok() } else { None };
    let main = main.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::trim);
    let named = main.filter(|name| revisions.iter().any(|revision| revision == name));
    match (named, revisions.as_slice()) {
        (Some(name), _) => path.join("snapshots").join(name),
        (None, [only]) => path.join("snapshots").join(only),
        _ => path.to_owned(),
    }
}

/// `_class_name` of `model_index.json`; of a community pipeline (`[module, class]`) the class.
fn pipeline_class(index: &Json) -> Result<String> {
    let class = &index.value["_class_name"];
    class.as_str().or_else(|| class.as_array()?.get(1)?.as_str()).map(str::to_owned).ok_or_else(|| {
        Error::Config(format!(
            "{}: expected `_class_name`, the name of a pipeline such as StableDiffusionPipeline; found none",
            index.path.display()
        ))
    })
}

/// The class that a component's configuration names.
fn class_name(config: &Json) -> Option<String> {
    let value = &config.value;
    value["_class_name"].as_str().or_else(|| value["architectures"][0].as_str()).map(str::to_owned)
}

/// The weight file, or index of a sharded set, among the `files` of a component's folder.
fn find_weights(folder: &Path, files: &[String], variant: Option<&str>) -> Result<PathBuf> {
    let has = |name: &String| files.contains(name);
    let shown = folder.display();
    let wanted = |variant: Option<&str>| STEMS.iter().flat_map(move |stem| weight_files(stem, variant)).find(has);

    let found = variant.and_then(|variant| wanted(Some(variant))).or_else(|| wanted(None));
    if let Some(file) = found {
        return Ok(folder.join(file));
    }
    match variants(files).as_slice() {
        [] => {}
        [only] => return Ok(folder.join(wanted(Some(only)).expect("`variants` lists what `weight_files` names"))),
        several => {
            return Err(Error::Checkpoint(format!(
                "{shown}: there are several variants of the weights and no plain one; choose one of {}",
                shown_list(several)
            )));
        }
    }
    let pickles = [".bin", ".ckpt", ".pt", ".pth"];
    if let Some(file) = files.iter().find(|file| pickles.iter().any(|end| file.ends_with(end))) {
        return Err(Error::Unsupported(format!(
            "{shown}: the weights are there only as {}, {}",
            quoted(file),
            super::header::pickle(&folder.join(file))
        )));
    }
    Err(Error::Checkpoint(format!(
        "{shown}: expected {}.safetensors or {}.safetensors; found {}",
        STEMS[0],
        STEMS[1],
        shown_list(files)
    )))
}

/// The names that weights may have: one file, or the index of shards.
fn weight_files(stem: &str, variant: Option<&str>) -> [String; 3] {
    let dotted = variant.map_or(String::new(), |variant| format!(".{variant}"));
    [
        format!("{stem}{dotted}.safetensors"),
        format!("{stem}.safetensors.index{dotted}.json"),
        format!("{stem}.safetensors{dotted}.index.json"), // diffusers before 0.30
    ]
}

/// The variants among the names of a folder's files, sorted.
fn variants(files: &[String]) -> Vec<String> {
    let variant = |file: &String, stem: &str| {
        let rest = file.strip_prefix(stem)?.strip_prefix('.')?;
        let middle = rest
            .strip_suffix(".safetensors")
            .or_else(|| rest.strip_prefix("safetensors.index.")?.strip_suffix(".json"))
            .or_else(|| rest.strip_prefix("safetensors.")?.strip_suffix(".index.json"))?;
        // model.fp16-00001-of-00002 is a shard.
        (!middle.is_empty() && !middle.contains("-of-")).then(|| middle.to_owned())
    };
    let mut found: Vec<String> =
        files.iter().flat_map(|file| STEMS.iter().filter_map(move |stem| variant(file, stem))).collect();
    found.sort();
    found.dedup();
    found
}

fn list(files: &dyn Files, folder: &Path) -> Result<Vec<String>> {
    files.list(folder).map_err(Error::io(folder))
}

/// Up to ten names for a message.
fn shown_list(names: &[String]) -> String {
    let mut text = names.iter().take(10).map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => text.push_str("nothing"),
        1..=10 => {}
        more => text += &format!(" and {} more", more - 10),
    }
    text
}
