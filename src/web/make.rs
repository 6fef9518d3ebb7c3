//! What a page asks for: pictures, one forward pass, what a model can do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::device::WebDevice;
use super::files::PageFiles;
use super::host::{self, Report};
use crate::backend::{Device, LoadOptions};
use crate::checkpoint::{Checkpoint, Tensors, safetensors};
use crate::error::{Error, Result};
use crate::files::{Files as _, Memory};
use crate::generate::{
    Event, Files, KEYWORD, Models, Notes, OpenModel, Overlay, Record, Step, parameters, read_inputs,
};
use crate::image_io::{PARAMETERS, Picture, PictureFormat, decode, encode, grid};
use crate::models::{LoadedModel, NamedTensors, prepare};
use crate::output::sha256_of;
use crate::pipelines::{Cancel, Kind, Runtime};
use crate::refusal::Refusal;
use crate::request::{Precision, Request};
use crate::schedulers::SchedulerClass;

/// Where the page puts CLIP's list of merges for a model that comes without a tokenizer.
const CLIP_MERGES: &str = "clip-merges.txt";

/// Bytes of files that are hashed for what a picture remembers: some seconds of work.
const MOST_HASHED: u64 = 1 << 30;

fn checkpoint(files: &PageFiles, path: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open_in(Arc::new(files.clone()), path)?;
    if !files.is_file(Path::new(CLIP_MERGES)) {
        return Ok(checkpoint);
    }
    let merges = files.open(Path::new(CLIP_MERGES)).map_err(Error::io(CLIP_MERGES))?;
    Ok(checkpoint.with_clip_merges(String::from_utf8_lossy(&merges)))
}

/// Opens the model that a request names.
fn open(files: &PageFiles, request: &Request, notes: &mut Notes) -> Result<Models> {
    let path = request.model.as_deref().ok_or_else(|| Refusal::of("model", "none was chosen"))?;
    Ok(Models { model: OpenModel::of(checkpoint(files, path)?, request, notes)?, refiner: None })
}

/// What can be asked of a model, and what it does by itself, as JSON: its `kind` ([`Traits::word`]), `text` (it takes
/// prompts), `classes` (how many, or null), `multiple` (of which width and height must be), and the settings of a
/// request that asks for nothing but what the model needs.
///
/// # Errors
/// As opening the model.
///
/// [`Traits::word`]: crate::pipelines::Traits::word
pub(super) fn describe(files: &PageFiles, path: &str) -> Result<Vec<u8>> {
    let asked = Request { model: Some(path.into()), ..Request::default() };
    let mut models = open(files, &asked, &mut Notes::default())?;
    let traits = models.model.pipeline.traits;
    let text = traits.kind.has_text();
    // Settings do not depend on what is in a picture, only on whether there is one.
    let repaints = models.model.scheduler.class == SchedulerClass::RePaint;
    let shown = repaints || matches!(traits.kind, Kind::Inpaint | Kind::Edit) || traits.kind.enlarges();
    let image = shown.then(|| "image".into());
    let mask = (repaints || traits.kind == Kind::Inpaint).then(|| "mask".into());
    let asked = Request { prompt: text.then(String::new).into_iter().collect(), image, mask, ..asked };
    let defaults = models.resolve(&asked.into(), None)?.request;
    let (height, width) = traits.own_size.map_or((defaults.height, defaults.width), |(h, w)| (Some(h), Some(w)));
    let answer = json!({
        "kind": traits.word(),
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

/// What a page gives to a run, besides the request.
pub(super) struct Page {
    /// Of the model.
    pub files: PageFiles,
    /// What the request names as `image` and `mask`.
    pub pictures: Memory,
    /// How many unfinished pictures it wants to see at most.
    pub previews: usize,
}

/// Makes pictures; the answer is a PNG.
///
/// # Errors
/// As the library.
pub(super) fn sample(device: WebDevice, page: &Page, request: &[u8], cancel: &Cancel) -> Result<Vec<u8>> {
    let request: Request =
        serde_json::from_slice(request).map_err(|error| Error::Usage(format!("the request: {error}")))?;
    // 1. the model, and what is asked of it
    let mut notes = Notes::default();
    let mut models = open(&page.files, &request, &mut notes)?;
    let mut resolved = models.resolve(&request.into(), None)?;
    resolved.notes.iter().for_each(|note| notes.add(format!("note: {note}")));
    let channels = models.model.pipeline.picture_channels();
    let overlay = read_inputs(&mut resolved.options, &resolved.request, channels, &page.pictures, &mut notes)
        .map_err(|error| at_its_field(error, &resolved.request, &page.pictures))?;
    let device = Device::Web(device);
    let (load, told) = resolved.request.device.load_options(&device)?;
    told.into_iter().for_each(|note| notes.add(format!("note: {note}")));
    let hashes = hashes(page, &models, &resolved.request, &mut notes)?;

    // 2. the pictures
    let dtype = resolved.request.precision.unwrap_or_default().dtype();
    let runtime = Runtime::new(&device, &load, dtype).with_cancel(cancel);
    let progress = |done: usize, total: usize| {
        host::report(Report::Progress, json!({"done": done, "total": total}).to_string());
    };
    progress(0, models.steps(&resolved.options)?);
    let latents = models.run(&runtime, &resolved, &mut |event| {
        if let Event::Step(mut step) = event {
            step.progress.wait()?;
            progress(step.done, step.total);
            let every = step.total.div_ceil(page.previews.saturating_add(1));
            if page.previews > 0 && step.done.is_multiple_of(every) && step.done < step.total {
                host::report(Report::Preview, preview(&runtime, &mut step)?);
            }
        }
        Ok(())
    })?;
    let images = Overlay::apply(overlay.as_ref(), models.decode(&runtime, &latents)?)?;
    let pictures = Picture::from_tensor(&images)?;
    models.take_notes(&mut notes);
    notes.take().iter().for_each(|note| host::report(Report::Note, note));

    // 3. their own account of how they were made
    let (scheduler, refiner_scheduler) = models.schedulers();
    let record = Record {
        version: Record::version(),
        device: device.describe(),
        tuned: None,
        options: resolved.request,
        scheduler,
        refiner_scheduler,
        files: hashes,
    };
    let (size, several) = ((pictures[0].width, pictures[0].height), pictures.len() > 1);
    let text = vec![
        (PARAMETERS.to_owned(), parameters(&record, (!several).then_some(0), size)),
        (KEYWORD.to_owned(), record.to_json()?),
    ];
    encode(Path::new("the picture"), &grid(&pictures, None)?, &text, PictureFormat::Png)
}

/// The pictures as far as can be said after a step, as PNG.
fn preview(runtime: &Runtime<'_>, step: &mut Step<'_, '_>) -> Result<Vec<u8>> {
    let x0 = step.progress.pred_original_sample()?;
    let pictures = Picture::from_tensor(&step.pipeline.decode(runtime, &x0)?)?;
    encode(Path::new("the picture"), &grid(&pictures, None)?, &[], PictureFormat::Png)
}

/// An error of reading pictures as a refusal of the one that cannot be read.
fn at_its_field(error: Error, request: &Request, pictures: &Memory) -> Error {
    let unreadable = |path: &Option<PathBuf>| {
        path.as_ref().is_some_and(|path| !pictures.open(path).is_ok_and(|file| decode(path, &file, 3).is_ok()))
    };
    let fields = [("image", &request.image), ("mask", &request.mask)];
    match (error, fields.into_iter().find(|(_, path)| unreadable(path))) {
        (Error::Unsupported(why), Some((field, _))) => Refusal::of(field, why).into(),
        (Error::Limits(why), Some((field, _))) => Refusal::of(field, why.to_string()).into(),
        (Error::Io { path, source }, Some((field, _))) => {
            Refusal::of(field, format!("{}: {source}", path.display())).into()
        }
        (error, _) => error,
    }
}

/// The sha256 of the files, which pictures remember; of larger models it would take too long.
fn hashes(page: &Page, models: &Models, request: &Request, notes: &mut Notes) -> Result<Files> {
    let paths = models.paths(request)?;
    let all = paths.values().flatten();
    let bytes: u64 = all.filter_map(|(_, path)| page.files.length(path)).sum();
    if bytes > MOST_HASHED {
        notes.add("note: the model is large; the picture does not remember the hashes of its files".into());
        return Ok(Files::new());
    }
    let hash = |option: &str, (name, path): &(String, PathBuf)| {
        let hash = match option {
            "image" | "mask" => page.pictures.open(path).map(|file| sha256_of(&file)),
            _ => page.files.sha256(path),
        };
        Ok((name.clone(), hash.map_err(Error::io(path))?))
    };
    paths
        .iter()
        .map(|(option, list)| Ok((option.clone(), list.iter().map(|file| hash(option, file)).collect::<Result<_>>()?)))
        .collect()
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
