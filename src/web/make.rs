//! What a page asks for: pictures, one forward pass, what a model can do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::device::WebDevice;
use super::files::PageFiles;
use super::host::{self, Report};
use crate::backend::{Device, LoadOptions};
use crate::checkpoint::{Checkpoint, Tensors, safetensors};
use crate::error::{Error, Result};
use crate::files::Files;
use crate::image_io::{Picture, encode_png, grid};
use crate::models::{LoadedModel, NamedTensors, prepare};
use crate::pipelines::{Cancel, DiffusionPipeline, Kind, Runtime};
use crate::request::{self, Asked, GenerationConfig, ModelFacts, Precision, Request, Resolved};
use crate::schedulers::{Scheduler, SchedulerConfig};

/// Where the page puts CLIP's list of merges for a model that comes without a tokenizer.
const CLIP_MERGES: &str = "clip-merges.txt";

/// A model, and what it says of itself.
struct Model {
    pipeline: DiffusionPipeline,
    scheduler: SchedulerConfig,
    generation: GenerationConfig,
}

fn checkpoint(files: &PageFiles, path: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open_in(Arc::new(files.clone()), path)?;
    if !files.is_file(Path::new(CLIP_MERGES)) {
        return Ok(checkpoint);
    }
    let merges = files.open(Path::new(CLIP_MERGES)).map_err(Error::io(CLIP_MERGES))?;
    Ok(checkpoint.with_clip_merges(String::from_utf8_lossy(&merges)))
}

impl Model {
    fn open(files: &PageFiles, request: &Request) -> Result<Self> {
        let path = request.model.as_deref().ok_or_else(|| Error::Usage("no model was chosen".into()))?;
        let checkpoint = checkpoint(files, path)?;
        let generation = GenerationConfig::of(&checkpoint)?;
        let scheduler = match request.scheduler.as_ref().or(generation.scheduler.as_ref()) {
            Some(_) => DiffusionPipeline::training_config(&checkpoint)?,
            None => DiffusionPipeline::scheduler_config(&checkpoint)?,
        };
        let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(scheduler.clone())?)?;
        Ok(Self { pipeline, scheduler, generation })
    }

    fn resolve(&self, request: Request) -> Result<Resolved> {
        let facts =
            ModelFacts { traits: &self.pipeline.traits, generation: &self.generation, scheduler: &self.scheduler };
        Ok(request::resolve(&Asked::from(request), &facts)?)
    }
}

/// What can be asked of a model, and what it does by itself, as JSON: `text` (it takes prompts), `classes` (how many,
/// or null), `multiple` (of which width and height must be), and the settings of a request that asks for nothing.
///
/// # Errors
/// As opening the model; [`Error::Unsupported`] for a model that needs a picture to begin with.
pub(super) fn describe(files: &PageFiles, path: &str) -> Result<Vec<u8>> {
    let asked = Request { model: Some(path.into()), ..Request::default() };
    let model = Model::open(files, &asked)?;
    let traits = model.pipeline.traits;
    let text = traits.kind != Kind::Pixels;
    let asked = Request { prompt: text.then(String::new).into_iter().collect(), ..asked };
    let defaults = model.resolve(asked)?.request;
    let (height, width) = traits.own_size.map_or((defaults.height, defaults.width), |(h, w)| (Some(h), Some(w)));
    let answer = json!({
        "text": text,
        "classes": traits.classes,
        "multiple": traits.multiple,
        "width": width,
        "height": height,
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale.first(),
        "scheduler": defaults.scheduler,
    });
    Ok(answer.to_string().into_bytes())
}

/// Makes pictures; the answer is a PNG.
///
/// # Errors
/// As the library.
pub(super) fn sample(device: WebDevice, files: &PageFiles, request: &[u8], cancel: &Cancel) -> Result<Vec<u8>> {
    let request: Request =
        serde_json::from_slice(request).map_err(|error| Error::Usage(format!("the request: {error}")))?;
    let mut model = Model::open(files, &request)?;
    let resolved = model.resolve(request)?;
    model.pipeline.scheduler = resolved.scheduler.clone();
    model.pipeline.set_tiling(resolved.tiling);
    resolved.notes.iter().for_each(|note| host::report(Report::Note, note));
    let device = Device::Web(device);
    let (load, notes) = resolved.request.device.load_options(&device)?;
    notes.iter().for_each(|note| host::report(Report::Note, note));
    let dtype = resolved.request.precision.unwrap_or_default().dtype();
    let runtime = Runtime::new(&device, &load, dtype).with_cancel(cancel);
    let total = model.pipeline.steps(&resolved.options)?;
    let progress = |done: usize| host::report(Report::Progress, &json!({"done": done, "total": total}).to_string());
    progress(0);
    let images =
        model.pipeline.sample(&runtime, &resolved.options, &mut resolved.noise_sources(), &mut |mut step| {
            step.wait()?;
            progress(step.done);
            Ok(())
        })?;
    model.pipeline.take_notes().iter().for_each(|note| host::report(Report::Note, note));
    let pictures = Picture::from_tensor(&images)?;
    encode_png(&grid(&pictures, None)?, &[])
}

/// What [`run`] is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pass {
    model: String,
    component: String,
    #[serde(default)]
    precision: Precision,
}

/// One forward pass of a component on the tensors of a `.safetensors` file; the answer is such a file.
///
/// # Errors
/// As the library.
pub(super) fn run(device: WebDevice, files: &PageFiles, request: &[u8], inputs: Vec<u8>) -> Result<Vec<u8>> {
    let pass: Pass = serde_json::from_slice(request).map_err(|error| Error::Usage(format!("the request: {error}")))?;
    let checkpoint = checkpoint(files, Path::new(&pass.model))?;
    let LoadedModel { model, weights, .. } = LoadedModel::open(&checkpoint, &pass.component)?;
    let file = Tensors::from_bytes("the inputs", inputs)?;
    let given = file.names().map(|n| Ok((n.to_owned(), file.read_f32(n)?))).collect::<Result<NamedTensors>>()?;
    let (graph, inputs) = prepare(model.as_ref(), given, pass.precision.dtype())?;
    let names: Vec<_> = graph.outputs().iter().map(|(name, _)| name.clone()).collect();
    let mut session = Device::Web(device).load(graph, &weights, &LoadOptions::default())?;
    for (name, tensor) in &inputs {
        session.write(name, tensor)?;
    }
    session.run()?;
    let mut outputs = NamedTensors::new();
    for name in names {
        let tensor = model.layout(&name).to_public(session.read(&name)?);
        outputs.insert(name, tensor);
    }
    let listed: Vec<_> = outputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut out = Vec::new();
    safetensors::write(&mut out, &listed, &BTreeMap::new()).expect("memory takes all bytes");
    Ok(out)
}
