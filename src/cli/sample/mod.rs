//! `unmist sample`: makes pictures.

mod args;
mod classes;
mod prompts;
mod reporter;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;

pub use args::Args;

use super::model_path;
use crate::backend::Device;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::image_io::{Picture, grid, write_png, write_tensor};
use crate::output::{check_writable, numbered};
use crate::pipelines::STABLE_DIFFUSION_PIPELINES;
use crate::schedulers::{Scheduler, SchedulerConfig, scheduler_by_name};

/// Pipelines without text that this command runs.
const CLASSES: &[&str] = &["DDPMPipeline", "DDIMPipeline"];

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
        prompts::from_text(&args, &checkpoint, scheduler)?
    } else {
        classes::from_classes(&args, &checkpoint, scheduler)?
    };

    let settings = settings::settings(&args, &path, &config, images.shape[3], images.shape[2]);
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
