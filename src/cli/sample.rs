//! `unmist sample`: makes pictures.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::model_path;
use super::options::{DeviceArgs, Precision};
use crate::backend::Device;
use crate::checkpoint::Folder;
use crate::error::{Error, Result};
use crate::image_io::{Picture, grid, write_png, write_tensor};
use crate::output::{check_writable, numbered};
use crate::pipelines::{Progress, SampleOptions, UNet2DPipeline};
use crate::rng::TorchCpu;
use crate::schedulers::{Sampling, Scheduler, SchedulerClass, SchedulerConfig};

/// Pipelines without text that this command runs.
const CLASSES: &[&str] = &["DDPMPipeline", "DDIMPipeline"];

/// Options of `unmist sample`.
#[derive(clap::Args)]
pub struct Args {
    /// What the picture shows (models with a text encoder)
    prompt: Option<String>,
    /// Model folder in diffusers' layout [default: a model from weights/ that fits]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Seed of the noise; the same seed gives the same picture as diffusers on a CPU. Several, comma-separated: one for each picture
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "N[,N…]")]
    seed: Vec<u64>,
    /// Number of denoise steps
    #[arg(long, default_value_t = 50, value_name = "N")]
    steps: usize,
    /// Sampler [default: the model's own]
    #[arg(long, value_name = "ddpm|ddim")]
    scheduler: Option<String>,
    /// DDIM: share of fresh noise in each step, from 0 (none) to 1 (as DDPM)
    #[arg(long, default_value_t = 0.0, value_name = "F")]
    eta: f64,
    /// Class of the pictures; several, comma-separated, take turns [default: no class]
    #[arg(long, value_delimiter = ',', value_name = "N[,N…]")]
    class: Vec<usize>,
    /// The class that stands for "no class" in classifier-free guidance [default: the last]
    #[arg(long, value_name = "N")]
    null_class: Option<usize>,
    /// Classifier-free guidance: how far to go from "no class" towards the class and beyond
    #[arg(long, default_value_t = 1.0, value_name = "F")]
    guidance_scale: f64,
    /// Number of pictures made at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch_size: usize,
    /// Columns [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    width: Option<usize>,
    /// Rows [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    height: Option<usize>,
    /// Storage of weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// FILE.png, or FILE.safetensors for the values before rounding (tensor `images`, [N, C, H, W] in [0, 1])
    #[arg(long, short, default_value = "out.png", value_name = "FILE")]
    output: PathBuf,
    /// Several pictures as numbered files instead of a grid
    #[arg(long)]
    separate: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

enum Format {
    Png,
    Safetensors,
}

/// Runs the command.
///
/// # Errors
/// As the library; nothing is written then.
pub fn run(args: Args) -> Result<()> {
    let format = match args.output.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
        Some("png") => Format::Png,
        Some("safetensors") => Format::Safetensors,
        _ => {
            return Err(Error::Usage(format!(
                "--output {}: expected a name that ends in .png or .safetensors",
                args.output.display()
            )));
        }
    };
    check_writable(&args.output)?;
    if args.seed.len() > 1 && args.seed.len() != args.batch_size {
        return Err(Error::Usage(format!(
            "--seed: {} seeds for {} pictures; give one, or as many as --batch-size",
            args.seed.len(),
            args.batch_size
        )));
    }
    if args.prompt.is_some() {
        return Err(Error::Unsupported(
            "a prompt: no model with a text encoder can be loaded; leave the prompt out and use --class".into(),
        ));
    }
    let path = model_path::find(args.model.as_deref(), CLASSES)?;
    let folder = Folder::open(&path)?;
    let scheduler = scheduler(&folder, args.scheduler.as_deref())?;
    let pipeline = UNet2DPipeline::load(&folder, scheduler)?;
    let options = SampleOptions {
        batch_size: args.batch_size,
        height: args.height,
        width: args.width,
        sampling: Sampling { eta: args.eta, ..Sampling::steps(args.steps) },
        classes: args.class.clone(),
        null_class: args.null_class,
        guidance_scale: args.guidance_scale,
        dtype: args.precision.dtype(),
    };
    let device = args.device.open()?;
    report_device(&device);
    let mut sources: Vec<_> = args.seed.iter().map(|s| TorchCpu::new(*s)).collect();
    let mut reporter = Reporter::new();
    let images = pipeline.sample(&device, &args.device.load_options()?, &options, &mut sources, &mut |progress| {
        reporter.step(&progress);
        Ok(())
    })?;
    reporter.finish(args.batch_size);

    let settings = settings(&args, &path, &pipeline.scheduler.config, images.shape[3], images.shape[2]);
    match format {
        Format::Safetensors => {
            write_tensor(&args.output, &images, &BTreeMap::from([("parameters".to_owned(), settings)]))
        }
        Format::Png => write_pictures(&args.output, &Picture::from_tensor(&images)?, args.separate, &settings),
    }
}

/// The model's scheduler, or the one asked for over the same noise schedule.
fn scheduler(folder: &Folder, name: Option<&str>) -> Result<Scheduler> {
    let own = SchedulerConfig::from_json(&folder.scheduler_config()?.text)?;
    let config = match name {
        None => own,
        Some("ddpm") => own.with_class(SchedulerClass::Ddpm, &[])?,
        Some("ddim") => own.with_class(SchedulerClass::Ddim, &[])?,
        Some(other) => return Err(Error::Usage(format!("--scheduler {other}: expected ddpm or ddim"))),
    };
    Scheduler::new(config)
}

fn report_device(device: &Device) {
    eprintln!("device: {}", device.describe());
}

fn write_pictures(path: &Path, pictures: &[Picture], separate: bool, settings: &str) -> Result<()> {
    let text = [("parameters".to_owned(), settings.to_owned())];
    match pictures {
        [one] => write_png(path, one, &text),
        several if separate => {
            several.iter().enumerate().try_for_each(|(i, p)| write_png(numbered(path, i, several.len()), p, &text))
        }
        several => write_png(path, &grid(several, None)?, &text),
    }
}

/// One line in the form that other programs put into pictures.
fn settings(args: &Args, model: &Path, scheduler: &SchedulerConfig, width: usize, height: usize) -> String {
    let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let classes: Vec<u64> = args.class.iter().map(|c| *c as u64).collect();
    let mut parts = vec![
        format!("Steps: {}", args.steps),
        format!("Sampler: {}", scheduler.class.name()),
        format!("Eta: {}", args.eta),
        format!("CFG scale: {}", args.guidance_scale),
        format!("Seed: {}", list(&args.seed)),
        format!("Size: {width}x{height}"),
        format!("Batch size: {}", args.batch_size),
        format!(
            "Model: {}",
            model.file_name().map_or(model.display().to_string(), |n| n.to_string_lossy().into_owned())
        ),
    ];
    if !classes.is_empty() {
        parts.push(format!("Class: {}", list(&classes)));
    }
    parts.push(format!("Precision: {}", args.precision.dtype().name()));
    parts.push(format!("Version: unmist {}", env!("CARGO_PKG_VERSION")));
    parts.join(", ")
}

/// A bar with steps per second on a terminal, one line at the end elsewhere.
struct Reporter {
    bar: Option<ProgressBar>,
    start: Instant,
    first_step: Option<Duration>,
    done: usize,
}

impl Reporter {
    fn new() -> Self {
        Self { bar: None, start: Instant::now(), first_step: None, done: 0 }
    }

    fn step(&mut self, progress: &Progress<'_>) {
        self.first_step.get_or_insert(self.start.elapsed());
        self.done = progress.done;
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {per_sec}, {eta} left")
                .expect("the template is constant and valid");
            ProgressBar::with_draw_target(Some(progress.total as u64), ProgressDrawTarget::stderr()).with_style(style)
        });
        bar.set_position(progress.done as u64);
    }

    fn finish(&mut self, pictures: usize) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        let first = self.first_step.map_or(0.0, |d| d.as_secs_f64());
        let rate = if self.done > 1 && seconds > first {
            (self.done - 1) as f64 / (seconds - first)
        } else {
            self.done as f64 / seconds
        };
        eprintln!(
            "{} steps for {pictures} picture{} in {seconds:.1} s ({first:.1} s until the first step was done, then {rate:.2} steps/s)",
            self.done,
            if pictures == 1 { "" } else { "s" }
        );
    }
}
