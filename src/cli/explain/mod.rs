//! `unmist explain`: one run as a page to read, from the noise to the kernels that took it away.

mod code;
mod kinds;
mod nodes;
mod page;
mod sources;

use std::path::PathBuf;

use super::{load_options, say, tell, words};
use crate::error::{Error, Result};
use crate::files::Disk;
use crate::generate::{Inside, Models, Notes, Overlay, in_folder_of, read_inputs, take_from_prompts};
use crate::graph::passes;
use crate::image_io::Picture;
use crate::output::{check_writable, write_atomic};
use crate::pipelines::Runtime;
use crate::request::{Asked, Request};

/// Options of `unmist explain`: a request, and where the page goes.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    request: Request,
    /// The page: everything is in this one file
    #[arg(long, short, default_value = "explain.html", value_name = "FILE.html")]
    output: PathBuf,
}

/// All that the page shows.
struct Explained {
    model: String,
    device: String,
    /// Fields of the request, their values, and where these came from.
    settings: Vec<[String; 3]>,
    picture: Picture,
    inside: Inside,
    /// The noise levels, as a drawing.
    schedule: String,
    nodes: Vec<nodes::Node>,
    kinds: Vec<kinds::Kind>,
}

/// Runs the command.
///
/// # Errors
/// As `unmist sample`; no page is written then.
pub fn run(args: Args) -> Result<()> {
    if args.output.extension().is_none_or(|end| !end.eq_ignore_ascii_case("html")) {
        return Err(Error::Usage(format!("--output {}: expected a name that ends in .html", args.output.display())));
    }
    check_writable(&args.output)?;
    let explained = explain(args.request)?;
    let html = page::html(&explained)?;
    write_atomic(&args.output, |file| file.write_all(html.as_bytes()))
}

fn explain(mut request: Request) -> Result<Explained> {
    let mut notes = Notes::default();
    let given = request.clone();
    take_from_prompts(&mut request, &|name| in_folder_of(&given, name), given.weighting, &mut notes, &mut Err)?;
    tell(&mut notes);
    let models = Models::open(&request, &mut notes);
    tell(&mut notes);
    let mut models = models?;
    let mut resolved = models.resolve(&Asked::from(request), None)?;
    resolved.notes.iter().for_each(|note| say(format_args!("note: {}", words::in_flags(note))));
    let channels = models.model.pipeline.picture_channels();
    let overlay = read_inputs(&mut resolved.options, &resolved.request, channels, &Disk, &mut notes)?;
    tell(&mut notes);

    // 1. the run
    let device = resolved.request.device.open()?;
    say(format_args!("device: {}", device.describe()));
    let load = load_options(&resolved.request.device, &device)?;
    let dtype = resolved.request.precision.unwrap_or_default().dtype();
    let runtime = Runtime::new(&device, &load, dtype);
    let inside = Inside::default();
    let mut watch = inside.watch(&device, &resolved.options);
    let shown = runtime.with_attention().with_activations();
    let latents = models.run(&shown, &resolved, &mut |event| match event {
        crate::generate::Event::Step(mut step) => watch.step(&runtime, &mut step),
        crate::generate::Event::Done => Ok(()),
    })?;
    drop(watch);
    let images = Overlay::apply(overlay.as_ref(), models.decode(&runtime, &latents)?)?;
    models.take_notes(&mut notes);
    tell(&mut notes);

    // 2. its graph, and every operation by itself
    let graphs = models.model.pipeline.graphs(&runtime, &resolved.options)?;
    let (_, graph) = graphs.into_iter().find(|(name, _)| *name == "unet").expect("every run has a step");
    let optimized = passes::optimize(&graph, &load.disabled_passes)?;
    say(format_args!("timing the operations of a step"));
    let nodes = nodes::of(&device, &load, &optimized)?;
    let kinds = kinds::of(&graph, &nodes)?;
    let setting = |setting: &crate::request::Setting| {
        [setting.field.clone(), setting.value.to_string(), setting.origin.to_string()]
    };
    Ok(Explained {
        model: models.model.checkpoint.path().display().to_string(),
        device: device.describe(),
        settings: resolved.settings.iter().map(setting).collect(),
        picture: Picture::from_tensor(&images)?.swap_remove(0),
        schedule: super::schedule::drawing(&models.model.pipeline.scheduler, &resolved.options.sampling)?,
        inside,
        nodes,
        kinds,
    })
}
