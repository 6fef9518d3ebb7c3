//! The one thread that owns the device and the models, and makes the pictures.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::App;
use super::jobs::{Job, Made, Preview, Status};
use crate::backend::{Device, LoadOptions};
use crate::checkpoint::PARTS;
use crate::error::{Error, Result};
use crate::generate::{
    self, Event, Hashes, KEYWORD, Models, Notes, Overlay, Paths, Record, Step, opening_key, parameters, read_inputs,
};
use crate::image_io::{Picture, write_png};
use crate::output::sha256_of;
use crate::pipelines::Runtime;
use crate::request::{Asked, Request, Resolved};
use crate::tensor::HostTensor;

/// Models that stay open; their weights are on the device while there is room.
const MOST_OPEN: usize = 4;

/// What the thread works with.
pub struct Worker {
    app: Arc<App>,
    device: Device,
    load: LoadOptions,
    /// The latest used last.
    open: Vec<Opened>,
    hashes: Arc<Hashes>,
}

/// Models as a request wants them: with these LoRAs, this autoencoder.
struct Opened {
    key: String,
    models: Models,
    notes: Vec<String>,
    files: Hashed,
}

/// Hashing gigabytes takes as long as sampling, so that the first pictures are made meanwhile.
struct Hashed {
    running: Option<JoinHandle<Result<generate::Files>>>,
    /// The hashes, or why there are none.
    known: std::result::Result<generate::Files, String>,
}

impl Hashed {
    fn begin(paths: Paths, known: Arc<Hashes>) -> Self {
        Self { running: Some(std::thread::spawn(move || hash(&paths, &known))), known: Ok(generate::Files::new()) }
    }

    /// Waits for the hashes.
    fn get(&mut self) -> std::result::Result<generate::Files, String> {
        if let Some(thread) = self.running.take() {
            self.known = thread.join().expect("hashing files cannot panic").map_err(|error| error.to_string());
        }
        self.known.clone()
    }
}

/// How a run ended.
enum Ended {
    Done(HostTensor),
    /// All were asked to end early; this is the estimate of their pictures by then.
    Early(HostTensor),
}

impl Worker {
    /// For a device that is open.
    pub fn new(app: Arc<App>, device: Device, load: LoadOptions) -> Self {
        Self { app, device, load, open: Vec::new(), hashes: Arc::default() }
    }

    /// Does one job after another until the server ends.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost: the process has to begin anew.
    pub fn run(mut self) -> Result<()> {
        let most = self.app.options.batch;
        while let Some(mut jobs) = self.app.jobs.take(most, alike) {
            let (count, load) = self.at_once(&jobs);
            let others = jobs.split_off(count);
            self.app.jobs.put_back(&others);
            jobs.retain(|job| !skip_cancelled(job));
            let lost = if jobs.is_empty() { None } else { self.work(&jobs, &load) };
            self.app.jobs.done();
            self.account();
            if let Some(error) = lost {
                self.app.metrics.device_lost();
                return Err(error);
            }
        }
        Ok(())
    }

    /// What the device holds, for all to see.
    fn account(&self) {
        #[cfg(feature = "gpu")]
        if let Device::Gpu(gpu) = &self.device {
            self.app.metrics.store(gpu.store().stats());
        }
        self.app
            .metrics
            .open(self.open.iter().map(|opened| opened.models.model.checkpoint.path()), &self.app.catalogue);
    }

    /// Makes the pictures of some jobs at once; returns the error that lost the device.
    fn work(&mut self, jobs: &[Arc<Job>], load: &LoadOptions) -> Option<Error> {
        let began = Instant::now();
        jobs.iter().for_each(|job| {
            job.update(|state| (state.status, state.started) = (Status::Running, Some(began)));
            self.app.metrics.begun(job.state().queued.elapsed());
        });
        let error = match self.make(jobs, load) {
            Ok(()) => None,
            Err(Error::Cancelled) => {
                jobs.iter().for_each(|job| job.update(|state| state.status = Status::Cancelled));
                None
            }
            Err(error) => Some(Arc::new(error)),
        };
        let lost = error.filter(|error| {
            jobs.iter().for_each(|job| {
                job.update(|state| (state.status, state.error) = (Status::Failed, Some(error.clone())));
            });
            matches!(**error, Error::Device(_))
        });
        jobs.iter().for_each(|job| self.app.metrics.over(job.state().status, began.elapsed()));
        lost.map(|error| Error::Device(error.to_string().into()))
    }

    /// How many of the first jobs can be made at once so that each picture has the bits that it has by itself, and how.
    fn at_once(&mut self, jobs: &[Arc<Job>]) -> (usize, LoadOptions) {
        let as_alone = |worker: &mut Self, jobs: &[Arc<Job>]| -> Result<Option<LoadOptions>> {
            let named = together(jobs);
            let request = worker.app.catalogue.with_paths(&named)?;
            worker.open(&named, &request)?;
            let opened = worker.open.last_mut().expect("it was opened above");
            let resolved = opened.models.resolve(&Asked::from(request), None)?;
            let dtype = resolved.request.precision.unwrap_or_default().dtype();
            let runtime = Runtime::new(&worker.device, &worker.load, dtype);
            opened.models.model.pipeline.as_alone(&runtime, &resolved.options)
        };
        // What goes wrong is said when the first is made.
        let found =
            (2..=jobs.len()).rev().find_map(|count| Some((count, as_alone(self, &jobs[..count]).unwrap_or(None)?)));
        found.unwrap_or_else(|| (1, self.load.clone()))
    }

    fn make(&mut self, jobs: &[Arc<Job>], load: &LoadOptions) -> Result<()> {
        let first = &jobs[0].order;
        let named = together(jobs);
        let app = self.app.clone();
        let name = app.catalogue.model(&named)?.to_owned();
        let request = app.catalogue.with_paths(&named)?;
        self.open(&named, &request)?;
        let device = self.device.clone();
        let opened = self.open.last_mut().expect("it was opened above");

        let mut notes = Notes::default();
        opened.notes.iter().for_each(|note| notes.add(note.clone()));
        let asked = Asked::from(request);
        let mut resolved = opened.models.resolve(&asked, None)?;
        app.options.limits.check_resolved(&resolved, opened.models.model.pipeline.size(&resolved.options).ok())?;
        resolved.notes.iter().for_each(|note| notes.add(format!("note: {note}")));
        let channels = opened.models.model.pipeline.picture_channels();
        let overlay = read_inputs(&mut resolved.options, &resolved.request, channels, &first.files, &mut notes)?;
        let models = &opened.models;
        let dtype = resolved.request.precision.unwrap_or_default().dtype();
        let runtime = Runtime::new(&device, load, dtype);
        let runtime = if first.inside { runtime.with_attention() } else { runtime };
        // Of several jobs, one that is cancelled only loses its pictures: `run` looks after that.
        let runtime = if let [only] = jobs { runtime.with_cancel(&only.cancel) } else { runtime };
        let steps = models.steps(&resolved.options)?;
        let settings: serde_json::Map<_, _> =
            resolved.settings.iter().map(|setting| (setting.field.clone(), setting.value.clone())).collect();
        let settings = serde_json::Value::from(settings);
        let settings: serde_json::Value =
            serde_json::from_str(&app.catalogue.without_paths(&settings.to_string())).unwrap_or_default();
        let told = notes.take().iter().map(|note| app.catalogue.without_paths(note)).collect::<Vec<_>>();
        jobs.iter().for_each(|job| {
            job.update(|state| {
                (state.steps, state.model) = (steps, name.clone());
                (state.notes, state.settings) = (told.clone(), settings.clone());
            });
        });

        let images = match run(&app, models, &runtime, &resolved, jobs)? {
            Ended::Done(latents) => models.decode(&runtime, &latents)?,
            Ended::Early(images) => images,
        };
        let images = Overlay::apply(overlay.as_ref(), images)?;
        let pictures = Picture::from_tensor(&images)?;
        models.take_notes(&mut notes);
        // A file that has gone away meanwhile is no reason to lose the pictures.
        let files = opened.files.get().unwrap_or_else(|error| {
            notes
                .add(format!("note: {}; the picture does not remember its files", app.catalogue.without_paths(&error)));
            generate::Files::new()
        });
        let record = Record {
            version: Record::version(),
            device: device.describe(),
            tuned: load.plan.choice.tuned.id(),
            options: with_names(&resolved.request, &named, &name),
            scheduler: models.schedulers().0,
            refiner_scheduler: models.schedulers().1,
            files: with_pictures(files, jobs),
        };
        // Before anybody hears of the pictures.
        app.metrics.made(images.shape[0]);
        self.account();
        give(&app, jobs, &record, pictures, &notes.take())?;
        Ok(())
    }

    /// Opens the models of a request, unless they are; they are the last of `open` then.
    fn open(&mut self, named: &Request, request: &Request) -> Result<()> {
        let key = opening_key(named);
        if let Some(at) = self.open.iter().position(|opened| opened.key == key) {
            let opened = self.open.remove(at);
            self.open.push(opened);
            return Ok(());
        }
        if self.open.len() >= MOST_OPEN {
            self.open.remove(0);
        }
        let mut notes = Notes::default();
        let models = Models::open(request, &mut notes)?;
        let paths = models.paths(&Request { image: None, mask: None, ..request.clone() })?;
        let files = Hashed::begin(paths, self.hashes.clone());
        self.open.push(Opened { key, models, notes: notes.take(), files });
        Ok(())
    }
}

/// Hashes files. They are named as their folders do; those that a request names, without their folders.
fn hash(paths: &Paths, known: &Hashes) -> Result<generate::Files> {
    // A component's own file is named after it: `vae: FILE`.
    let name = |name: String| {
        let of_part = PARTS.into_iter().find_map(|part| name.strip_prefix(part)?.strip_prefix(": "));
        let path = Path::new(of_part.unwrap_or(&name));
        let Some(file) = path.file_name().filter(|_| path.is_absolute()) else { return name };
        let part = &name[..name.len() - of_part.unwrap_or(&name).len()];
        format!("{part}{}", file.to_string_lossy())
    };
    let files = generate::hash(paths, known)?.into_iter();
    Ok(files
        .map(|(field, files)| (field, files.into_iter().map(|(file, hash)| (name(file), hash)).collect()))
        .collect())
}

/// Whether a job was cancelled before it began.
fn skip_cancelled(job: &Job) -> bool {
    if job.cancel.is_cancelled() {
        job.update(|state| state.status = Status::Cancelled);
    }
    job.state().status.is_over()
}

/// Whether two jobs can be one batch: one picture each, alike in everything but what pictures of a batch can have of
/// their own.
fn alike(first: &Job, second: &Job) -> bool {
    let one = |request: &Request| {
        request.pictures() == 1
            && request.prompt.len() == 1
            && request.seed.len() == 1
            && request.negative_prompt.len() <= 1
            && request.prompt_2.is_empty()
            && request.negative_prompt_2.is_empty()
            && request.class.is_empty()
            && !request.weighting
            && request.image.is_none()
            && request.refiner.is_none()
    };
    let rest = |request: &Request| Request { prompt: vec![], negative_prompt: vec![], seed: vec![], ..request.clone() };
    let (a, b) = (&first.order.request, &second.order.request);
    let inside = first.order.inside || second.order.inside;
    !inside && one(a) && one(b) && rest(a) == rest(b)
}

/// The request of a batch.
fn together(jobs: &[Arc<Job>]) -> Request {
    let first = &jobs[0].order.request;
    if jobs.len() == 1 {
        return first.clone();
    }
    let each = |field: fn(&Request) -> &Vec<String>| -> Vec<String> {
        let texts = jobs.iter().map(|job| field(&job.order.request).first().cloned());
        if jobs.iter().all(|job| field(&job.order.request).is_empty()) {
            vec![]
        } else {
            texts.map(Option::unwrap_or_default).collect()
        }
    };
    Request {
        prompt: each(|request| &request.prompt),
        negative_prompt: each(|request| &request.negative_prompt),
        seed: jobs.iter().flat_map(|job| job.order.request.seed.clone()).collect(),
        batch_size: None,
        ..first.clone()
    }
}

/// All steps. A job of a batch that is cancelled only loses its pictures; the run goes on while anybody waits for it.
fn run(app: &App, models: &Models, runtime: &Runtime<'_>, resolved: &Resolved, jobs: &[Arc<Job>]) -> Result<Ended> {
    let mut early = None;
    let mut inside = jobs[0].inside.as_ref().map(|inside| inside.watch(runtime.device, &resolved.options));
    let ended = models.run(runtime, resolved, &mut |event| {
        let Event::Step(mut step) = event else { return Ok(()) };
        app.metrics.step();
        if jobs.iter().all(|job| job.cancel.is_cancelled()) {
            return Err(Error::Cancelled);
        }
        jobs.iter().for_each(|job| {
            job.update(|state| {
                state.step = step.done;
                if step.done == 1 {
                    state.first_step = Some(Instant::now());
                }
            });
        });
        if let Some(inside) = &mut inside {
            inside.step(runtime, &mut step)?;
        }
        if step.done < step.total {
            let finish = jobs.iter().all(|job| job.cancel.is_cancelled() || job.ends_early());
            let wanted: Vec<_> = jobs.iter().map(|job| job.wants_preview(step.done)).collect();
            if finish || wanted.contains(&true) {
                let images = estimate(runtime, &mut step)?;
                show(jobs, &wanted, step.done, &images)?;
                if finish {
                    early = Some(images);
                    return Err(Error::Cancelled);
                }
            }
        }
        Ok(())
    });
    match (ended, early) {
        (Ok(latents), _) => Ok(Ended::Done(latents)),
        (Err(Error::Cancelled), Some(images)) => Ok(Ended::Early(images)),
        (Err(error), _) => Err(error),
    }
}

/// The pictures as far as can be said after a step.
fn estimate(runtime: &Runtime<'_>, step: &mut Step<'_, '_>) -> Result<HostTensor> {
    step.progress.wait()?;
    let x0 = step.progress.pred_original_sample()?;
    step.pipeline.decode(runtime, &x0)
}

fn show(jobs: &[Arc<Job>], wanted: &[bool], step: usize, images: &HostTensor) -> Result<()> {
    let pictures: Vec<_> = Picture::from_tensor(images)?.into_iter().map(Arc::new).collect();
    let each = pictures.len() / jobs.len();
    for (i, job) in jobs.iter().enumerate().filter(|(i, _)| wanted[*i]) {
        let picture = pictures[i * each].clone();
        job.update(|state| state.preview = Some(Preview { step, picture }));
    }
    Ok(())
}

/// The request as a picture remembers it: with names, not paths.
fn with_names(resolved: &Request, named: &Request, model: &str) -> Request {
    Request {
        model: Some(model.into()),
        vae: named.vae.clone(),
        lora: named.lora.clone(),
        embedding: named.embedding.clone(),
        refiner: named.refiner.clone(),
        refiner_lora: named.refiner_lora.clone(),
        ..resolved.clone()
    }
}

/// The files' hashes, with those of the pictures that came with the request.
fn with_pictures(mut files: generate::Files, jobs: &[Arc<Job>]) -> generate::Files {
    use crate::files::Files as _;
    let order = &jobs[0].order;
    for (field, path) in [("image", &order.request.image), ("mask", &order.request.mask)] {
        if let Some((path, bytes)) = path.as_ref().and_then(|path| Some((path, order.files.open(path).ok()?))) {
            let hash = sha256_of(&bytes);
            files.insert(field.to_owned(), BTreeMap::from([(path.display().to_string(), hash)]));
        }
    }
    files
}

/// Gives each job its pictures.
fn give(app: &App, jobs: &[Arc<Job>], record: &Record, pictures: Vec<Picture>, notes: &[String]) -> Result<()> {
    let each = pictures.len() / jobs.len();
    let mut pictures = pictures.into_iter().map(Arc::new);
    for (i, job) in jobs.iter().enumerate() {
        let mut made = Vec::new();
        let own = own_record(record, i, jobs.len());
        let json = own.to_json()?;
        for n in 0..each {
            let picture = pictures.next().expect("the pictures were counted");
            let of = (each > 1).then_some(n);
            let texts = vec![
                ("parameters".to_owned(), parameters(&own, of, (picture.width, picture.height))),
                (KEYWORD.to_owned(), json.clone()),
            ];
            let seeds = &own.options.seed;
            let seed = seeds.get(n).or(seeds.first()).copied().unwrap_or_default();
            made.push(Made { picture, texts: Arc::new(texts), seed });
        }
        save(app, job, &made);
        job.update(|state| {
            state.notes.extend(notes.iter().cloned());
            state.pictures = made;
            state.status = if job.cancel.is_cancelled() { Status::Cancelled } else { Status::Finished };
            if state.status == Status::Cancelled {
                state.pictures.clear();
            }
        });
    }
    Ok(())
}

/// Writes pictures into the folder where all are kept, if there is one. That this fails costs nobody their pictures.
fn save(app: &App, job: &Job, pictures: &[Made]) {
    let Some(folder) = app.options.save.as_ref().filter(|_| !job.cancel.is_cancelled()) else { return };
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for (n, made) in pictures.iter().enumerate() {
        let path = folder.join(format!("{time}-{}-{n}.png", &job.id[..8]));
        if let Err(error) = write_png(&path, &made.picture, &made.texts) {
            app.options.log.line("save", &[("error", error.to_string().into())]);
        }
    }
}

/// The record of one of several jobs that were a batch: as if it had been alone.
fn own_record(record: &Record, job: usize, jobs: usize) -> Record {
    if jobs == 1 {
        return record.clone();
    }
    let one = |all: &[String]| all.get(job).or(all.first()).cloned().into_iter().collect::<Vec<_>>();
    let options = Request {
        prompt: one(&record.options.prompt),
        negative_prompt: one(&record.options.negative_prompt),
        seed: vec![record.options.seed[job]],
        batch_size: Some(1),
        ..record.options.clone()
    };
    Record { options, ..record.clone() }
}
