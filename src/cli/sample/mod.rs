//! `unmist sample`: makes pictures.

mod args;
mod pictures;
mod reporter;
mod run;

use std::path::{Path, PathBuf};

pub use args::Args;
pub use pictures::{Failures, Output};
pub use reporter::Reporter;

use run::Job;

use super::{load_options, print, say, tell, traced, words};
use crate::backend::{Device, LoadOptions};
use crate::error::{Error, Result};
use crate::files::Disk;
use crate::generate::{
    self, Foreign, Models, Notes, Overlay, Record, Source, in_folder_of, named_paths, parameters, places, read_inputs,
    take_from_prompts,
};
use crate::output::{check_writable, is_same_file};
use crate::pipelines::Kind;
use crate::request::{Asked, Origin, Request, Resolved, Setting};
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
    let mut notes = Notes::default();
    let past = past.map(|(source, path)| source.past(path, &args.request, &mut notes)).transpose()?;
    tell(&mut notes);
    let weighting = args.request.weighting || past.as_ref().is_some_and(|past| past.request.weighting);
    let given = args.request.clone();
    let find = |name: &str| in_folder_of(&given, name);
    take_from_prompts(&mut args.request, &find, weighting, &mut notes, &mut Err)?;
    tell(&mut notes);
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
    let span = trace::span("open the models");
    let models = Models::open(&merged, &mut notes);
    tell(&mut notes);
    let mut models = models?;
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
    resolved.request.model = Some(places::remembered(models.model.checkpoint.path()));
    let paths = models.paths(&resolved.request)?;
    let hashes = std::thread::spawn(move || generate::hash(&paths, &generate::Hashes::default()));
    let hashes = match &source {
        Some(Source::Record(record)) => {
            let files = joined(hashes)?;
            record.check(&files, &args.request, &mut notes)?;
            Hashes::Known(files)
        }
        Some(Source::Foreign(foreign)) if foreign.knows_model() => {
            let files = joined(hashes)?;
            foreign.compare(&files, &mut notes);
            Hashes::Known(files)
        }
        _ => Hashes::Running(hashes),
    };

    // 3. the pictures
    // One picture, and the process ends: what one stage has loaded need not wait for another.
    tell(&mut notes);
    let channels = models.model.pipeline.picture_channels();
    let overlay = read_inputs(&mut resolved.options, &resolved.request, channels, &Disk, &mut notes)?;
    tell(&mut notes);
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
    let images = job.run(&resolved, &models)?;
    device.end_trace()?;
    let images = Overlay::apply(overlay.as_ref(), images)?;

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
                generate::Files::new()
            }),
        },
    };
    let json = record.to_json()?;
    let size = (images.shape[3], images.shape[2]);
    let texts = |picture| {
        vec![
            ("parameters".to_owned(), parameters(&record, picture, size)),
            (generate::KEYWORD.to_owned(), json.clone()),
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
    Foreign::read(texts).map(drop)
}

/// Refuses a run that would overwrite one of its own results, or a file that it reads.
fn check_distinct(args: &Args, request: &Request, output: &Output, places: &[PathBuf]) -> Result<()> {
    let mut written: Vec<(&str, PathBuf)> = places.iter().map(|place| ("output", place.clone())).collect();
    written.extend(args.preview_every.map(|_| ("preview-every", output.preview())));
    written.extend(args.save_latents.iter().map(|path| ("save-latents", path.clone())));
    written.extend(args.trace.iter().map(|path| ("trace", path.clone())));
    let mut read = named_paths(request);
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

type HashThread = std::thread::JoinHandle<Result<generate::Files>>;

enum Hashes {
    Known(generate::Files),
    Running(HashThread),
}

fn joined(thread: HashThread) -> Result<generate::Files> {
    thread.join().expect("hashing files cannot panic")
}

/// Refuses a replay early and by name if a file is gone.
fn still_there(request: &Request, given: &Request) -> Result<()> {
    let mut files = named_paths(request);
    let anew: Vec<&str> = named_paths(given).into_iter().map(|(option, _)| option).collect();
    files.retain(|(option, _)| !anew.contains(option));
    if given.model.is_none() {
        files.push(("model", places::find(request.model.as_deref(), &[])?));
    }
    if let (Some(refiner), None) = (&request.refiner, &given.refiner) {
        files.push(("refiner", places::find(Some(refiner), &[])?));
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
