//! The model that makes the pictures: where it lies, and what the options change about it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::args::{Options, Switch};
use super::record::Record;
use crate::checkpoint::{Checkpoint, Json, Lora, TextualInversion};
use crate::cli::model_path;
use crate::error::{Error, Result};
use crate::pipelines::{STABLE_DIFFUSION_PIPELINES, StableDiffusionPipeline};
use crate::schedulers::{Scheduler, SchedulerClass, SchedulerConfig, scheduler_by_name};

/// Pipelines without text that this command runs.
const CLASSES: &[&str] = &["DDPMPipeline", "DDIMPipeline"];

/// A model, ready for a pipeline.
pub struct Model {
    /// Its files, with LoRAs and textual inversions.
    pub checkpoint: Checkpoint,
    /// Its scheduler, or the one asked for over the same noise schedule.
    pub scheduler: Scheduler,
    /// Whether it takes a prompt.
    pub text: bool,
    /// What suits it, as its folder says.
    pub defaults: Defaults,
}

/// `generation_config.json` beside `model_index.json`: what a run takes that is not asked otherwise. diffusers has no
/// such file; the name is that of transformers' language models.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// The sampler, as `--scheduler` names it.
    pub scheduler: Option<String>,
    /// Number of denoise steps.
    pub num_inference_steps: Option<usize>,
    /// Classifier-free guidance.
    pub guidance_scale: Option<f64>,
    /// DDIM: see [`crate::schedulers::Sampling::use_clipped_model_output`].
    pub use_clipped_model_output: Option<bool>,
}

impl Defaults {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let path = checkpoint.path().join("generation_config.json");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let json = Json::read(&path)?;
        serde_json::from_value(json.value).map_err(|error| Error::Config(format!("{}: {error}", path.display())))
    }
}

impl Model {
    /// Opens the model that the options ask for, with the scheduler of `record` unless an option changes it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and what changes a checkpoint; [`Error::Unsupported`] for pipelines that this
    /// command does not run.
    pub fn open(options: &Options, record: Option<&Record>, given: &Options) -> Result<Self> {
        let fitting = if options.prompt.is_empty() { CLASSES } else { STABLE_DIFFUSION_PIPELINES };
        let path = model_path::find(options.model.as_deref(), fitting)?;
        let scheduler = record.map(|record| &record.scheduler).filter(|_| given.model.is_none());
        Self::open_at(&path, options, scheduler, given)
    }

    /// Opens the refiner, if the options ask for one. LoRAs do not change it.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_refiner(options: &Options, record: Option<&Record>, given: &Options) -> Result<Option<Self>> {
        let Some(path) = &options.refiner else { return Ok(None) };
        let path = model_path::find(Some(path), &[])?;
        let scheduler = record.and_then(|r| r.refiner_scheduler.as_ref()).filter(|_| given.refiner.is_none());
        let own = Options { lora: vec![], variant: None, ..options.clone() };
        Self::open_at(&path, &own, scheduler, given).map(Some)
    }

    /// How a DDIM run goes about clipping; nothing for other samplers. Never left open, so that a picture remembers it.
    pub fn clipping(&self, options: &Options) -> Option<Switch> {
        let ddim = self.scheduler.config.class == SchedulerClass::Ddim;
        let own = Switch::from(self.defaults.use_clipped_model_output.unwrap_or(false));
        ddim.then(|| options.use_clipped_model_output.unwrap_or(own))
    }

    fn open_at(path: &Path, options: &Options, recorded: Option<&Value>, given: &Options) -> Result<Self> {
        let mut checkpoint = Checkpoint::open(path)?;
        let text = match checkpoint.pipeline_class() {
            Some(class) if STABLE_DIFFUSION_PIPELINES.contains(&class) => true,
            Some(class) if !CLASSES.contains(&class) => {
                return Err(Error::Unsupported(format!(
                    "{}: a {class}; there are {} and {}",
                    path.display(),
                    CLASSES.join(", "),
                    STABLE_DIFFUSION_PIPELINES.join(", ")
                )));
            }
            _ => false,
        };
        if let Some(variant) = &options.variant {
            checkpoint = checkpoint.with_variant(variant)?;
        }
        if options.prediction_type.is_none() {
            checkpoint.assumptions().iter().for_each(|a| eprintln!("assumed: {a}"));
        }
        checkpoint = adapted(checkpoint, options)?;
        let defaults = Defaults::of(&checkpoint)?;
        let changed = given.scheduler.is_some() || given.prediction_type.is_some();
        let config = match recorded.filter(|_| !changed) {
            Some(recorded) => SchedulerConfig::from_json(&recorded.to_string())?,
            None => scheduler_config(&checkpoint, options, &defaults)?,
        };
        Ok(Self { checkpoint, scheduler: Scheduler::new(config)?, text, defaults })
    }
}

/// The files that options other than `--model` and `--refiner` name.
pub fn named_files(options: &Options) -> Vec<(&'static str, PathBuf)> {
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    files.extend(options.lora.iter().map(|lora| ("lora", split(lora).0.to_owned())));
    files.extend(options.embedding.iter().map(|embedding| ("embedding", split(embedding).0.to_owned())));
    let single = [("image", &options.image), ("mask", &options.mask), ("latents", &options.latents)];
    files.extend(single.into_iter().filter_map(|(option, path)| Some((option, path.clone()?))));
    files
}

/// The checkpoint with the LoRAs and textual inversions that the options name.
fn adapted(mut checkpoint: Checkpoint, options: &Options) -> Result<Checkpoint> {
    let lora = |text: &String| -> Result<(Arc<Lora>, f64)> {
        let (path, scale) = split(text);
        let wrong = || {
            Error::Usage(format!("--lora {text}: expected a number after the last colon, as in file.safetensors:0.8"))
        };
        let scale = match scale {
            None => 1.0,
            Some(number) => number.parse::<f64>().ok().filter(|scale| scale.is_finite()).ok_or_else(wrong)?,
        };
        Ok((Arc::new(Lora::open(path)?), scale))
    };
    let loras = options.lora.iter().map(lora).collect::<Result<Vec<_>>>()?;
    let embedding = |text: &String| {
        let (path, word) = split(text);
        TextualInversion::open(path, word)
    };
    let embeddings = options.embedding.iter().map(embedding).collect::<Result<Vec<_>>>()?;
    if !loras.is_empty() {
        checkpoint = checkpoint.with_loras(&loras)?;
    }
    if !embeddings.is_empty() {
        checkpoint = checkpoint.with_textual_inversions(&embeddings)?;
    }
    Ok(checkpoint)
}

/// `FILE.safetensors:REST` as file and rest; anything else is a file.
fn split(text: &str) -> (&Path, Option<&str>) {
    match text.rsplit_once(':') {
        Some((file, rest)) if file.to_lowercase().ends_with(".safetensors") => (Path::new(file), Some(rest)),
        _ => (Path::new(text), None),
    }
}

/// The model's scheduler, or the one asked for.
fn scheduler_config(checkpoint: &Checkpoint, options: &Options, defaults: &Defaults) -> Result<SchedulerConfig> {
    let own = StableDiffusionPipeline::scheduler_config(checkpoint)?;
    let config = match options.scheduler.as_ref().or(defaults.scheduler.as_ref()) {
        Some(name) => scheduler_by_name(name, &own)?,
        None => own,
    };
    match &options.prediction_type {
        Some(name) => config.with_class(config.class, &[("prediction_type", Value::from(name.as_str()))]),
        None => Ok(config),
    }
}
