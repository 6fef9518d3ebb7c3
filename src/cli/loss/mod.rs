//! `unmist loss`: the training objective of a model on pictures, by timestep, and the bound on their likelihood; as
//! table, JSON and plot.

mod likelihood;
mod report;

use std::io::IsTerminal;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{folder, load_options, print, say};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::places;
use crate::image_io::Range;
use crate::output::{check_writable, is_same_file, write_atomic};
use crate::pipelines::{DiffusionPipeline, Example, Kind, PIXEL_PIPELINES, Runtime};
use crate::request::DeviceRequest;
use crate::rng::TorchCpu;
use crate::schedulers::{Objective, ProbabilityFlow, RungeKutta, Scheduler};
use crate::tensor::DType;
use report::Report;

/// Options of `unmist loss`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder or single file [default: a model from weights/]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// Folder of PNG, JPEG or WebP pictures of the model's size. Of a model by class, in subfolders: named by the
    /// numbers of the classes, or one for each class in the order of their names; pictures outside are of "no class".
    /// Of a model by text, each with what it shows in a .txt file of its name
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// How many of the trained timesteps, evenly spaced from first to last, or all
    #[arg(long, default_value = "20", value_name = "N|all", conflicts_with = "likelihood")]
    timesteps: String,
    /// γ of min-SNR-γ, where the weight of clean pictures ends
    #[arg(long, default_value_t = 5.0, value_name = "γ", conflicts_with = "likelihood")]
    snr_gamma: f64,
    /// Seed of the noise, which is drawn anew for each picture and timestep
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Pairs of picture and timestep that the model sees at once; changes the numbers by rounding alone
    #[arg(long, default_value_t = 8, value_name = "N", conflicts_with = "likelihood")]
    batch_size: usize,
    /// Scales pictures of other sizes so that they cover the model's, and crops them in the middle
    #[arg(long)]
    resize: bool,
    /// Also writes everything as JSON, picture by picture
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Also draws it
    #[arg(long, value_name = "FILE.svg", conflicts_with = "likelihood")]
    plot: Option<PathBuf>,
    /// The likelihood of the pictures along the probability flow instead, in bits per dimension: models of the score,
    /// and those on pixels whose β is linear or scaled_linear
    #[arg(long)]
    likelihood: bool,
    /// Draws of noise for each picture, of which the mean is taken
    #[arg(long, default_value_t = 1, value_name = "N", requires = "likelihood")]
    draws: usize,
    /// The error of a step along the flow, relative
    #[arg(long, default_value_t = 1e-5, value_name = "N", requires = "likelihood")]
    rtol: f64,
    /// The error of a step along the flow, absolute
    #[arg(long, default_value_t = 1e-5, value_name = "N", requires = "likelihood")]
    atol: f64,
    #[command(flatten)]
    device: DeviceRequest,
}

/// Runs the command.
///
/// # Errors
/// As the library; nothing is written then.
pub fn run(args: Args) -> Result<()> {
    check(&args)?;
    let checkpoint = Checkpoint::open(places::find(args.model.as_deref(), PIXEL_PIPELINES)?)?;
    let scheduler = Scheduler::new(DiffusionPipeline::training_config(&checkpoint)?)?;
    let measured = if args.likelihood {
        Measured::Likelihood(ProbabilityFlow::of_likelihood(&scheduler.config)?)
    } else {
        let timesteps = timesteps(&args.timesteps, scheduler.config.num_train_timesteps)?;
        Measured::Objective(Objective::new(&scheduler, &timesteps, args.snr_gamma)?)
    };
    let pipeline = DiffusionPipeline::load(&checkpoint, scheduler)?;
    let channels = match pipeline.traits.kind {
        Kind::Pixels => pipeline.sample_channels(),
        _ => 3,
    };
    if channels != 1 && channels != 3 {
        return Err(Error::Unsupported(format!(
            "{}: a model on {channels} channels; pictures have 1 or 3",
            checkpoint.path().display()
        )));
    }
    let options = folder::Options {
        flag: "--images",
        channels,
        size: pipeline.traits.own_size,
        resize: args.resize,
        crop: true,
        caption: None,
        advice: "give --resize to scale and crop",
    };
    let found = folder::pictures(&args.images, &pipeline.traits, &options)?;

    let device = args.device.open()?;
    say(format_args!("device: {}", device.describe()));
    let load = load_options(&args.device, &device)?;
    let pairs = found.len()
        * match &measured {
            Measured::Objective(objective) => objective.levels.len(),
            Measured::Likelihood(_) => args.draws,
        };
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} left").expect("the template is constant");
        ProgressBar::with_draw_target(Some(pairs as u64), ProgressDrawTarget::stderr()).with_style(style)
    });
    let examples = found.iter().map(|found| Example {
        name: found.path.display().to_string(),
        image: found.picture.to_tensor(Range::MinusOneToOne),
        class: found.class,
        caption: found.caption.clone(),
    });
    let runtime = Runtime::new(&device, &load, DType::F32);
    let mut noise = TorchCpu::new(args.seed);
    let show = |done: usize| bar.iter().for_each(|bar| bar.set_position(done as u64));
    let (model, scheduler) = (checkpoint.path(), &pipeline.scheduler);
    match measured {
        Measured::Objective(objective) => {
            // Small folders fit into one smaller batch.
            let batch = args.batch_size.min(pairs);
            let losses =
                pipeline.training_loss(&runtime, &objective, examples, &mut noise, batch, &mut |done| show(done));
            bar.iter().for_each(ProgressBar::finish_and_clear);
            let report = Report::new(&args, model, scheduler, &objective, &found, &losses?);
            write_json(&args, &report)?;
            if let Some(path) = &args.plot {
                write_atomic(path, |file| file.write_all(report.svg().as_bytes()))?;
            }
            print(&report.table());
        }
        Measured::Likelihood(flow) => {
            let solver = RungeKutta { rtol: args.rtol, atol: args.atol };
            let all = pipeline.likelihood(&runtime, &flow, solver, examples, args.draws, &mut noise, &mut |done, _| {
                show(done);
            });
            bar.iter().for_each(ProgressBar::finish_and_clear);
            let report = likelihood::Report::new(&args, model, scheduler, &found, &all?);
            write_json(&args, &report)?;
            print(&report.table());
        }
    }
    Ok(())
}

/// What is measured.
enum Measured {
    /// What the model was trained for.
    Objective(Objective),
    /// The likelihood, along this.
    Likelihood(ProbabilityFlow),
}

fn write_json(args: &Args, report: &impl serde::Serialize) -> Result<()> {
    let Some(path) = &args.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(report).expect("numbers and texts can be written") + "\n";
    write_atomic(path, |file| file.write_all(text.as_bytes()))
}

/// Checks what needs no model.
fn check(args: &Args) -> Result<()> {
    if !(args.snr_gamma > 0.0 && args.snr_gamma.is_finite()) {
        return Err(Error::Usage(format!("--snr-gamma {}: expected a number above 0", args.snr_gamma)));
    }
    if args.draws == 0 {
        return Err(Error::Usage("--draws 0: expected 1 or more".into()));
    }
    if !(RungeKutta::LEAST_RTOL..=1.0).contains(&args.rtol) {
        let least = RungeKutta::LEAST_RTOL;
        return Err(Error::Usage(format!("--rtol {}: expected a number from {least:.1e} to 1", args.rtol)));
    }
    if !(args.atol >= 0.0 && args.atol.is_finite()) {
        return Err(Error::Usage(format!("--atol {}: expected a number, 0 or more", args.atol)));
    }
    if args.batch_size == 0 {
        return Err(Error::Usage("--batch-size 0: expected 1 or more".into()));
    }
    if !args.images.is_dir() {
        return Err(Error::Usage(format!("--images {}: there is no such folder", args.images.display())));
    }
    for (flag, path, end) in [("--json", &args.json, "json"), ("--plot", &args.plot, "svg")] {
        let Some(path) = path else { continue };
        if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case(end)) {
            return Err(Error::Usage(format!("{flag} {}: expected a name that ends in .{end}", path.display())));
        }
        check_writable(path)?;
    }
    match (&args.json, &args.plot) {
        (Some(json), Some(plot)) if is_same_file(json, plot) => {
            Err(Error::Usage(format!("{}: --json and --plot cannot be one file", json.display())))
        }
        _ => Ok(()),
    }
}

/// `asked` of `trained` timesteps, evenly spaced, with the first and the last.
fn timesteps(asked: &str, trained: usize) -> Result<Vec<usize>> {
    let count = match asked {
        "all" => trained,
        number => number.parse().unwrap_or(0),
    };
    if count < 2 || count > trained {
        let why = format!("--timesteps {asked}: this model has {trained}; expected 2 to {trained}, or all");
        return Err(Error::Usage(why));
    }
    let last = count - 1;
    Ok((0..count).map(|i| (2 * i * (trained - 1) + last) / (2 * last)).collect())
}
