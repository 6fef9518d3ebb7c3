//! `unmist bench`: what this device can do, what a model makes of it, and where the time goes; two such runs compared;
//! one operation in all its variants, or someone's own kernel beside them.

mod attributes;
mod diff;
mod html;
mod lab;
mod model;
mod picture;
mod plot;
mod table;
mod write;

pub use html::escaped;

use std::path::PathBuf;

use super::unused::Unused;
use crate::backend::{Device, LoadOptions};
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::measure::{Effort, Report};
use crate::models::Preset;
use crate::request::{DeviceRequest, Precision};

/// Options of `unmist bench`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Model folder in diffusers' layout, or a single file in the original layout [default: a model from weights/]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// A well-known model in place of --model, with random weights
    #[arg(long, value_enum, conflicts_with = "model")]
    preset: Option<Preset>,
    /// Which component: unet, vae.encoder, vae.decoder, text_encoder, text_encoder_2
    #[arg(long, default_value = "unet", value_name = "NAME", conflicts_with = "preset")]
    component: String,
    /// Pictures or texts at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch_size: usize,
    /// Columns of the picture or latent that goes in [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    width: Option<usize>,
    /// Rows of the picture or latent that goes in [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    height: Option<usize>,
    /// Storage of weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Only these operations, by name or alias
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    operation: Vec<String>,
    /// How often the whole step is timed at least
    #[arg(long, default_value_t = 3, value_name = "N")]
    runs: usize,
    /// Time for each operation, if it is not known to 1 % before; at least five samples are taken
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    seconds: f64,
    /// Operations are not compared with the reference before they are timed
    #[arg(long)]
    no_check: bool,
    /// A whole picture in this many steps: made, of a model that paints; of a preset, what its step and the
    /// autoencoder's decoder add up to
    #[arg(long, value_name = "STEPS")]
    picture: Option<usize>,
    /// Every operation, not only those that take most of the time
    #[arg(long)]
    all: bool,
    /// Writes everything, with all samples: for `bench diff`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the operations as a table
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Writes a page with a roofline plot
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    lab: lab::Args,
    #[command(flatten)]
    unused: Unused,
    #[command(flatten)]
    device: DeviceRequest,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Compares two files that --json wrote, operation by operation
    Diff(diff::Args),
}

/// Runs the command.
///
/// # Errors
/// As the library; [`Error::Device`] without an adapter; [`Error::Kernel`] counting what differs from the reference,
/// after everything was timed and printed.
pub fn run(args: Args) -> Result<()> {
    if let Some(Command::Diff(args)) = &args.command {
        return diff::run(args);
    }
    if args.batch_size == 0 || args.width == Some(0) || args.height == Some(0) || args.runs == 0 {
        return Err(Error::Usage("--batch-size, --width, --height and --runs must be above 0".into()));
    }
    if args.picture == Some(0) {
        return Err(Error::Usage("--picture must be above 0".into()));
    }
    if !(args.seconds >= 0.0 && args.seconds.is_finite()) {
        return Err(Error::Usage(format!("--seconds {}: expected a number, 0 or above", args.seconds)));
    }
    write::check(&args)?;
    if args.lab.is_asked_for() { lab::run(&args) } else { model::run(&args) }
}

impl Args {
    /// Opens the device, and says what the user should know of how kernels are chosen for it.
    fn open_device(&self) -> Result<GpuDevice> {
        match self.device.open()? {
            Device::Gpu(gpu) => {
                super::load_options(&self.device, &Device::Gpu(gpu.clone()))?;
                Ok(gpu)
            }
            Device::Reference => Err(Error::Device(
                "bench times kernels, but there is no adapter, or --device reference was given".into(),
            )),
        }
    }

    /// How graphs are prepared.
    fn load_options(&self, gpu: &GpuDevice) -> Result<LoadOptions> {
        Ok(self.device.load_options(&Device::Gpu(gpu.clone()))?.0)
    }

    /// How long an operation is timed.
    fn effort(&self) -> Effort {
        Effort { seconds: self.seconds, ..Effort::default() }
    }
}

/// Reports operations whose results were wrong.
fn refuse_wrong(report: &Report) -> Result<()> {
    let wrong = report.operations.iter().filter(|o| matches!(o.check, crate::measure::Check::Wrong(_))).count();
    match wrong {
        0 => Ok(()),
        n => Err(Error::Kernel(format!(
            "{n} of {} results differ from the reference on {}",
            report.operations.len(),
            report.device
        ))),
    }
}
