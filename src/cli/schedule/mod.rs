//! `unmist schedule`: the noise levels that a model was trained on, and those that a run visits, as table, JSON and
//! plot.

mod plot;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::print;
use crate::checkpoint::{Checkpoint, Json};
use crate::error::{Error, Result};
use crate::generate::places;
use crate::output::{check_writable, write_atomic};
use crate::pipelines::DiffusionPipeline;
use crate::schedulers::{Frame, Noising, Sampling, Scheduler, SchedulerConfig, scheduler_by_name};

/// Options of `unmist schedule`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder or single file [default: a model from weights/, unless a scheduler is named]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// A config of a scheduler in place of a model
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    scheduler_config: Option<PathBuf>,
    /// Scheduler of the run, as `unmist sample` takes it; without a model, over the class's own defaults
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// Steps of the run
    #[arg(long, default_value_t = 20, value_name = "N")]
    steps: usize,
    /// Prints JSON, with every trained timestep
    #[arg(long)]
    json: bool,
    /// Draws it
    #[arg(long, short, value_name = "FILE.svg")]
    output: Option<PathBuf>,
}

/// A noise level: a sample of it is `signal`·x_0 + `noise`·ε.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Level {
    signal: f64,
    noise: f64,
    /// ᾱ = signal² / (signal² + noise²): the share of the picture in the variance.
    alpha_bar: f64,
    /// signal² / noise².
    snr: f64,
    /// noise / signal.
    sigma: f64,
}

impl From<Noising> for Level {
    fn from(Noising { signal, noise }: Noising) -> Self {
        let (s, n) = (signal * signal, noise * noise);
        Self { signal, noise, alpha_bar: s / (s + n), snr: s / n, sigma: noise / signal }
    }
}

/// One of the trained timesteps.
#[derive(Debug, Serialize)]
pub struct Trained {
    timestep: usize,
    beta: f64,
    #[serde(flatten)]
    level: Level,
}

/// One call of the model.
#[derive(Debug, Serialize)]
pub struct Call {
    /// The step that it belongs to, from 1.
    step: usize,
    /// What the model is told.
    timestep: f64,
    /// Factor on the sample before the model sees it.
    input_scale: f64,
    #[serde(flatten)]
    level: Level,
    /// Whether noise is added after it.
    draws_noise: bool,
}

/// All that is shown.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The scheduler's config, with its class.
    scheduler: Value,
    /// Factor on the noise that a run begins with.
    init_noise_sigma: f64,
    /// None for models that count no timesteps.
    trained: Vec<Trained>,
    run: Vec<Call>,
    /// Whether the run chooses its steps itself.
    #[serde(skip)]
    adaptive: bool,
}

/// Runs the command.
///
/// # Errors
/// As the library; nothing is written then.
pub fn run(args: Args) -> Result<()> {
    if let Some(path) = &args.output {
        if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("svg")) {
            return Err(Error::Usage(format!("--output {}: expected a name that ends in .svg", path.display())));
        }
        check_writable(path)?;
    }
    let shown = Shown::of(&Scheduler::new(config(&args)?)?, &Sampling::steps(args.steps))?;
    if let Some(path) = &args.output {
        write_atomic(path, |file| file.write_all(plot::svg(&shown).as_bytes()))?;
    }
    let json = || serde_json::to_string_pretty(&shown).expect("numbers and texts can be written") + "\n";
    print(&if args.json { json() } else { shown.table() });
    Ok(())
}

/// The drawing of what a scheduler does in a run.
///
/// # Errors
/// As [`Scheduler::schedule`].
pub fn drawing(scheduler: &Scheduler, sampling: &Sampling) -> Result<String> {
    Ok(plot::svg(&Shown::of(scheduler, sampling)?))
}

/// The config that is asked for.
fn config(args: &Args) -> Result<SchedulerConfig> {
    let base = match (&args.scheduler_config, &args.model, &args.scheduler) {
        (Some(file), ..) => SchedulerConfig::read(&Json::read(file)?)?,
        (None, None, Some(name)) => {
            // A class by its own name stands for itself, whatever its models are.
            let of_class =
                |name: &str| SchedulerConfig::from_json(&serde_json::json!({"_class_name": name}).to_string());
            return of_class(name).or_else(|_| scheduler_by_name(name, &of_class("DDPMScheduler")?));
        }
        (None, model, _) => {
            let checkpoint = Checkpoint::open(places::find(
                model.as_deref(),
                &["StableDiffusionPipeline", "DDPMPipeline", "DDIMPipeline"],
            )?)?;
            match args.scheduler {
                Some(_) => DiffusionPipeline::training_config(&checkpoint)?,
                None => DiffusionPipeline::scheduler_config(&checkpoint)?,
            }
        }
    };
    match &args.scheduler {
        Some(name) => scheduler_by_name(name, &base),
        None => Ok(base),
    }
}

impl Shown {
    fn of(scheduler: &Scheduler, sampling: &Sampling) -> Result<Self> {
        let schedule = scheduler.schedule(sampling)?;
        let numbers = scheduler.step_numbers(sampling)?;
        let run = schedule.steps.iter().zip(numbers.of_calls).map(|(step, number)| Call {
            step: number,
            timestep: step.timestep,
            input_scale: step.input_scale,
            level: step.add_noise.into(),
            draws_noise: step.draws_noise(),
        });
        let betas = match scheduler.config.class.frame() {
            Frame::Timesteps => &scheduler.noise_schedule.betas[..],
            _ => &[],
        };
        let trained = betas.iter().enumerate().map(|(timestep, beta)| {
            let level = scheduler.noise_schedule.noising(timestep)?.into();
            Ok(Trained { timestep, beta: *beta, level })
        });
        Ok(Self {
            scheduler: scheduler.config.to_json(),
            init_noise_sigma: schedule.init_noise_sigma,
            trained: trained.collect::<Result<_>>()?,
            run: run.collect(),
            adaptive: schedule.adaptive.is_some(),
        })
    }

    /// The class of the scheduler.
    fn class(&self) -> &str {
        self.scheduler["_class_name"].as_str().unwrap_or_default()
    }

    fn table(&self) -> String {
        let mut text = format!("{}\n", self.class());
        match (self.trained.first(), self.trained.last()) {
            (Some(first), Some(last)) => {
                let count = self.trained.len();
                text += &format!(
                    "trained on {count} timesteps: β from {:.6} to {:.6}, ᾱ from {:.6} to {:.6}, \
                     σ from {:.4} to {:.4}\n",
                    first.beta,
                    last.beta,
                    first.level.alpha_bar,
                    last.level.alpha_bar,
                    first.level.sigma,
                    last.level.sigma
                );
            }
            _ => text += "trained on noise levels, not on numbered timesteps\n",
        }
        if self.adaptive {
            text += "a run chooses its steps while it goes; these are hundredths of its way\n";
        }
        text += &format!("a run begins with noise times {:.6}\n\n", self.init_noise_sigma);
        text += &format!(
            "{:>5} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12} {:>9}\n",
            "step", "timestep", "signal", "noise", "ᾱ", "SNR", "σ", "log SNR"
        );
        for call in &self.run {
            let Level { signal, noise, alpha_bar, snr, sigma } = call.level;
            text += &format!(
                "{:>5} {:>10.3} {signal:>10.6} {noise:>10.6} {alpha_bar:>10.6} {snr:>12.6} {sigma:>12.6} {:>9.3}{}\n",
                call.step,
                call.timestep,
                snr.ln(),
                if call.draws_noise { "  then fresh noise" } else { "" }
            );
        }
        text
    }
}
