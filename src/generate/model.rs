//! The model that makes the pictures: where it is, and what a request changes about it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Notes, hints, places};
use crate::checkpoint::lora::Scales;
use crate::checkpoint::{Checkpoint, Ignore, Lora, PARTS, TextualInversion};
use crate::error::{Error, Result};
use crate::pipelines::{Classifier, DiffusionPipeline, PIXEL_PIPELINES, STABLE_DIFFUSION_PIPELINES};
use crate::refusal::Refusal;
use crate::request::{GenerationConfig, Request};
use crate::schedulers::{Scheduler, SchedulerConfig};

/// A model, ready to make pictures.
pub struct OpenModel {
    /// Its files, with LoRAs and textual inversions.
    pub checkpoint: Checkpoint,
    /// Its pipeline, with its own scheduler.
    pub pipeline: DiffusionPipeline,
    /// The config of its own scheduler.
    pub scheduler: SchedulerConfig,
    /// The settings that its folder recommends.
    pub generation: GenerationConfig,
}

impl OpenModel {
    /// Opens the model that a request asks for.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], what changes a checkpoint, and [`DiffusionPipeline::load`].
    pub fn open(request: &Request, ignore: &Arc<Ignore>, notes: &mut Notes) -> Result<Self> {
        let fitting = if request.prompt.is_empty() { PIXEL_PIPELINES } else { STABLE_DIFFUSION_PIPELINES };
        Self::open_at(&places::find(request.model.as_deref(), fitting)?, request, ignore, notes)
    }

    /// Opens the refiner, if a request asks for one, with the LoRAs that are for it.
    ///
    /// # Errors
    /// As [`OpenModel::open`]; a refusal if it is not a Stable Diffusion XL model.
    pub fn open_refiner(request: &Request, ignore: &Arc<Ignore>, notes: &mut Notes) -> Result<Option<Self>> {
        let Some(path) = &request.refiner else { return Ok(None) };
        let path = places::find(Some(path), &[])?;
        let own = Request {
            lora: request.refiner_lora.clone(),
            variant: None,
            unet: None,
            vae: None,
            text_encoder: None,
            text_encoder_2: None,
            scheduler_config: None,
            classifier: None,
            ..request.clone()
        };
        let refiner = Self::open_at(&path, &own, ignore, notes)?;
        if !refiner.pipeline.traits.xl {
            let why = "expected a Stable Diffusion XL model";
            return Err(Refusal::of_value("refiner", path.display(), why).into());
        }
        Ok(Some(refiner))
    }

    fn open_at(path: &Path, request: &Request, ignore: &Arc<Ignore>, notes: &mut Notes) -> Result<Self> {
        Self::of(put_together(path, request, ignore)?, request, notes)
    }

    /// A model whose files are there already, with what a request changes about it besides its components.
    ///
    /// # Errors
    /// As [`OpenModel::open`].
    pub fn of(checkpoint: Checkpoint, request: &Request, notes: &mut Notes) -> Result<Self> {
        DiffusionPipeline::check_class(&checkpoint)?;
        checkpoint.component_config("unet")?; // what is missing first of all is said first of all
        note_assumed(&checkpoint, request, notes)?;
        let checkpoint = adapted(checkpoint, request)?;
        let generation = GenerationConfig::of(&checkpoint)?;
        let scheduler = match request.scheduler.as_ref().or(generation.scheduler.as_ref()) {
            Some(_) => DiffusionPipeline::training_config(&checkpoint)?,
            None => DiffusionPipeline::scheduler_config(&checkpoint)?,
        };
        let mut pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(scheduler.clone())?)?;
        if let Some(path) = &request.classifier {
            pipeline.set_classifier(Some(Classifier::open(path)?))?;
            if !path.is_dir() {
                let found = "heads of 64 channels and norms of 32 groups in the classifier, as published ones have";
                notes.add(format!("assumed: {found}"));
            }
        }
        Ok(Self { checkpoint, pipeline, scheduler, generation })
    }
}

/// The checkpoint at `path` with the variant and the components that a request asks for.
///
/// # Errors
/// As [`Checkpoint::open`], [`Checkpoint::with_variant`] and [`Checkpoint::with_component`].
pub fn put_together(path: &Path, request: &Request, ignore: &Arc<Ignore>) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::open(path)?.with_ignored(ignore.clone());
    if let Some(variant) = &request.variant {
        checkpoint = checkpoint.with_variant(variant)?;
    }
    for (name, path) in parts(request) {
        checkpoint = checkpoint.with_component(name, path)?;
    }
    match &request.scheduler_config {
        Some(path) => checkpoint.with_scheduler_config(path),
        None => Ok(checkpoint),
    }
}

/// The components that come from elsewhere, the U-Net first: the others may depend on what it is.
fn parts(request: &Request) -> impl Iterator<Item = (&'static str, &PathBuf)> {
    let paths = [&request.unet, &request.vae, &request.text_encoder, &request.text_encoder_2];
    PARTS.into_iter().zip(paths).filter_map(|(name, path)| Some((name, path.as_ref()?)))
}

/// Notes what was assumed of a model and not asked for, and what the files' names suggest, each in one line.
fn note_assumed(checkpoint: &Checkpoint, request: &Request, notes: &mut Notes) -> Result<()> {
    let given = request.to_json()?;
    let open =
        |field: &str| given.get(field).is_none() && !(field == "scheduler" && request.scheduler_config.is_some());
    let assumed = checkpoint.assumptions().iter().filter(|assumption| assumption.field.is_none_or(open));
    let assumed: Vec<String> = assumed.map(ToString::to_string).collect();
    if !assumed.is_empty() {
        notes.add(format!("assumed: {}", assumed.join("; ")));
    }
    let loras = request.lora.iter().map(|lora| split(lora).0);
    // A latent consistency model has its own settings.
    let distilled = !checkpoint.component_config("unet")?.value["time_cond_proj_dim"].is_null();
    let model = (!distilled).then(|| checkpoint.path());
    let hint = loras.chain(model).find_map(|path| hints::of_name(path, &open));
    hint.iter().for_each(|hint| notes.add(format!("hint: {hint}")));
    Ok(())
}

/// What fields other than `model` and `refiner` name: files, and folders of components.
pub fn named_paths(request: &Request) -> Vec<(&'static str, PathBuf)> {
    let parts = parts(request).map(|(name, path)| (name, path.clone()));
    let classifier = request.classifier.iter().map(|path| ("classifier", path.clone()));
    named_files(request).into_iter().chain(parts).chain(classifier).collect()
}

/// The files that fields other than `model`, `refiner` and those for components name.
pub fn named_files(request: &Request) -> Vec<(&'static str, PathBuf)> {
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    for (field, loras) in [("lora", &request.lora), ("refiner_lora", &request.refiner_lora)] {
        let loras = loras.iter().flat_map(|lora| Lora::files(split(lora).0));
        files.extend(loras.map(|path| (field, path)));
    }
    files.extend(request.embedding.iter().map(|embedding| ("embedding", split(embedding).0.to_owned())));
    let single = [
        ("image", &request.image),
        ("mask", &request.mask),
        ("latents", &request.latents),
        ("scheduler_config", &request.scheduler_config),
    ];
    files.extend(single.into_iter().filter_map(|(field, path)| Some((field, path.clone()?))));
    files
}

/// The checkpoint with the LoRAs and textual inversions that a request names.
///
/// # Errors
/// As [`Lora::open`], [`TextualInversion::open`] and what applies them.
pub fn adapted(mut checkpoint: Checkpoint, request: &Request) -> Result<Checkpoint> {
    let lora = |text: &String| -> Result<(Arc<Lora>, Scales)> {
        let (path, scales) = split(text);
        let wrong = || {
            let why = "expected a number, or two, after the file's name, as in file.safetensors:0.8 or \
                       file.safetensors:0.8:0.5 (U-Net, text encoders)";
            Error::from(Refusal::of_value("lora", text, why))
        };
        let number = |text: &str| text.parse::<f64>().ok().filter(|scale| scale.is_finite()).ok_or_else(wrong);
        let scales = match scales.map(|scales| scales.split_once(':').ok_or(scales)) {
            None => Scales::from(1.0),
            Some(Err(both)) => Scales::from(number(both)?),
            Some(Ok((unet, text))) => Scales { unet: number(unet)?, text: number(text)? },
        };
        Ok((Arc::new(Lora::open(path)?), scales))
    };
    let loras = request.lora.iter().map(lora).collect::<Result<Vec<_>>>()?;
    let embedding = |text: &String| {
        let (path, word) = split(text);
        TextualInversion::open(path, word)
    };
    let mut embeddings = request.embedding.iter().map(embedding).collect::<Result<Vec<_>>>()?;
    // Words that a LoRA brings along; one that is given by itself goes before it.
    let known: Vec<String> = embeddings.iter().map(|embedding| embedding.word().to_owned()).collect();
    let bundled = loras.iter().flat_map(|(lora, _)| lora.embeddings());
    embeddings.extend(bundled.filter(|embedding| !known.iter().any(|word| word == embedding.word())).cloned());
    if !loras.is_empty() {
        checkpoint = checkpoint.with_loras(&loras)?;
    }
    if !embeddings.is_empty() {
        checkpoint = checkpoint.with_textual_inversions(&embeddings)?;
    }
    Ok(checkpoint)
}

/// `FILE.safetensors:REST` (or `FILE.gguf:REST`) as file and rest, `FOLDER:REST` likewise where there is such a folder;
/// anything else is a file.
pub fn split(text: &str) -> (&Path, Option<&str>) {
    // ASCII case only, so that places in both texts are the same.
    let lower = text.to_ascii_lowercase();
    let colon_behind = |end: &str| lower.rfind(end).map(|at| at + end.len() - 1);
    if let Some(colon) = [".safetensors:", ".gguf:"].into_iter().filter_map(colon_behind).max() {
        return (Path::new(&text[..colon]), Some(&text[colon + 1..]));
    }
    let colons = text.char_indices().filter(|(_, c)| *c == ':').map(|(at, _)| at);
    let folder = colons.filter(|_| !Path::new(text).exists()).find(|at| Path::new(&text[..*at]).is_dir());
    folder.map_or((Path::new(text), None), |at| (Path::new(&text[..at]), Some(&text[at + 1..])))
}
