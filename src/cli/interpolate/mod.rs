//! `unmist interpolate`: frames on the way from one picture to another, between seeds or between pictures.

mod args;
mod output;

use std::path::PathBuf;

pub use args::Args;

use output::{Output, Text};
use serde_json::{Value, json};

use super::sample::Reporter;
use super::{load_options, say, tell, words};
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::generate::{
    Event, Hashes, KEYWORD, Models, Notes, Record, Way, hash, in_folder_of, named_paths, parameters, places,
    take_from_prompts,
};
use crate::image_io::{Picture, Range, read, resize_lanczos};
use crate::output::is_same_file;
use crate::pipelines::{Kind, Runtime};
use crate::refusal::Refusal;
use crate::request::{Request, Resolved};
use crate::tensor::HostTensor;

/// Keyword of the settings of what is between two pictures.
const BETWEEN: &str = "unmist-interpolate";

/// The most frames; more than anyone waits for.
const MAX_FRAMES: usize = 1 << 16;

/// Runs the command.
///
/// # Errors
/// As the library.
pub fn run(args: Args) -> Result<()> {
    args.asked.check()?;
    let (seeds, images) = (&args.asked.seeds, &args.asked.images);
    let way = Way { stops: seeds.len().max(images.len()), frames: args.frames };
    if !(way.stops..=MAX_FRAMES).contains(&way.frames) {
        let why = format!("expected {} to {MAX_FRAMES}, one for each that is gone through at least", way.stops);
        return Err(Error::Usage(format!("--frames {}: {why}", way.frames)));
    }
    let output = Output::new(&args.output, args.fps, args.back_and_forth)?;
    output.check(way.frames)?;

    // 1. the models, and what is asked of them
    let mut notes = Notes::default();
    let request = one_picture(&args, &mut notes)?;
    let models = Models::open(&request, &mut notes);
    tell(&mut notes);
    let mut models = models?;
    if !matches!(models.model.pipeline.traits.kind, Kind::Pixels | Kind::Plain) {
        let why = "it makes pictures of other pictures, and frames are made of noise alone";
        return Err(Refusal::of_value("model", models.model.checkpoint.path().display(), why).into());
    }
    let mut resolved = models.resolve(&request.into(), None)?;
    check(&models, &resolved, images)?;
    // Whoever gives a config has chosen.
    if !images.is_empty() && resolved.request.scheduler_config.is_none() && models.unclip(&mut resolved)? {
        say(format_args!("note: the estimate of x_0 is not clipped, so that each picture's way back is its way there"));
    }
    resolved.notes.iter().for_each(|note| say(format_args!("note: {}", words::in_flags(note))));
    resolved.request.model = Some(places::remembered(models.model.checkpoint.path()));
    check_distinct(&output.places(way.frames), &resolved.request, images)?;
    let pictures = images.iter().map(|path| picture(path, &models, &resolved)).collect::<Result<Vec<_>>>()?;

    // 2. the device, and the settings that frames remember
    let device = resolved.request.device.open()?;
    say(format_args!("device: {}", device.describe()));
    let load = load_options(&resolved.request.device, &device)?;
    let mut paths = models.paths(&resolved.request)?;
    if !images.is_empty() {
        paths
            .insert("image".to_owned(), images.iter().map(|path| (path.display().to_string(), path.clone())).collect());
    }
    let (scheduler, refiner_scheduler) = models.schedulers();
    let record = Record {
        version: Record::version(),
        device: device.describe(),
        tuned: load.plan.choice.tuned.id(),
        options: resolved.request.clone(),
        scheduler,
        refiner_scheduler,
        files: hash(&paths, &Hashes::default())?,
    };
    let account = Account { record, way, seeds, images };

    // 3. the noises to go between
    let runtime = Runtime::new(&device, &load, resolved.request.precision.unwrap_or_default().dtype());
    let steps = models.steps(&resolved.options)?;
    let total = steps * (way.frames + pictures.len());
    let mut reporter = Reporter::new(total, matches!(device, Device::Reference));
    let mut observe = |event: Event<'_, '_>| {
        match event {
            Event::Step(step) => reporter.step(&step.progress),
            Event::Done => reporter.settle(),
        }
        Ok(())
    };
    let mut stops = Vec::new();
    for seed in seeds {
        stops.push(models.noise_of_seed(&resolved, *seed)?);
    }
    for picture in &pictures {
        stops.push(models.invert(&runtime, &resolved, &picture.to_tensor(Range::MinusOneToOne), &mut observe)?);
    }

    // 4. the frames
    let mut frames = Vec::new();
    for frame in 0..way.frames {
        resolved.options.noise = Some(way.noise(&stops, frame)?);
        let latents = models.run(&runtime, &resolved, &mut observe)?;
        let images = models.decode(&runtime, &latents)?;
        let picture = only(&images)?;
        output.write_frame(frame, &picture, &account.of_frame(frame, &picture)?)?;
        frames.push(picture);
    }
    reporter.finish(way.frames);
    models.take_notes(&mut notes);
    tell(&mut notes);
    for (stop, (picture, path)) in pictures.iter().zip(images).enumerate() {
        // Where a picture lies between two frames, none shows it.
        if let Some(frame) = (0..way.frames).find(|frame| way.stop(*frame) == Some(stop)) {
            let psnr = frames[frame].psnr(picture)?;
            say(format_args!("frame {frame} is {} again: PSNR {psnr:.2} dB", path.display()));
        }
    }
    let text = account.of_all(&frames[0])?;
    output.write_all(frames, &text)
}

/// The request for one frame: with the first seed; between pictures by DDIM and, unless asked for, without guidance,
/// which takes a run away from the way that it came.
fn one_picture(args: &Args, notes: &mut Notes) -> Result<Request> {
    let given = &args.asked.request;
    let mut request = given.clone();
    let find = |name: &str| in_folder_of(given, name);
    take_from_prompts(&mut request, &find, given.weighting, notes, &mut Err)?;
    tell(notes);
    request.seed = args.asked.seeds.first().copied().into_iter().collect();
    if !args.asked.images.is_empty() {
        request.scheduler.get_or_insert("ddim".to_owned());
        if request.guidance_scale.is_empty() {
            request.guidance_scale = vec![1.0];
        }
    }
    Ok(request)
}

/// Checks that a run makes one picture, and of each noise always the same.
fn check(models: &Models, resolved: &Resolved, images: &[PathBuf]) -> Result<()> {
    if resolved.options.batch_size != 1 {
        let several = |field, several: bool| several.then_some(field);
        let field = several("prompt", resolved.request.prompt.len() > 1);
        let why = "there are several, and frames are of one";
        return Err(Refusal::of(field.unwrap_or("class"), why).into());
    }
    models.check_deterministic(&resolved.options)?;
    if images.is_empty() {
        return Ok(());
    }
    if models.refiner.is_some() {
        return Err(Refusal::of("refiner", "the way from a picture to its noise leads through one model").into());
    }
    models.model.pipeline.check_invertible(&resolved.options)
}

/// Refuses a run that would overwrite a file that it reads.
fn check_distinct(written: &[PathBuf], request: &Request, images: &[PathBuf]) -> Result<()> {
    let mut read = named_paths(request);
    read.extend(images.iter().map(|path| ("image", path.clone())));
    read.extend(request.model.iter().map(|path| ("model", path.clone())));
    for path in written {
        if let Some((field, _)) = read.iter().find(|(_, other)| is_same_file(path, other)) {
            let flag = words::flag(field);
            return Err(Error::Usage(format!(
                "--output and {flag} name the same file, {}, which would be overwritten; give another name",
                path.display()
            )));
        }
    }
    Ok(())
}

/// A picture in the size and the channels of the model.
fn picture(path: &PathBuf, models: &Models, resolved: &Resolved) -> Result<Picture> {
    let pipeline = &models.model.pipeline;
    let (height, width) = pipeline.size(&resolved.options)?;
    let picture = read(path, pipeline.picture_channels())?;
    if (picture.width, picture.height) == (width, height) {
        return Ok(picture);
    }
    let (w, h) = (picture.width, picture.height);
    say(format_args!("note: {}: {w} x {h} pixels become {width} x {height}", path.display()));
    Ok(resize_lanczos(&picture, width, height))
}

fn only(images: &HostTensor) -> Result<Picture> {
    Ok(Picture::from_tensor(images)?.swap_remove(0))
}

/// What frames remember of how they were made.
struct Account<'a> {
    /// Of the first frame.
    record: Record,
    way: Way,
    seeds: &'a [u64],
    images: &'a [PathBuf],
}

impl Account<'_> {
    /// The texts of a frame. One of a seed is the picture that `unmist sample` makes of it, and says no more.
    fn of_frame(&self, frame: usize, picture: &Picture) -> Result<Vec<Text>> {
        let seed = self.way.stop(frame).and_then(|stop| self.seeds.get(stop));
        let Some(seed) = seed else { return self.texts(json!({"frame": frame}), Some(frame), picture) };
        let options = Request { seed: vec![*seed], ..self.record.options.clone() };
        let record = Record { options, ..self.record.clone() };
        let text = parameters(&record, None, (picture.width, picture.height));
        Ok(vec![("parameters".to_owned(), text), (KEYWORD.to_owned(), record.to_json()?)])
    }

    /// The texts of all frames as one file.
    fn of_all(&self, picture: &Picture) -> Result<Vec<Text>> {
        self.texts(json!({}), None, picture)
    }

    fn texts(&self, mut more: Value, frame: Option<usize>, picture: &Picture) -> Result<Vec<Text>> {
        let (stops, what) = match self.images {
            [] => (self.seeds.iter().map(u64::to_string).collect::<Vec<_>>(), "seeds"),
            images => (images.iter().map(|path| path.display().to_string()).collect(), "pictures"),
        };
        let mut text = parameters(&self.record, None, (picture.width, picture.height));
        // No file's name can end the value.
        let between = stops.join(" to ").replace(['"', ',', ':', '\n'], "_");
        text += &format!(", Interpolation: {what} {between}, Frames: {}", self.way.frames);
        if let Some(frame) = frame {
            text += &format!(", Frame: {frame}");
        }
        more["frames"] = self.way.frames.into();
        more[what] = if self.images.is_empty() { self.seeds.into() } else { stops.into() };
        let mut account: Value = serde_json::from_str(&self.record.to_json()?).expect("a record writes JSON");
        account["interpolate"] = more;
        Ok(vec![("parameters".to_owned(), text), (BETWEEN.to_owned(), account.to_string())])
    }
}
