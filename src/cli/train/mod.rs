//! `unmist train`: trains a model on pictures, every gradient in WGSL.

mod data;
mod events;
mod output;
mod run;
mod settings;
mod word;

use std::path::PathBuf;

use super::{load_options, print, say, traced};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::generate::{Models, Notes};
use crate::image_io::{Picture, grid, write_png};
use crate::pipelines::{DiffusionPipeline, Kind, Runtime};
use crate::request::{Asked, DeviceRequest, Request};
use crate::schedulers::Scheduler;
use crate::tensor::DType;
use output::Start;
use run::Run;
use settings::Settings;

/// Options of `unmist train`.
#[derive(clap::Args)]
pub struct Args {
    /// File of settings, by the names of the flags with `_` for `-`; flags go before it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// Also writes what the host and the device did, and when, for https://ui.perfetto.dev or chrome://tracing: for
    /// runs of a few steps
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceRequest,
}

/// Runs the command.
///
/// # Errors
/// As the library.
pub fn run(args: Args) -> Result<()> {
    let trace = args.trace.clone();
    traced(trace.as_deref(), || train(args))
}

fn train(args: Args) -> Result<()> {
    let file = args.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
    let settings = args.settings.clone().or(file);
    settings.check()?;
    let model = Settings::required("model", &settings.model)?;
    let train_data = Settings::required("train-data", &settings.train_data)?;
    let output = Settings::required("output", &settings.output)?;
    let resume = settings.resume == Some(true);

    // 1. everything that can be wrong, before anything is written
    if resume {
        output::read_state(output)?;
    }
    let adapter = settings.beside();
    let checkpoint = Checkpoint::open(if resume && !adapter { output } else { model })?;
    if resume && !adapter {
        output::check_architecture(&Checkpoint::open(model)?, &checkpoint)?;
    }
    let scheduler = Scheduler::new(DiffusionPipeline::training_config(&checkpoint)?)?;
    let random = settings.from_scratch == Some(true);
    let look = |checkpoint: &Checkpoint, scheduler: Scheduler| DiffusionPipeline::load(checkpoint, scheduler);
    let mut fresh = None;
    if !resume {
        if !random {
            look(&checkpoint, scheduler.clone())?;
        }
        fresh = Some(output::Fresh::of(output));
        let start = match (adapter, random) {
            (true, _) => Start::Adapter,
            (false, true) => Start::Random(settings.seed.unwrap_or(0)),
            (false, false) => Start::Trained,
        };
        output::begin(model, output, start)?;
    }
    let checkpoint = if adapter { checkpoint } else { Checkpoint::open(output)? };
    let checkpoint = match &settings.placeholder_token {
        Some(word) => {
            if !resume {
                word::begin(&checkpoint, output, word, &settings)?;
            }
            word::known_to(checkpoint, output)?
        }
        None => checkpoint,
    };
    let pipeline = look(&checkpoint, scheduler)?;
    let channels = match pipeline.traits.kind {
        Kind::Pixels => pipeline.sample_channels(),
        _ => 3,
    };
    if channels != 1 && channels != 3 {
        let path = model.display();
        return Err(Error::Unsupported(format!("{path}: a model on {channels} channels; pictures have 1 or 3")));
    }
    let size = settings.resolution.map(|side| (side, side)).or(pipeline.traits.own_size);
    let caption = settings.placeholder_token.as_ref().map(|word| format!("a picture of {word}"));
    let shape = data::Shape { channels, size, crop: settings.crop, caption };
    let items = data::read(train_data, &pipeline.traits, &shape)?;
    let first = &items[0].picture;
    let size = size.unwrap_or((first.height, first.width));

    // 2. the run
    let device = args.device.open()?;
    say(format_args!("device: {}", device.describe()));
    let load = load_options(&args.device, &device)?;
    let runtime = Runtime::new(&device, &load, DType::F32);
    let run = Run { settings: &settings, pipeline: &pipeline, runtime, items: &items, output, size };
    let loss = run.run(&mut || fresh.iter_mut().for_each(output::Fresh::keep))?;
    print(&format!("{}: loss {loss:.5} at the end\n", output.display()));
    device.end_trace()
}

/// Draws pictures with what was trained so far: two of each of the first classes, or one for each of four captions.
/// Returns the file and what is in it.
///
/// # Errors
/// As `unmist sample`.
fn draw(run: &Run<'_>, step: usize) -> Result<(PathBuf, Picture)> {
    let folder = run.output.join("samples");
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let [lora, word] = [run.settings.lora_rank.is_some(), run.settings.placeholder_token.is_some()];
    let classes = run.pipeline.traits.classes.map_or(0, |classes| classes.saturating_sub(1).min(10));
    let captions: Vec<String> = run.items.iter().filter_map(|item| item.caption.clone()).take(4).collect();
    let pictures = if classes > 0 { 2 * classes } else { 4 };
    let request = Request {
        model: if lora || word { run.settings.model.clone() } else { Some(run.output.to_owned()) },
        embedding: if word { vec![run.output.join(output::WORD).display().to_string()] } else { Vec::new() },
        lora: if lora { vec![run.output.join(output::LORA).display().to_string()] } else { Vec::new() },
        class: (0..classes).cycle().take(if classes > 0 { pictures } else { 0 }).collect(),
        batch_size: if captions.is_empty() { Some(pictures) } else { None },
        prompt: captions,
        seed: vec![run.settings.seed.unwrap_or(0)],
        ..Request::default()
    };
    let mut notes = Notes::default();
    let asked = Asked { request, past: None };
    let mut models = Models::open(&asked.merged()?, &mut notes)?;
    let resolved = models.resolve(&asked, None)?;
    let latents = models.run(&run.runtime, &resolved, &mut |_| Ok(()))?;
    let images = models.decode(&run.runtime, &latents)?;
    let pictures = Picture::from_tensor(&images)?;
    let columns = if classes > 0 { Some(classes) } else { None };
    let path = folder.join(format!("step-{step:06}.png"));
    let grid = grid(&pictures, columns)?;
    write_png(&path, &grid, &[])?;
    Ok((path, grid))
}
