//! `unmist sample`: makes pictures.

mod args;
mod foreign;
mod hints;
mod inputs;
mod mask;
pub(super) mod model;
mod networks;
mod parameters;
mod pictures;
mod record;
mod reporter;
mod run;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use args::Args;

use model::OpenModel;
use pictures::{Failures, Output};
use record::Record;
use run::Job;
use source::Source;

use super::{load_options, model_path, print, say, traced, words};
use crate::backend::{Device, LoadOptions};
use crate::checkpoint::Ignore;
use crate::error::{Error, Result};
use crate::output::{check_writable, is_same_file};
use crate::pipelines::{Kind, Traits};
use crate::request::{self, Asked, Origin, Request, Resolved, Setting};
use crate::schedulers::Scheduler;
use crate::trace;

/// Runs the command.
///
/// # Errors
/// As the library; no picture is written then.
pub fn run(args: Args) -> Result<()> {
    let trace = args.trace.clone();
    traced(trace.as_deref(), || make(args))
}

fn make(mut args: Args) -> Result<()> {
    let source = args.from.as_deref().map(Source::read).transpose()?;
    let past = source.as_ref().zip(args.from.as_deref());
    let past = past.map(|(source, path)| source.past(path, &args.request)).transpose()?;
    let weighting = args.request.weighting || past.as_ref().is_some_and(|past| past.request.weighting);
    networks::take_from_prompts(&mut args.request, weighting, &mut Err)?;
    let record = source.as_ref().and_then(Source::record);
    let asked = Asked { request: args.request.clone(), past };
    let merged = asked.merged()?;
    let output = Output::new(&args.output, merged.separate, args.quality)?;
    if !merged.separate {
        output.check(1)?;
    }
    args.preview_every.iter().try_for_each(|_| output.check_preview())?;
    args.save_latents.iter().try_for_each(check_writable)?;
    if args.preview_every == Some(0) {
        return Err(Error::Usage("--preview-every 0: expected 1 step or more".into()));
    }

    // 1. the models, and what is asked of them
    if record.is_some() {
        still_there(&merged, &args.request)?;
    }
    let ignore = Arc::new(Ignore::new(&merged.ignore_unused));
    let span = trace::span("open the models");
    let (model, refiner) = (OpenModel::open(&merged, &ignore)?, OpenModel::open_refiner(&merged, &ignore)?);
    let mut models = Models { model, refiner };
    ignore.account().iter().for_each(|note| say(format_args!("note: {note}")));
    drop(span);
    let span = trace::span("resolve the settings");
    let mut resolved = models.resolve(&asked, record)?;
    drop(span);
    if args.explain_settings {
        print(&explanation(&resolved, models.model.checkpoint.path()));
        return Ok(());
    }
    if args.save_latents.is_some() && models.model.pipeline.traits.kind == Kind::Pixels {
        return Err(Error::Usage("--save-latents: this model works on pixels and has no latents".into()));
    }

    resolved.notes.iter().for_each(|note| say(format_args!("note: {}", words::in_flags(note))));
    let places = output.places(resolved.options.batch_size);
    check_distinct(&args, &resolved.request, &output, &places)?;
    if merged.separate {
        output.check(places.len())?;
    }

    // 2. the hashes of all files; hashing gigabytes takes as long as sampling, so only a replay waits for it
    resolved.request.model = Some(model_path::remembered(models.model.checkpoint.path()));
    let paths = models.paths(&resolved.request)?;
    let hashes = std::thread::spawn(move || record::hash(&paths));
    let hashes = match &source {
        Some(Source::Record(record)) => {
            let files = joined(hashes)?;
            record.check(&files, &args.request)?;
            Hashes::Known(files)
        }
        Some(Source::Foreign(foreign)) if foreign.knows_model() => {
            let files = joined(hashes)?;
            foreign.compare(&files);
            Hashes::Known(files)
        }
        _ => Hashes::Running(hashes),
    };

    // 3. the pictures
    // One picture, and the process ends: what one stage has loaded need not wait for another.
    inputs::read_into(&mut resolved.options, &resolved.request)?;
    let span = trace::span("open the device");
    let device = resolved.request.device.open()?;
    drop(span);
    report_device(&device, record);
    let load = LoadOptions { forget_parameters: true, ..load_options(&resolved.request.device, &device)? };
    let tuned = load.plan.choice.tuned.id();
    if record.is_some_and(|record| record.tuned != tuned) {
        say(format_args!("note: the picture was made with other tuned choices of kernels; the last bits can differ"));
    }
    let seeds: Vec<String> = resolved.request.seed.iter().map(u64::to_string).collect();
    say(format_args!("seed: {}", seeds.join(",")));
    let failures = Failures::default();
    let job = Job { args: &args, load, device: &device, output: &output, failures: &failures };
    let schedulers = models.schedulers();
    let images = job.run(&resolved, models)?;
    device.end_trace()?;

    // 4. the pictures' own account of how they were made
    let record = Record {
        version: Record::version(),
        device: device.describe(),
        tuned,
        options: resolved.request,
        scheduler: schedulers.0,
        refiner_scheduler: schedulers.1,
        files: match hashes {
            Hashes::Known(files) => files,
            // The pictures are finished: a file that has gone away meanwhile is no reason to lose them.
            Hashes::Running(thread) => joined(thread).unwrap_or_else(|error| {
                say(format_args!("note: {error}; the picture does not remember its files"));
                record::Files::new()
            }),
        },
    };
    let json = record.to_json()?;
    let size = (images.shape[3], images.shape[2]);
    let texts = |picture| {
        vec![
            ("parameters".to_owned(), parameters::parameters(&record, picture, size)),
            (record::KEYWORD.to_owned(), json.clone()),
        ]
    };
    let _span = trace::span("write the pictures");
    output.write(&images, &texts, &failures)?;
    failures.finish()
}

/// Whether the texts of a picture that another program made, `(keyword, text)`, say enough to go on from; for the tests
/// that damage them.
///
/// # Errors
/// Why they do not, in words.
pub fn settings_of_others(texts: &[(String, String)]) -> std::result::Result<(), String> {
    foreign::Foreign::read(texts).map(drop)
}

/// The model, and the refiner that goes on after it.
struct Models {
    model: OpenModel,
    refiner: Option<OpenModel>,
}

impl Models {
    /// Resolves the request, and prepares the pipelines for it.
    fn resolve(&mut self, asked: &Asked, record: Option<&Record>) -> Result<Resolved> {
        let own = self.model.pipeline.traits;
        let refined = self.refiner.as_ref().is_some_and(|refiner| refiner.pipeline.traits.aesthetic);
        let traits = Traits { aesthetic: own.aesthetic || refined, ..own };
        let mut generation = self.model.generation.clone();
        generation.denoising_end = generation.denoising_end.or_else(|| self.share_of_the_base());
        let facts = request::ModelFacts { traits: &traits, generation: &generation, scheduler: &self.model.scheduler };
        let resolved = request::resolve(asked, &facts).map_err(|mut refusal| {
            // "This model" says little to someone who did not choose one.
            if asked.request.model.is_none() && refusal.why.contains("this model") {
                refusal.why += &format!(" (the model is {})", self.model.checkpoint.path().display());
            }
            refusal
        })?;
        self.model.pipeline.scheduler = resolved.scheduler.clone();
        self.model.pipeline.set_tiling(resolved.tiling);
        if let Some(refiner) = &mut self.refiner {
            // The refiner chooses its scheduler as the model does.
            let past = record.and_then(|record| Some((record, record.refiner_scheduler.as_ref()?)));
            let past = past.map(|(record, scheduler)| record.past_with(scheduler)).transpose()?;
            let request = Request { model: asked.request.refiner.clone(), ..asked.request.clone() };
            let asked = Asked { request, past };
            let (config, _) = request::scheduler(&asked, &refiner.scheduler, &refiner.generation)?;
            refiner.pipeline.scheduler = Scheduler::new(config)?;
            refiner.pipeline.set_tiling(resolved.tiling);
        }
        Ok(resolved)
    }

    /// The share of the noise that the model takes away before its refiner goes on, as their files say on which
    /// timesteps they were trained.
    fn share_of_the_base(&self) -> Option<f64> {
        let refiner = self.refiner.as_ref()?;
        let own = self.model.checkpoint.timestep_range().map(|(first, _)| first);
        let timestep = own.filter(|first| *first > 0).or(refiner.checkpoint.timestep_range().map(|(_, last)| last))?;
        let trained = self.model.scheduler.num_train_timesteps as f64;
        Some(1.0 - timestep as f64 / trained).filter(|share| *share > 0.0 && *share < 1.0)
    }

    /// The configs of the schedulers that make the pictures.
    fn schedulers(&self) -> (serde_json::Value, Option<serde_json::Value>) {
        let config = |model: &OpenModel| model.pipeline.scheduler.config.to_json();
        (config(&self.model), self.refiner.as_ref().map(config))
    }

    /// The files that decide what the pictures are, by the options that name them.
    fn paths(&self, request: &Request) -> Result<record::Paths> {
        let mut paths = record::Paths::from([("model".to_owned(), self.model.checkpoint.files()?)]);
        if let Some(refiner) = &self.refiner {
            paths.insert("refiner".to_owned(), refiner.checkpoint.files()?);
        }
        for (option, path) in model::named_files(request) {
            paths.entry(option.to_owned()).or_default().push((path.display().to_string(), path));
        }
        Ok(paths)
    }
}

/// Refuses a run that would overwrite one of its own results, or a file that it reads.
fn check_distinct(args: &Args, request: &Request, output: &Output, places: &[PathBuf]) -> Result<()> {
    let mut written: Vec<(&str, PathBuf)> = places.iter().map(|place| ("output", place.clone())).collect();
    written.extend(args.preview_every.map(|_| ("preview-every", output.preview())));
    written.extend(args.save_latents.iter().map(|path| ("save-latents", path.clone())));
    written.extend(args.trace.iter().map(|path| ("trace", path.clone())));
    let mut read = model::named_paths(request);
    read.extend(args.from.iter().map(|path| ("from", path.clone())));
    read.extend(request.model.iter().map(|path| ("model", path.clone())));
    read.extend(request.refiner.iter().map(|path| ("refiner", path.clone())));
    for (i, (option, path)) in written.iter().enumerate() {
        let others = written[i + 1..].iter().chain(&read);
        if let Some((other, _)) = others.into_iter().find(|(_, other)| is_same_file(path, other)) {
            return Err(Error::Usage(format!(
                "{} and {} name the same file, {}, which would be overwritten; give another name",
                words::flag(option),
                words::flag(other),
                path.display()
            )));
        }
    }
    Ok(())
}

/// One line for each setting: field, value, and where the value came from.
fn explanation(resolved: &Resolved, model: &Path) -> String {
    let mut settings = resolved.settings.clone();
    if !settings.iter().any(|setting| setting.field == "model") {
        let value = model.to_string_lossy().into();
        settings.insert(0, Setting { field: "model".to_owned(), value, origin: Origin::Pipeline });
    }
    let values: Vec<String> = settings.iter().map(|setting| setting.value.to_string()).collect();
    let fields = settings.iter().map(|setting| setting.field.len()).max().unwrap_or(0);
    let column = values.iter().map(|value| value.chars().count()).max().unwrap_or(0).min(40);
    let line = |(setting, value): (&Setting, &String)| {
        format!("{:<fields$}  {value:<column$}  {}\n", setting.field, setting.origin)
    };
    settings.iter().zip(&values).map(line).collect()
}

type HashThread = std::thread::JoinHandle<Result<record::Files>>;

enum Hashes {
    Known(record::Files),
    Running(HashThread),
}

fn joined(thread: HashThread) -> Result<record::Files> {
    thread.join().expect("hashing files cannot panic")
}

/// Refuses a replay early and by name if a file is gone.
fn still_there(request: &Request, given: &Request) -> Result<()> {
    let mut files = model::named_paths(request);
    let anew: Vec<&str> = model::named_paths(given).into_iter().map(|(option, _)| option).collect();
    files.retain(|(option, _)| !anew.contains(option));
    if given.model.is_none() {
        files.push(("model", model_path::find(request.model.as_deref(), &[])?));
    }
    if let (Some(refiner), None) = (&request.refiner, &given.refiner) {
        files.push(("refiner", model_path::find(Some(refiner), &[])?));
    }
    match files.iter().find(|(_, path)| !path.exists()) {
        Some((option, path)) => Err(Error::Usage(format!(
            "the picture was made with {0} {1}, which is not there; say where it is now with {0}",
            words::flag(option),
            path.display()
        ))),
        None => Ok(()),
    }
}

fn report_device(device: &Device, record: Option<&Record>) {
    let now = device.describe();
    say(format_args!("device: {now}"));
    if let Some(record) = record.filter(|record| record.device != now) {
        say(format_args!(
            "note: the picture was made on {}; on another device its last bits can differ",
            record.device
        ));
    }
}
