//! What the server has, by name. Names in a request are looked up in lists that were made when the server started: they
//! never become paths, so that no name can reach a file that is not among them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::{Models, Notes, places};
use crate::pipelines::{Kind, PIXEL_PIPELINES};
use crate::refusal::Refusal;
use crate::request::{Asked, Request};
use crate::schedulers::SchedulerClass;

/// Folders that the server looks into when it starts.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// Of models: folders in diffusers' layout, and single files. The models that come along are there, too.
    pub models: Vec<PathBuf>,
    /// Of LoRAs.
    pub loras: Vec<PathBuf>,
    /// Of textual inversions.
    pub embeddings: Vec<PathBuf>,
    /// Of autoencoders, to be used in place of a model's own.
    pub vaes: Vec<PathBuf>,
}

/// Files by name.
type Names = BTreeMap<String, PathBuf>;

/// What there is.
#[derive(Debug, Default)]
pub struct Catalogue {
    models: BTreeMap<String, Model>,
    /// LoRAs.
    pub loras: Names,
    /// Textual inversions; the name is the word that stands for one.
    pub embeddings: Names,
    /// Autoencoders.
    pub vaes: Names,
    /// Folders whose names no answer may hold.
    roots: Vec<PathBuf>,
}

#[derive(Debug)]
struct Model {
    path: PathBuf,
    /// Whether it paints what a text says, as its pipeline's class has it.
    text: bool,
    facts: OnceLock<Arc<Facts>>,
}

/// What a model does, and what suits it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// `text`, `classes` or `pixels`; `inpaint`, `edit` and `upscale` for models of these kinds of text.
    pub kind: &'static str,
    /// Stable Diffusion XL.
    pub xl: bool,
    /// Number of classes, if it paints classes.
    pub classes: Option<usize>,
    /// What is taken where a request leaves it open, by field.
    pub defaults: BTreeMap<String, serde_json::Value>,
    /// Columns and rows are multiples of this.
    pub multiple: usize,
    /// Why it cannot be opened, if it cannot.
    pub error: Option<String>,
}

impl Catalogue {
    /// Looks into the folders.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder that cannot be read, [`Error::Refused`] if there is no model at all.
    pub fn scan(folders: &Folders) -> Result<Self> {
        let mut all = Self::default();
        let shipped = places::weights_folder().ok();
        for folder in folders.models.iter().chain(&shipped) {
            for (name, path) in entries(folder)? {
                let model = path.join("model_index.json").is_file() || is_weights(&path);
                if model && !all.models.contains_key(&name) {
                    let text = !class_of(&path).is_some_and(|class| PIXEL_PIPELINES.contains(&class.as_str()));
                    all.models.insert(name, Model { path, text, facts: OnceLock::new() });
                }
            }
        }
        if all.models.is_empty() {
            let why = "there is none: neither a folder with a model_index.json nor a .safetensors or .gguf file";
            return Err(Refusal::of("model", why).into());
        }
        let files = |folders: &[PathBuf], folders_too: bool| -> Result<Names> {
            let mut names = Names::new();
            for folder in folders {
                let fits = |path: &Path| is_weights(path) || (folders_too && path.is_dir());
                entries(folder)?.into_iter().filter(|(_, path)| fits(path)).for_each(|(name, path)| {
                    names.entry(name).or_insert(path);
                });
            }
            Ok(names)
        };
        all.loras = files(&folders.loras, true)?;
        all.embeddings = files(&folders.embeddings, false)?;
        all.vaes = files(&folders.vaes, true)?;
        let roots = [&folders.models, &folders.loras, &folders.embeddings, &folders.vaes].into_iter().flatten();
        all.roots = roots.chain(&shipped).cloned().chain(std::env::home_dir()).collect();
        all.roots.sort_by_key(|root| std::cmp::Reverse(root.as_os_str().len()));
        Ok(all)
    }

    /// Names of the models.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// The model that a request means: the one it names, or the first that paints texts, or classes.
    ///
    /// # Errors
    /// A refusal naming those that there are.
    pub fn model(&self, request: &Request) -> Result<&str, Refusal> {
        let Some(name) = &request.model else {
            let text = !request.prompt.is_empty();
            let fitting = self.models.iter().find(|(_, model)| model.text == text).or(self.models.iter().next());
            return Ok(fitting.map(|(name, _)| name.as_str()).expect("a catalogue has a model"));
        };
        let name = name.to_str().unwrap_or_default();
        match self.models.get_key_value(name) {
            Some((name, _)) => Ok(name),
            None => Err(unknown("model", name, self.models())),
        }
    }

    /// What a model does. Opens it the first time.
    pub fn facts(&self, name: &str) -> Option<Arc<Facts>> {
        let model = self.models.get(name)?;
        Some(model.facts.get_or_init(|| Arc::new(self.read_facts(name, model))).clone())
    }

    fn read_facts(&self, name: &str, model: &Model) -> Facts {
        let request = Request { model: Some(model.path.clone()), ..Request::default() };
        let read = || -> Result<Facts> {
            let mut models = Models::open(&request, &mut Notes::default())?;
            let traits = models.model.pipeline.traits;
            let prompt = if traits.kind.has_text() { vec![String::new()] } else { vec![] };
            let repaints = models.model.scheduler.class == SchedulerClass::RePaint;
            let shown = repaints || matches!(traits.kind, Kind::Inpaint | Kind::Edit) || traits.kind.enlarges();
            let image = shown.then(|| "image".into());
            let mask = (repaints || traits.kind == Kind::Inpaint).then(|| "mask".into());
            let asked = Asked::from(Request { prompt, image, mask, ..request.clone() });
            let resolved = models.resolve(&asked, None)?;
            // A class that is drawn is another one with each seed.
            let own = ["model", "prompt", "class", "image", "mask", "seed", "device"];
            let settings = resolved.settings.into_iter().filter(|setting| !own.contains(&setting.field.as_str()));
            let mut defaults: BTreeMap<_, _> = settings.map(|setting| (setting.field, setting.value)).collect();
            if let Some((height, width)) = traits.own_size {
                defaults.insert("width".into(), width.into());
                defaults.insert("height".into(), height.into());
            }
            let (kind, xl) = (traits.word(), traits.xl);
            let (classes, multiple) = (traits.classes, traits.multiple);
            Ok(Facts { name: name.into(), kind, xl, classes, defaults, multiple, error: None })
        };
        read().unwrap_or_else(|error| Facts {
            name: name.into(),
            error: Some(self.without_paths(&error.to_string())),
            ..Facts::default()
        })
    }

    /// The request with paths for names.
    ///
    /// # Errors
    /// A refusal naming the field, and the names that there are.
    pub fn with_paths(&self, named: &Request) -> Result<Request, Refusal> {
        let model = |path: &PathBuf| -> Result<PathBuf, Refusal> {
            let request = Request { model: Some(path.clone()), ..Request::default() };
            Ok(self.models[self.model(&request)?].path.clone())
        };
        let mut request = named.clone();
        request.model = Some(self.models[self.model(named)?].path.clone());
        request.refiner = named.refiner.as_ref().map(model).transpose()?;
        request.vae = named.vae.as_ref().map(|name| look_up("vae", &self.vaes, &name.to_string_lossy())).transpose()?;
        let lora = |field| {
            move |lora: &String| -> Result<String, Refusal> {
                let (name, scales) = lora.split_once(':').map_or((lora.as_str(), None), |(n, s)| (n, Some(s)));
                let path = look_up(field, &self.loras, name)?;
                Ok(format!("{}{}", path.display(), scales.map(|scales| format!(":{scales}")).unwrap_or_default()))
            }
        };
        request.lora = named.lora.iter().map(lora("lora")).collect::<Result<_, _>>()?;
        request.refiner_lora = named.refiner_lora.iter().map(lora("refiner_lora")).collect::<Result<_, _>>()?;
        let word = |name: &String| -> Result<String, Refusal> {
            Ok(format!("{}:{name}", look_up("embedding", &self.embeddings, name)?.display()))
        };
        request.embedding = named.embedding.iter().map(word).collect::<Result<_, _>>()?;
        Ok(request)
    }

    /// A message without the paths of this machine.
    pub fn without_paths(&self, message: &str) -> String {
        let mut message = message.to_owned();
        let models = self.models.iter().map(|(name, model)| (name, &model.path));
        for (name, path) in models.chain(&self.loras).chain(&self.embeddings).chain(&self.vaes) {
            message = message.replace(&path.display().to_string(), name);
        }
        for root in &self.roots {
            message = message.replace(&format!("{}{}", root.display(), std::path::MAIN_SEPARATOR), "");
        }
        message
    }
}

/// What a folder holds, by name: a folder's own, a file's without its ending.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let listed = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut entries: Vec<_> = listed
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
            Some((name?.to_str()?.to_owned(), path))
        })
        .filter(|(name, _)| !name.starts_with('.'))
        .collect();
    entries.sort();
    Ok(entries)
}

fn is_weights(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|end| end == "safetensors" || end == "gguf")
}

fn class_of(path: &Path) -> Option<String> {
    Checkpoint::open(path).ok()?.pipeline_class().map(str::to_owned)
}

fn look_up(field: &'static str, names: &Names, name: &str) -> Result<PathBuf, Refusal> {
    names.get(name).cloned().ok_or_else(|| unknown(field, name, names.keys().map(String::as_str)))
}

/// A name that is not in a list.
fn unknown<'a>(field: &'static str, name: &str, there: impl Iterator<Item = &'a str>) -> Refusal {
    let there: Vec<&str> = there.collect();
    let why = match there.as_slice() {
        [] => "this server has none".to_owned(),
        some => format!("this server has {}", some.join(", ")),
    };
    Refusal::of_value(field, format!("{name:?}"), why)
}
