//! `unmist sample`: makes pictures.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::model_path;
use super::options::{DeviceArgs, Precision};
use crate::backend::Device;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::image_io::{Picture, Range, grid, read, resize_lanczos, write_png, write_tensor};
use crate::output::{check_writable, numbered};
use crate::pipelines::{
    Progress, PromptOptions, STABLE_DIFFUSION_PIPELINES, SampleOptions, StableDiffusionPipeline, UNet2DPipeline,
};
use crate::rng::TorchCpu;
use crate::schedulers::{Sampling, Scheduler, SchedulerConfig, scheduler_by_name};
use crate::tensor::HostTensor;

/// Pipelines without text that this command runs.
const CLASSES: &[&str] = &["DDPMPipeline", "DDIMPipeline"];

/// Options of `unmist sample`.
#[derive(clap::Args)]
pub struct Args {
    /// What the picture shows (models with a text encoder)
    prompt: Option<String>,
    /// What the picture should not show (models with a text encoder)
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// Model folder in diffusers' layout, or a single file in the original Stable Diffusion layout [default: a model from weights/ that fits]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// Seed of the noise; the same seed gives the same picture as diffusers on a CPU. Several, comma-separated: one for each picture
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "N[,N…]")]
    seed: Vec<u64>,
    /// Number of denoise steps
    #[arg(long, default_value_t = 50, value_name = "N")]
    steps: usize,
    /// Sampler: ddpm, ddim, "Euler a", "DPM++ 2M Karras" … as other programs name them, or diffusers' class [default: the model's own]
    #[arg(long, value_name = "NAME")]
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
    /// Classifier-free guidance: how far to go from "no class" or the negative prompt towards what is asked, and beyond [default: 1 (off) for classes, 7.5
    /// for prompts]
    #[arg(long, value_name = "F")]
    guidance_scale: Option<f64>,
    /// A picture to start from (models with a text encoder)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// With --image: the share of the steps that is done, from 0 (nothing changes) to 1 (little of the picture stays)
    #[arg(long, default_value_t = 0.8, value_name = "F")]
    strength: f64,
    /// Leaves out that many of the text encoder's last layers
    #[arg(long, default_value_t = 0, value_name = "N")]
    clip_skip: usize,
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
    let fitting = if args.prompt.is_some() { STABLE_DIFFUSION_PIPELINES } else { CLASSES };
    let path = model_path::find(args.model.as_deref(), fitting)?;
    let checkpoint = Checkpoint::open(&path)?;
    let text_model = match checkpoint.pipeline_class() {
        Some(class) if STABLE_DIFFUSION_PIPELINES.contains(&class) => true,
        Some(class) if !CLASSES.contains(&class) => {
            return Err(Error::Unsupported(format!(
                "{}: a {class}; there are {} and {}",
                path.display(),
                CLASSES.join(", "),
                STABLE_DIFFUSION_PIPELINES.join(", ")
            )));
        }
        _ => false,
    };
    checkpoint.assumptions().iter().for_each(|a| eprintln!("assumed: {a}"));
    let scheduler = scheduler(&checkpoint, args.scheduler.as_deref())?;
    let config = scheduler.config.clone();
    let images = if text_model {
        from_text(&args, &checkpoint, scheduler)?
    } else {
        from_classes(&args, &checkpoint, scheduler)?
    };

    let settings = settings(&args, &path, &config, images.shape[3], images.shape[2]);
    match format {
        Format::Safetensors => {
            write_tensor(&args.output, &images, &BTreeMap::from([("parameters".to_owned(), settings)]))
        }
        Format::Png => write_pictures(&args.output, &Picture::from_tensor(&images)?, args.separate, &settings),
    }
}

/// The model's scheduler, or the one asked for over the same noise schedule.
fn scheduler(checkpoint: &Checkpoint, name: Option<&str>) -> Result<Scheduler> {
    let own = SchedulerConfig::from_json(&checkpoint.scheduler_config("scheduler")?.text)?;
    Scheduler::new(match name {
        None => own,
        Some(name) => scheduler_by_name(name, &own)?,
    })
}

/// Pictures of classes, or of whatever an unconditional model knows.
fn from_classes(args: &Args, checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<HostTensor> {
    for (given, option) in [
        (args.prompt.is_some(), "PROMPT"),
        (args.negative_prompt.is_some(), "--negative-prompt"),
        (args.image.is_some(), "--image"),
        (args.clip_skip > 0, "--clip-skip"),
    ] {
        if given {
            return Err(Error::Usage(format!(
                "{option}: {} has no text encoder; it takes --class if it knows classes",
                checkpoint.path().display()
            )));
        }
    }
    let pipeline = UNet2DPipeline::load(checkpoint, scheduler)?;
    let options = SampleOptions {
        batch_size: args.batch_size,
        height: args.height,
        width: args.width,
        sampling: Sampling { eta: args.eta, ..Sampling::steps(args.steps) },
        classes: args.class.clone(),
        null_class: args.null_class,
        guidance_scale: args.guidance_scale.unwrap_or(1.0),
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
    Ok(images)
}

/// Pictures of a prompt.
fn from_text(args: &Args, checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<HostTensor> {
    if !args.class.is_empty() {
        return Err(Error::Usage(format!("--class: {} takes a prompt", checkpoint.path().display())));
    }
    if args.batch_size == 0 || args.batch_size > 1 << 10 {
        return Err(Error::Usage(format!("--batch-size {}: expected 1 to {}", args.batch_size, 1 << 10)));
    }
    let pipeline = StableDiffusionPipeline::load(checkpoint, scheduler)?;
    let repeat = |text: &str| vec![text.to_owned(); args.batch_size];
    let strength = if args.image.is_some() { args.strength } else { 1.0 };
    let options = PromptOptions {
        prompts: repeat(args.prompt.as_deref().unwrap_or_default()),
        negative_prompts: args.negative_prompt.as_deref().map(repeat),
        prompts_2: None,
        height: args.height,
        width: args.width,
        sampling: Sampling { eta: args.eta, strength, ..Sampling::steps(args.steps) },
        guidance_scale: args.guidance_scale.unwrap_or(7.5),
        clip_skip: args.clip_skip,
        original_size: None,
        crop: (0, 0),
        target_size: None,
        image: args.image.as_deref().map(|path| picture(path, args)).transpose()?,
        dtype: args.precision.dtype(),
    };
    let windows = pipeline.windows(&options)?;
    if windows > 1 {
        eprintln!(
            "note: the prompt is longer than the text encoder's window; it is read in {windows} windows side by side"
        );
    }
    let device = args.device.open()?;
    report_device(&device);
    let mut sources: Vec<_> = args.seed.iter().map(|s| TorchCpu::new(*s)).collect();
    let mut reporter = Reporter::new();
    let images = pipeline.sample(&device, &args.device.load_options()?, &options, &mut sources, &mut |progress| {
        reporter.step(&progress);
        Ok(())
    })?;
    reporter.finish(args.batch_size);
    Ok(images)
}

/// The picture of `--image`, resized to `--width` and `--height` if given, as `[1, 3, H, W]` in [−1, 1].
fn picture(path: &Path, args: &Args) -> Result<HostTensor> {
    let mut picture = read(path, 3)?;
    let (width, height) = (args.width.unwrap_or(picture.width), args.height.unwrap_or(picture.height));
    if (width, height) != (picture.width, picture.height) {
        if width == 0 || height == 0 || width.max(height) > 1 << 14 {
            return Err(Error::Usage(format!("--width {width} --height {height}: expected 1 to {} each", 1 << 14)));
        }
        picture = resize_lanczos(&picture, width, height);
    }
    Ok(picture.to_tensor(Range::MinusOneToOne))
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
        format!("CFG scale: {}", args.guidance_scale.map_or("default".to_owned(), |s| s.to_string())),
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
