//! `unmist sample`: makes pictures.

mod args;
mod asked;
mod classes;
mod model;
mod parameters;
mod pictures;
mod prompts;
mod record;
mod reporter;

pub use args::Args;

use args::Options;
use model::Model;
use pictures::Output;
use record::Record;

use super::model_path;
use crate::backend::{Device, LoadOptions};
use crate::error::{Error, Result};
use crate::output::check_writable;
use crate::pipelines::Runtime;

/// Runs the command.
///
/// # Errors
/// As the library; no picture is written then.
pub fn run(args: Args) -> Result<()> {
    let record = args.from.as_deref().map(Record::read).transpose()?;
    let options = match &record {
        Some(record) => record.options_with(&args.options)?,
        None => args.options.clone(),
    };
    let mut options = options.with_defaults();
    let output = Output::new(&args.output, options.separate)?;
    args.preview_every.iter().try_for_each(|_| output.check_preview())?;
    args.save_latents.iter().try_for_each(check_writable)?;
    check(&args, &options)?;
    record::check_names(&options)?;

    // 1. the models, and the hashes of all files; hashing gigabytes takes as long as sampling, so only a replay waits
    //    for it
    if record.is_some() {
        still_there(&options, &args.options)?;
    }
    let models = Models {
        model: Model::open(&options, record.as_ref(), &args.options)?,
        refiner: Model::open_refiner(&options, record.as_ref(), &args.options)?,
    };
    options.model = Some(model_path::remembered(models.model.checkpoint.path()));
    let paths = models.paths(&options)?;
    let hashes = std::thread::spawn(move || record::hash(&paths));
    let hashes = match &record {
        Some(record) => {
            let files = joined(hashes)?;
            record.check(&files, &args.options)?;
            Hashes::Known(files)
        }
        None => Hashes::Running(hashes),
    };

    // 2. the pictures
    let device = options.device.open()?;
    report_device(&device, record.as_ref());
    let job = Job { args: &args, load: options.device.load_options()?, device: &device, output: &output };
    let images = if models.model.text {
        prompts::sample(&job, &mut options, &models)?
    } else {
        classes::sample(&job, &mut options, &models.model)?
    };

    // 3. the pictures' own account of how they were made
    let record = Record {
        version: Record::version(),
        device: device.describe(),
        options,
        scheduler: models.model.scheduler.config.to_json(),
        refiner_scheduler: models.refiner.map(|refiner| refiner.scheduler.config.to_json()),
        files: match hashes {
            Hashes::Known(files) => files,
            // The pictures are there: a file that went away meanwhile is no reason to lose them.
            Hashes::Running(thread) => joined(thread).unwrap_or_else(|error| {
                eprintln!("note: {error}; the picture does not remember its files");
                record::Files::new()
            }),
        },
    };
    let json = record.to_json()?;
    let size = (images.shape[3], images.shape[2]);
    output.write(&images, &|picture| {
        vec![
            ("parameters".to_owned(), parameters::parameters(&record, picture, size)),
            (record::KEYWORD.to_owned(), json.clone()),
        ]
    })
}

/// The model, and what goes on after it.
struct Models {
    model: Model,
    refiner: Option<Model>,
}

impl Models {
    /// The files that decide what the pictures are, by the options that name them.
    fn paths(&self, options: &Options) -> Result<record::Paths> {
        let mut paths = record::Paths::from([("model".to_owned(), self.model.checkpoint.files()?)]);
        if let Some(refiner) = &self.refiner {
            paths.insert("refiner".to_owned(), refiner.checkpoint.files()?);
        }
        for (option, path) in model::named_files(options) {
            paths.entry(option.to_owned()).or_default().push((path.display().to_string(), path));
        }
        Ok(paths)
    }
}

/// What both kinds of models need besides the options.
struct Job<'a> {
    args: &'a Args,
    device: &'a Device,
    load: LoadOptions,
    output: &'a Output,
}

impl Job<'_> {
    fn runtime(&self, options: &Options) -> Runtime<'_> {
        Runtime { device: self.device, load: &self.load, dtype: options.precision().dtype() }
    }

    /// Whether a preview is due after a step.
    fn previews(&self, done: usize, total: usize) -> bool {
        done < total && self.args.preview_every.is_some_and(|every| done.is_multiple_of(every))
    }
}

type HashThread = std::thread::JoinHandle<Result<record::Files>>;

enum Hashes {
    Known(record::Files),
    Running(HashThread),
}

fn joined(thread: HashThread) -> Result<record::Files> {
    thread.join().expect("hashing files cannot panic")
}

/// What can be refused without the model.
fn check(args: &Args, options: &Options) -> Result<()> {
    let pictures = options.pictures();
    if options.seed.len() > 1 && options.seed.len() != pictures {
        return Err(Error::Usage(format!(
            "--seed: {} seeds for {pictures} pictures; give one, or one for each picture",
            options.seed.len(),
        )));
    }
    if args.preview_every == Some(0) {
        return Err(Error::Usage("--preview-every 0: expected a number of steps from 1 up".into()));
    }
    Ok(())
}

/// Refuses a replay early and by name if a file is gone.
fn still_there(options: &Options, given: &Options) -> Result<()> {
    let mut files = model::named_files(options);
    let anew: Vec<&str> = model::named_files(given).into_iter().map(|(option, _)| option).collect();
    files.retain(|(option, _)| !anew.contains(option));
    if given.model.is_none() {
        files.push(("model", model_path::find(options.model.as_deref(), &[])?));
    }
    if let (Some(refiner), None) = (&options.refiner, &given.refiner) {
        files.push(("refiner", model_path::find(Some(refiner), &[])?));
    }
    match files.iter().find(|(_, path)| !path.exists()) {
        Some((option, path)) => Err(Error::Usage(format!(
            "the picture was made with --{option} {}, which is not there; say where it is now with --{option}",
            path.display()
        ))),
        None => Ok(()),
    }
}

fn report_device(device: &Device, record: Option<&Record>) {
    let now = device.describe();
    eprintln!("device: {now}");
    if let Some(record) = record.filter(|record| record.device != now) {
        eprintln!("note: the picture was made on {}; on another device its last bits can differ", record.device);
    }
}
