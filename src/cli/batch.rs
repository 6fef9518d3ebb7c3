//! `unmist batch`: the pictures of many requests, a request a line, for arrays of jobs on many machines.
//!
//! A picture's name holds the line's number and a hash of the request: what is there already is not made again, and a
//! file of requests that was changed makes what is new.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::{load_options, print, say, tell};
use crate::backend::{Device, LoadOptions};
use crate::error::{Error, Result};
use crate::files::Disk;
use crate::generate::{
    Hashes, KEYWORD, Models, Notes, Overlay, Record, hash, in_folder_of, opening_key, parameters, read_inputs,
    take_from_prompts,
};
use crate::image_io::{Picture, write_png};
use crate::output::{numbered, sha256_of};
use crate::pipelines::Runtime;
use crate::request::{Asked, DeviceRequest, Request};

/// Options of `unmist batch`.
#[derive(clap::Args)]
pub struct Args {
    /// A request a line, as JSON: {"prompt": ["a fox"], "seed": [7], "steps": 25}; empty lines count and do nothing
    #[arg(value_name = "JOBS.jsonl")]
    jobs: PathBuf,
    /// The folder that the pictures go to; one that is there already is not made again
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Does every Nth line from the Kth on, 1/N to N/N: a part for each of N machines
    #[arg(long, value_name = "K/N", default_value = "1/1", value_parser = shard)]
    shard: (usize, usize),
    #[command(flatten)]
    device: DeviceRequest,
}

fn shard(text: &str) -> std::result::Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    parts.filter(|(k, n)| (1..=*n).contains(k)).ok_or_else(|| "expected K/N with K from 1 to N, as 2/4".to_owned())
}

/// A line, understood as far as it can be.
struct Job {
    /// From 1.
    line: usize,
    request: std::result::Result<Request, String>,
    /// Of one picture; several have numbers behind it.
    path: PathBuf,
}

impl Job {
    fn new(line: usize, text: &str, folder: &Path) -> Self {
        let request = serde_json::from_str::<Request>(text);
        let request = request.map_err(|error| format!("not a request: {error}"));
        let path = folder.join(format!("{line:06}-{}.png", &sha256_of(text.trim().as_bytes())[..8]));
        Self { line, request, path }
    }

    /// Where its pictures go.
    fn places(&self, pictures: usize) -> Vec<PathBuf> {
        match pictures {
            1 => vec![self.path.clone()],
            _ => (0..pictures).map(|i| numbered(&self.path, i, pictures)).collect(),
        }
    }
}

/// Runs the command. Prints a line of JSON for each job.
///
/// # Errors
/// [`Error::Io`] and [`Error::Usage`] for the files; [`Error::Device`] if the device was lost; [`Error::Usage`] at the
/// end if a job could not be done: the others are.
pub fn run(args: Args) -> Result<()> {
    let file = std::fs::File::open(&args.jobs).map_err(Error::io(&args.jobs))?;
    if !args.output.is_dir() {
        std::fs::create_dir_all(&args.output).map_err(Error::io(&args.output))?;
    }
    let mut jobs = Vec::new();
    let (part, parts) = args.shard;
    for (i, text) in BufReader::new(file).lines().enumerate() {
        let text = text.map_err(Error::io(&args.jobs))?;
        if !text.trim().is_empty() && i % parts == part - 1 {
            jobs.push(Job::new(i + 1, &text, &args.output));
        }
    }
    let device = args.device.open()?;
    say(format_args!("device: {}", device.describe()));
    let load = load_options(&args.device, &device)?;
    let mut maker = Maker { device, load, open: None, hashes: Hashes::default() };
    let mut failed = 0;
    for job in &jobs {
        let began = Instant::now();
        let mut notes = Notes::default();
        let made = maker.make(job, &mut notes);
        tell(&mut notes);
        let result = match &made {
            Ok((status, files)) => {
                let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let files: Vec<String> = files.iter().map(name).collect();
                json!({"line": job.line, "status": status, "files": files, "seconds": seconds(began)})
            }
            Err(error) => {
                failed += 1;
                json!({"line": job.line, "status": "failed", "error": error.in_words(&str::to_owned)})
            }
        };
        print(&format!("{result}\n"));
        if let Err(error @ Error::Device(_)) = made {
            return Err(error);
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::Usage(format!("{failed} of {} jobs could not be done; the lines above say why", jobs.len()))),
    }
}

fn seconds(since: Instant) -> Value {
    Value::from((since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0)
}

/// What makes the pictures: the device, and the models of the last job.
struct Maker {
    device: Device,
    load: LoadOptions,
    open: Option<(String, Models)>,
    hashes: Hashes,
}

impl Maker {
    /// Makes a job's pictures, unless they are there.
    fn make(&mut self, job: &Job, notes: &mut Notes) -> Result<(&'static str, Vec<PathBuf>)> {
        let given = job.request.as_ref().map_err(|why| Error::Usage(why.clone()))?;
        let places = job.places(given.pictures());
        if places.iter().all(|place| place.is_file()) {
            return Ok(("there", places));
        }
        if given.device != DeviceRequest::default() {
            return Err(Error::Usage("device: a batch has one, which the command line chooses".into()));
        }
        let mut request = given.clone();
        let find = |name: &str| in_folder_of(given, name);
        take_from_prompts(&mut request, &find, given.weighting, notes, &mut Err)?;
        let key = opening_key(&request);
        let models = match self.open.take().filter(|(open, _)| *open == key) {
            Some((_, models)) => models,
            None => Models::open(&request, notes)?,
        };
        let (_, models) = self.open.insert((key, models));
        let mut resolved = models.resolve(&Asked::from(request), None)?;
        resolved.notes.iter().for_each(|note| notes.add(format!("note: {note}")));
        resolved.request.model = Some(crate::generate::places::remembered(models.model.checkpoint.path()));
        let channels = models.model.pipeline.picture_channels();
        let overlay = read_inputs(&mut resolved.options, &resolved.request, channels, &Disk, notes)?;
        let dtype = resolved.request.precision.unwrap_or_default().dtype();
        let runtime = Runtime::new(&self.device, &self.load, dtype);
        let latents = models.run(&runtime, &resolved, &mut |_| Ok(()))?;
        let images = models.decode(&runtime, &latents)?;
        let images = Overlay::apply(overlay.as_ref(), images)?;
        models.take_notes(notes);
        let (scheduler, refiner_scheduler) = models.schedulers();
        let record = Record {
            version: Record::version(),
            device: self.device.describe(),
            tuned: self.load.plan.choice.tuned.id(),
            files: hash(&models.paths(&resolved.request)?, &self.hashes)?,
            options: resolved.request,
            scheduler,
            refiner_scheduler,
        };
        let json = record.to_json()?;
        let pictures = Picture::from_tensor(&images)?;
        let places = job.places(pictures.len());
        for (i, (picture, place)) in pictures.iter().zip(&places).enumerate() {
            let of = (pictures.len() > 1).then_some(i);
            let text = parameters(&record, of, (picture.width, picture.height));
            write_png(place, picture, &[("parameters".into(), text), (KEYWORD.into(), json.clone())])?;
        }
        Ok(("made", places))
    }
}
