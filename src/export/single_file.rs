//! A checkpoint as a single file of the original code, which AUTOMATIC1111, ComfyUI, stable-diffusion.cpp and
//! diffusers' `from_single_file` read.

use std::path::Path;

use serde_json::Value;

use super::{Part, write};
use crate::checkpoint::original::{self, Made, Renamed};
use crate::checkpoint::safetensors::Entry;
use crate::checkpoint::{Checkpoint, Family, quoted};
use crate::error::{Error, Result};
use crate::graph::StoredType;
use crate::models::{LoadedModel, Model};
use crate::tensor::{DType, HostTensor};
use crate::tokenizer::CLIP_VOCABULARY;

/// A tensor of the file: which part it is made of, and how.
struct Piece {
    part: usize,
    made: Made,
}

/// Writes a Stable Diffusion checkpoint to the file `path`, which appears complete or not at all. Tensors are written
/// as `dtype`, or as most of their component are stored. The file is read again before it takes its name: a single file
/// has no configurations, and must say by names, shapes and marks what they said. Says what was written, and what a
/// single file cannot hold, one line each.
///
/// # Errors
/// [`Error::Unsupported`] if the original code has no such model, or the file would be read as another one; as
/// [`crate::models::LoadedModel::open`]; [`Error::Checkpoint`] for a number that `dtype` cannot hold; [`Error::Io`].
pub fn single_file(checkpoint: &Checkpoint, path: &Path, dtype: Option<StoredType>) -> Result<Vec<String>> {
    let class = checkpoint.pipeline_class();
    let parts = Part::all(checkpoint, dtype)?;
    let latent = class.is_none_or(|class| class.contains("Diffusion") || class.contains("Consistency"));
    if !latent || parts.is_empty() {
        return Err(Error::Unsupported(format!(
            "{}: only Stable Diffusion has a layout in a single file; give the name of a folder to write",
            checkpoint.path().display()
        )));
    }
    // A part of a model stays one: its tensors have no prefix.
    let whole = parts.iter().any(|part| part.component.name == "unet");
    let family = if whole { checkpoint.family()? } else { Family::Sd1 };
    let (mut entries, mut pieces) = (Vec::new(), Vec::new());
    for (i, part) in parts.iter().enumerate() {
        let vocabulary = part.component.config.value["vocab_size"].as_u64();
        if vocabulary.is_some_and(|tokens| tokens != u64::from(CLIP_VOCABULARY)) {
            return Err(Error::Unsupported(format!(
                "{}: a single file has no tokenizer, and this model's vocabulary is not CLIP's; give the name of a \
                folder to write",
                checkpoint.path().display()
            )));
        }
        let (prefix, renamed) = renamed(family, part)?;
        for (name, made) in renamed {
            let shape = made.shape(&|name| part.weights.shape(&part.own(name)).to_vec());
            let prefix = if whole || parts.len() > 1 { prefix } else { "" };
            entries.push(Entry { name: format!("{prefix}{name}"), dtype: part.dtype, shape });
            pieces.push(Some(Piece { part: i, made }));
        }
    }
    let config = if whole { checkpoint.scheduler_config("scheduler")?.value } else { Value::Null };
    let marks = marks(checkpoint, &config)?;
    for (name, tensor) in &marks {
        entries.push(Entry { name: (*name).to_owned(), dtype: StoredType::F32, shape: tensor.shape.clone() });
        pieces.push(None);
    }
    let first_mark = entries.len() - marks.len();
    let mut read = |i: usize| match &pieces[i] {
        Some(Piece { part, made }) => made.read(&parts[*part]),
        None => Ok(marks[i - first_mark].1.clone()),
    };
    let predicts = if config["prediction_type"] == "v_prediction" { "v" } else { "epsilon" };
    let metadata = [("modelspec.architecture", architecture(family)), ("modelspec.prediction_type", predicts)];
    // A name that nobody else has, until it is known to be right.
    let unchecked = path.with_file_name(format!(".unmist-{}.safetensors", std::process::id()));
    write(&unchecked, &entries, if whole { &metadata } else { &[] }, &mut read)?;
    let checked = reads_back(checkpoint, &unchecked, &parts, whole);
    let scheduler = checked.and_then(|scheduler| {
        std::fs::rename(&unchecked, path).map_err(Error::io(path))?;
        Ok(scheduler)
    });
    let scheduler = scheduler.inspect_err(|_| {
        let _ = std::fs::remove_file(&unchecked); // there is nobody to tell if even this fails
    })?;
    let said = parts.iter().map(|part| {
        let name = &part.component.name;
        format!("{name}: {} tensors, {}", part.names().len(), part.dtype.name())
    });
    let class = &config["_class_name"];
    let lost = scheduler.filter(|inferred| inferred != class);
    let lost = lost
        .map(|inferred| format!("a single file cannot say that the scheduler is {class}; it is read as {inferred}"));
    Ok(said.chain(lost).collect())
}

/// The prefix of a component's tensors, and their names behind it.
fn renamed(family: Family, part: &Part) -> Result<(&'static str, Vec<Renamed>)> {
    let names = part.names();
    let text: Vec<String> = names
        .iter()
        .map(|name| match name.starts_with("text_model.") || name.starts_with("text_projection.") {
            true => name.clone(),
            false => format!("text_model.{name}"),
        })
        .collect();
    let as_they_are = |names: Vec<String>| Ok(names.into_iter().map(|name| (name.clone(), Made::Of(name))).collect());
    let (prefix, renamed) = match (part.component.name.as_str(), family) {
        ("unet", _) => ("model.diffusion_model.", original::unet(&names)),
        ("vae", _) => ("first_stage_model.", original::vae(&names)),
        ("text_encoder", Family::Sd1) => ("cond_stage_model.transformer.", as_they_are(text)),
        ("text_encoder", Family::Sd2 | Family::Upscaler) => ("cond_stage_model.model.", original::open_clip(&text)),
        ("text_encoder", Family::Xl | Family::Refiner) => ("conditioner.embedders.0.transformer.", as_they_are(text)),
        (_, Family::Refiner) => ("conditioner.embedders.0.model.", original::open_clip(&text)),
        _ => ("conditioner.embedders.1.model.", original::open_clip(&text)),
    };
    let renamed = renamed.map_err(|name| {
        Error::Unsupported(format!(
            "{}: the original code has no name for {}; give the name of a folder to write",
            part.component.tensors.label(),
            quoted(&name)
        ))
    })?;
    Ok((prefix, renamed))
}

impl Part {
    /// The name that the model has for a tensor, which may be without `text_model.`.
    fn own(&self, name: &str) -> String {
        let known = |name: &str| self.weights.names().any(|own| own == name);
        match name.strip_prefix("text_model.") {
            Some(bare) if !known(name) => bare.to_owned(),
            _ => name.to_owned(),
        }
    }
}

impl Made {
    fn shape(&self, of: &dyn Fn(&str) -> Vec<usize>) -> Vec<usize> {
        match self {
            Self::Of(name) => of(name),
            Self::Convolution(name) => [of(name), vec![1; 4 - of(name).len().min(4)]].concat(),
            Self::Transposed(name) => of(name).into_iter().rev().collect(),
            Self::Stacked([first, ..]) => {
                let mut shape = of(first);
                shape[0] *= 3;
                shape
            }
        }
    }

    fn read(&self, part: &Part) -> Result<HostTensor> {
        let tensor = |name: &str| part.weights.tensor(&part.own(name));
        let shape = self.shape(&|name| part.weights.shape(&part.own(name)).to_vec());
        match self {
            Self::Of(name) | Self::Convolution(name) => HostTensor::new(shape, tensor(name)?.data),
            Self::Transposed(name) => {
                let from = tensor(name)?;
                let (rows, columns) = (from.shape[0], from.shape[1]);
                Ok(HostTensor::from_fn(shape, |i| from.data[i % rows * columns + i / rows]))
            }
            Self::Stacked(names) => {
                let parts = names.iter().map(|name| Ok(tensor(name)?.data)).collect::<Result<Vec<_>>>()?;
                HostTensor::new(shape, parts.concat())
            }
        }
    }
}

fn architecture(family: Family) -> &'static str {
    match family {
        Family::Sd1 => "stable-diffusion-v1",
        Family::Sd2 => "stable-diffusion-v2-768-v",
        Family::Upscaler => "stable-diffusion-v2-upscaler",
        Family::Xl => "stable-diffusion-xl-v1-base",
        Family::Refiner => "stable-diffusion-xl-v1-refiner",
    }
}

/// The marks by which other programs, and this one, know what a model predicts and on which noise levels.
fn marks(checkpoint: &Checkpoint, scheduler: &Value) -> Result<Vec<(&'static str, HostTensor)>> {
    let mut marks = Vec::new();
    let class = scheduler["_class_name"].as_str().unwrap_or_default();
    let number = |field: &str, default: f32| {
        let value = scheduler[field].as_f64().map_or(default, |v| v as f32);
        HostTensor::new(vec![], vec![value])
    };
    if class == "EDMEulerScheduler" && scheduler["prediction_type"] == "v_prediction" {
        marks.push(("edm_vpred.sigma_max", number("sigma_max", 80.0)?));
        marks.push(("edm_vpred.sigma_min", number("sigma_min", 0.002)?));
    } else if scheduler["prediction_type"] == "v_prediction" {
        marks.push(("v_pred", HostTensor::new([0], vec![])?));
    }
    if scheduler["rescale_betas_zero_snr"] == true {
        marks.push(("ztsnr", HostTensor::new([0], vec![])?));
    }
    let vae = checkpoint.component_config("vae").map(|config| config.value).unwrap_or_default();
    if !vae["latents_mean"].is_null() && class != "EDMDPMSolverMultistepScheduler" {
        return Err(Error::Unsupported(format!(
            "{}: a single file can hold latents_mean only for EDMDPMSolverMultistepScheduler, this is for {class}; \
            give the name of a folder to write",
            checkpoint.path().display()
        )));
    }
    if class == "EDMDPMSolverMultistepScheduler" {
        for (mark, field) in [("edm_mean", "latents_mean"), ("edm_std", "latents_std")] {
            let values: Vec<f32> =
                vae[field].as_array().into_iter().flatten().filter_map(|v| Some(v.as_f64()? as f32)).collect();
            marks.push((mark, HostTensor::new([1, values.len(), 1, 1], values)?));
        }
    }
    Ok(marks)
}

/// Checks that the file is read as the model that it was made of. Returns the scheduler that is inferred for it.
fn reads_back(checkpoint: &Checkpoint, path: &Path, parts: &[Part], whole: bool) -> Result<Option<Value>> {
    let refused = |why: String| {
        Error::Unsupported(format!(
            "{}: a single file, which has no config.json, cannot hold this model: {why}; give the name of a folder to \
            write",
            checkpoint.path().display()
        ))
    };
    // Of the file that is checked nobody knows the name.
    let said = |error: Error| refused(error.to_string().replace(&format!("{}: ", path.display()), ""));
    let file = Checkpoint::open(path).map_err(said)?;
    for part in parts {
        let name = part.component.name.as_str();
        let model = if name == "vae" { "vae.encoder" } else { name };
        let own = LoadedModel::open(checkpoint, model)?.model;
        let found = LoadedModel::open(&file, model).map_err(said)?.model;
        // A config may say the same in several ways: what counts is the graph, and of an autoencoder the scale of its
        // latents too.
        let sizes = own.default_sizes();
        let graph = |of: &dyn Model| Ok::<_, Error>(of.graph(&sizes, DType::F32)?.to_string());
        let difference = difference(&format!("{own:#?}"), &format!("{found:#?}"));
        if graph(&*own)? != graph(&*found)? || (name == "vae" && difference.is_some()) {
            let (field, own, found) = difference.unwrap_or_default();
            return Err(refused(format!("of {name}, {field} is {own} and would be read as {found}")));
        }
    }
    if !whole {
        return Ok(None);
    }
    let (own, found) = (checkpoint.scheduler_config("scheduler")?.value, file.scheduler_config("scheduler")?.value);
    let predicts = |config: &Value| config["prediction_type"].as_str().unwrap_or("epsilon").to_owned();
    if predicts(&own) != predicts(&found) {
        return Err(refused(format!(
            "the U-Net predicts {}, which would be read as {}",
            predicts(&own),
            predicts(&found)
        )));
    }
    Ok(Some(found["_class_name"].clone()))
}

/// The first field in which two models differ, as they are printed for debugging, and its values or elements. The size
/// of pictures is only a default, and the statistics of latents stand in marks, as f32.
fn difference(own: &str, found: &str) -> Option<(String, String, String)> {
    let mut field = String::new();
    for (own, found) in own.lines().zip(found.lines()) {
        if let Some((name, _)) = own.trim().split_once(':') {
            field = name.to_owned();
        }
        if own != found && !["sample_size", "latents_mean", "latents_std"].contains(&field.as_str()) {
            let value = |line: &str| {
                let line = line.trim().trim_end_matches(',');
                line.strip_prefix(&format!("{field}: ")).unwrap_or(line).to_owned()
            };
            return Some((field.clone(), value(own), value(found)));
        }
    }
    None
}
