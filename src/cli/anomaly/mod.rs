//! `unmist anomaly`: where a picture is unlike those that a model was trained on.

mod auroc;
mod picture;
mod report;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::folder::{self, Found};
use super::{load_options, print, say};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::places;
use crate::image_io::{Picture, Range, write_tensor};
use crate::output::{check_writable, is_same_file, write_atomic};
use crate::pipelines::{
    DiffusionPipeline, NoiseShape, PIXEL_PIPELINES, Runtime, SampleOptions, Traits, squared_difference,
};
use crate::request::DeviceRequest;
use crate::rng::TorchCpu;
use crate::schedulers::{Sampling, Scheduler, scheduler_by_name};
use crate::tensor::{DType, HostTensor};
use report::{Measured, Report};

/// Options of `unmist anomaly`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("pictures").required(true)))]
pub struct Args {
    /// Model on pixels, trained on normal pictures: its folder
    #[arg(long, value_name = "DIR|FILE")]
    model: PathBuf,
    /// The picture, PNG, JPEG or WebP
    #[arg(long, value_name = "FILE", group = "pictures")]
    image: Option<PathBuf>,
    /// Folder of pictures. With subfolders called normal and anomalous, how well scores tell them apart is measured
    #[arg(long, value_name = "DIR", group = "pictures")]
    images: Option<PathBuf>,
    /// Folder of masks with the names of the pictures (and of their subfolders), white where they are anomalous; those
    /// without are normal. How well the maps find these pixels is measured
    #[arg(long, value_name = "DIR")]
    masks: Option<PathBuf>,
    /// Timestep that pictures are noised to [default: a quarter of those trained, as in AnoDDPM]
    #[arg(long, value_name = "T")]
    timestep: Option<usize>,
    /// What they are noised with
    #[arg(long, value_enum, default_value_t = NoiseName::Gaussian)]
    noise: NoiseName,
    /// Steps of a whole run, from pure noise, of which those from the timestep on are done; 1000 does all of a model
    /// with as many, as AnoDDPM
    #[arg(long, default_value_t = 100, value_name = "N")]
    steps: usize,
    /// DDPM or DDIM [default: the model's own]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// Class of the pictures, of a model by class [default: no class]
    #[arg(long, value_name = "N")]
    class: Option<usize>,
    /// How often each picture is noised, with seeds that follow each other; maps are the means
    #[arg(long, default_value_t = 4, value_name = "N")]
    repeats: usize,
    /// First seed, the same for each picture
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Which percentile of a map is its second score
    #[arg(long, default_value_t = 98.0, value_name = "P")]
    percentile: f64,
    /// Noised pictures that the model sees at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    batch_size: usize,
    /// Scales pictures of other sizes, and masks, so that they cover the model's, and crops them in the middle
    #[arg(long)]
    resize: bool,
    /// Where pictures of the result go: side by side the picture, what the model makes of it, the map, and the map over
    /// the picture. A .png file; for a folder of pictures a folder [default: anomaly.png; for a folder, nowhere]
    #[arg(long, short, value_name = "FILE.png|DIR")]
    output: Option<PathBuf>,
    /// Also writes the maps as numbers, `images` [N, 1, H, W]
    #[arg(long, value_name = "FILE.safetensors")]
    map: Option<PathBuf>,
    /// Also writes the scores as JSON
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceRequest,
}

/// A [`NoiseShape`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum NoiseName {
    /// Independent from pixel to pixel
    Gaussian,
    /// With large shapes: simplex noise in six octaves
    Simplex,
}

/// Runs the command.
///
/// # Errors
/// As the library; nothing is written then.
pub fn run(args: Args) -> Result<()> {
    let output = check(&args)?;
    let checkpoint = Checkpoint::open(places::find(Some(&args.model), PIXEL_PIPELINES)?)?;
    let own = DiffusionPipeline::training_config(&checkpoint)?;
    let config = args.scheduler.as_ref().map_or(Ok(own.clone()), |name| scheduler_by_name(name, &own))?;
    let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(config)?)?;
    let trained = pipeline.scheduler.config.num_train_timesteps;
    let options = SampleOptions {
        classes: args.class.into_iter().collect(),
        sampling: Sampling::steps(args.steps),
        ..SampleOptions::default()
    };
    let timestep = args.timestep.unwrap_or(trained / 4);
    let (schedule, first) = pipeline.schedule_from(&options, timestep)?;
    let channels = pipeline.sample_channels();
    if channels != 1 && channels != 3 {
        let file = checkpoint.path().display();
        return Err(Error::Unsupported(format!("{file}: a model on {channels} channels; pictures have 1 or 3")));
    }
    let found = pictures(&args, &pipeline.traits, channels)?;
    let masks = args.masks.as_ref().map(|folder| masks(&args, folder, &pipeline.traits, &found)).transpose()?;
    let strips: Vec<PathBuf> =
        output.iter().flat_map(|output| found.iter().map(|one| strip(&args, output, one))).collect();
    check_distinct(&strips, &found, args.masks.as_ref())?;

    let device = args.device.open()?;
    say(format_args!("device: {}", device.describe()));
    let load = load_options(&args.device, &device)?;
    let runtime = Runtime::new(&device, &load, DType::F32);
    let runs = (found.len() * args.repeats).div_ceil(batch(&args, found.len()));
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} left").expect("the template is constant");
        let total = (runs * schedule.steps.len()) as u64;
        ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style)
    });
    let measured = measure(&args, &pipeline, &runtime, &options, timestep, &found, &mut || {
        bar.iter().for_each(|bar| bar.inc(1));
    });
    bar.iter().for_each(ProgressBar::finish_and_clear);
    let measured = measured?;

    let config = &pipeline.scheduler.config;
    let steps = (first, schedule.steps.len());
    let report = Report::new(&args, checkpoint.path(), config, steps, &found, &measured, masks.as_deref());
    let most = measured.iter().flat_map(|one| &one.map).fold(0.0, |a, b| f64::max(a, *b));
    for (path, (found, measured)) in strips.iter().zip(found.iter().zip(&measured)) {
        picture::write(path, &found.picture, measured, most)?;
    }
    if let Some(path) = &args.map {
        let Picture { height, width, .. } = found[0].picture;
        let data = measured.iter().flat_map(|one| one.map.iter().map(|x| *x as f32)).collect();
        write_tensor(path, &HostTensor::new([found.len(), 1, height, width], data)?, &report.metadata())?;
    }
    if let Some(path) = &args.json {
        let text = report.json();
        write_atomic(path, |file| file.write_all(text.as_bytes()))?;
    }
    print(&report.table());
    Ok(())
}

/// How many noised pictures the model sees at once.
fn batch(args: &Args, pictures: usize) -> usize {
    args.batch_size.min(pictures * args.repeats)
}

/// The path of a picture within the folder.
fn of(args: &Args, found: &Found) -> PathBuf {
    let folder = args.images.as_ref();
    folder.and_then(|folder| found.path.strip_prefix(folder).ok()).unwrap_or(&found.path).to_owned()
}

/// Where the strip of a picture goes.
fn strip(args: &Args, output: &Path, found: &Found) -> PathBuf {
    if args.image.is_some() { output.to_owned() } else { output.join(of(args, found)).with_extension("png") }
}

/// Refuses strips in the place of files that are read, or of each other.
fn check_distinct(strips: &[PathBuf], found: &[Found], masks: Option<&PathBuf>) -> Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    let read: BTreeSet<PathBuf> = found.iter().filter_map(|found| real(&found.path)).collect();
    let masks = masks.and_then(|folder| real(folder));
    let mut written = BTreeSet::new();
    for path in strips {
        let taken = real(path)
            .is_some_and(|path| read.contains(&path) || masks.as_ref().is_some_and(|folder| path.starts_with(folder)));
        if taken || !written.insert(path) {
            let why = "a picture of the result would take the place of another file; expected another name";
            return Err(Error::Usage(format!("--output {}: {why}", path.display())));
        }
    }
    Ok(())
}

/// Noises each picture as often as asked for, and compares what the model makes of it.
fn measure(
    args: &Args,
    pipeline: &DiffusionPipeline,
    runtime: &Runtime<'_>,
    options: &SampleOptions,
    timestep: usize,
    found: &[Found],
    step: &mut dyn FnMut(),
) -> Result<Vec<Measured>> {
    let noise = match args.noise {
        NoiseName::Gaussian => NoiseShape::Gaussian,
        NoiseName::Simplex => NoiseShape::Simplex,
    };
    let originals: Vec<HostTensor> = found.iter().map(|found| found.picture.to_tensor(Range::MinusOneToOne)).collect();
    let mut measured: Vec<Measured> = originals.iter().map(Measured::nothing).collect();
    let pairs: Vec<(usize, usize)> =
        (0..found.len()).flat_map(|picture| (0..args.repeats).map(move |repeat| (picture, repeat))).collect();
    let batch = batch(args, found.len());
    for some in pairs.chunks(batch) {
        // A batch that is not full is filled up with its last one.
        let filled: Vec<_> = some.iter().chain(std::iter::repeat(&some[some.len() - 1])).take(batch).collect();
        let together: Vec<&HostTensor> = filled.iter().map(|(picture, _)| &originals[*picture]).collect();
        let seed = |(_, repeat): &&(usize, usize)| TorchCpu::new(args.seed.wrapping_add(*repeat as u64));
        let mut sources: Vec<TorchCpu> = filled.iter().map(seed).collect();
        let together = HostTensor::concat(&together, 0)?;
        let observe = &mut |_: crate::pipelines::Progress<'_>| {
            step();
            Ok(())
        };
        let made = pipeline.reconstruct(runtime, options, &together, (timestep, noise), &mut sources, observe)?;
        for (row, (picture, _)) in made.data.chunks_exact(originals[0].len()).zip(some) {
            let original = &originals[*picture];
            let made = HostTensor { shape: original.shape.clone(), data: row.to_vec() };
            let difference = squared_difference(original, &made);
            measured[*picture].add(&made, &difference, args.repeats);
        }
    }
    Ok(measured)
}

/// The picture, or those of the folder.
fn pictures(args: &Args, traits: &Traits, channels: usize) -> Result<Vec<Found>> {
    let Some(path) = &args.image else {
        let folder = args.images.as_ref().expect("one of both is given");
        return folder::pictures(folder, &traits_of_folder(traits), &options(args, "--images", traits, channels));
    };
    let picture = folder::picture(path, &options(args, "--image", traits, channels))?;
    Ok(vec![Found { path: path.clone(), class: None, caption: None, picture }])
}

/// The mask of each picture; one without is black.
fn masks(args: &Args, folder: &PathBuf, traits: &Traits, found: &[Found]) -> Result<Vec<Vec<bool>>> {
    let Picture { height, width, .. } = found[0].picture;
    let options = folder::Options { size: Some((height, width)), ..options(args, "--masks", traits, 1) };
    let all = folder::pictures(folder, &traits_of_folder(traits), &options)?;
    let name = |path: &PathBuf, folder: &PathBuf| path.strip_prefix(folder).unwrap_or(path).with_extension("");
    let mut masks = vec![vec![false; height * width]; found.len()];
    for mask in &all {
        let wanted = name(&mask.path, folder);
        let Some(at) = found.iter().position(|found| of(args, found).with_extension("") == wanted) else {
            let why = format!("there is no picture of this name, {}, in --images", wanted.display());
            return Err(Error::Usage(format!("--masks {}: {why}", mask.path.display())));
        };
        masks[at] = mask.picture.data.iter().map(|level| *level >= 128).collect();
        if report::label(args, &found[at]) == Some(false) && masks[at].contains(&true) {
            let why = format!("it is white somewhere, and the picture is in normal, {}", wanted.display());
            return Err(Error::Usage(format!("--masks {}: {why}", mask.path.display())));
        }
    }
    if !masks.iter().any(|mask| mask.contains(&true)) {
        return Err(Error::Usage(format!("--masks {}: they are black; expected white lesions", folder.display())));
    }
    Ok(masks)
}

/// Subfolders are no classes of the model here.
fn traits_of_folder(traits: &Traits) -> Traits {
    Traits { classes: None, ..*traits }
}

fn options(args: &Args, flag: &'static str, traits: &Traits, channels: usize) -> folder::Options {
    folder::Options {
        flag,
        channels,
        size: traits.own_size,
        resize: args.resize,
        crop: true,
        caption: None,
        advice: "give --resize to scale and crop",
    }
}

/// Checks what needs no model; where pictures go.
fn check(args: &Args) -> Result<Option<PathBuf>> {
    for (flag, number) in [("--repeats", args.repeats), ("--batch-size", args.batch_size)] {
        if number == 0 {
            return Err(Error::Usage(format!("{flag} 0: expected 1 or more")));
        }
    }
    if !(args.percentile > 0.0 && args.percentile <= 100.0) {
        return Err(Error::Usage(format!("--percentile {}: expected above 0 and up to 100", args.percentile)));
    }
    if args.masks.is_some() && args.images.is_none() {
        return Err(Error::Usage("--masks: they belong to a folder of pictures, --images".into()));
    }
    for (flag, folder) in [("--images", &args.images), ("--masks", &args.masks)] {
        if let Some(folder) = folder.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(Error::Usage(format!("{flag} {}: there is no such folder", folder.display())));
        }
    }
    let output = match (&args.output, &args.images) {
        (None, None) => Some(PathBuf::from("anomaly.png")),
        (output, _) => output.clone(),
    };
    let picture = output.as_ref().filter(|_| args.image.is_some());
    let files = [("--output", picture, "png"), ("--map", args.map.as_ref(), "safetensors")];
    let files = files.into_iter().chain([("--json", args.json.as_ref(), "json")]);
    let mut written: Vec<(&str, &PathBuf)> = Vec::new();
    for (flag, path, end) in files {
        let Some(path) = path else { continue };
        if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case(end)) {
            return Err(Error::Usage(format!("{flag} {}: expected a name that ends in .{end}", path.display())));
        }
        check_writable(path)?;
        let read = args.image.iter().map(|image| ("--image", image));
        if let Some((other, _)) = read.chain(written.iter().copied()).find(|(_, other)| is_same_file(path, other)) {
            return Err(Error::Usage(format!("{}: {other} and {flag} cannot be one file", path.display())));
        }
        written.push((flag, path));
    }
    if let Some(output) = output.as_ref().filter(|output| args.images.is_some() && output.is_file()) {
        return Err(Error::Usage(format!("--output {}: expected the name of a folder", output.display())));
    }
    Ok(output)
}
