//! `unmist run`: one forward pass of a component on given tensors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::unused::Unused;
use super::{load_options, traced};
use crate::checkpoint::{Tensors, safetensors};
use crate::error::{Error, Result};
use crate::models::{LoadedModel, NamedTensors, prepare};
use crate::output::{check_writable, is_same_file, write_atomic};
use crate::request::{DeviceRequest, Precision};
use crate::trace;

/// Options of `unmist run`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout, or a single file in the original layout
    #[arg(long, value_name = "DIR|FILE")]
    model: PathBuf,
    /// Which component: unet, vae.encoder, vae.decoder, text_encoder, text_encoder_2
    #[arg(long, default_value = "unet", value_name = "NAME")]
    component: String,
    /// Input tensors, named like the arguments of diffusers' `forward`; pictures are [N, C, H, W]. unet: sample,
    /// timestep, and those the model has of encoder_hidden_states, class_labels, timestep_cond, text_embeds, time_ids.
    /// vae.encoder: sample. vae.decoder: latent. text_encoder: input_ids
    #[arg(long, value_name = "FILE.safetensors")]
    input: PathBuf,
    /// Where the results go. unet, vae.decoder: sample. vae.encoder: mean and logvar, or latents. text_encoder:
    /// hidden_states.N, last_hidden_state, pooler_output, text_embeds
    #[arg(long, value_name = "FILE.safetensors")]
    output: PathBuf,
    /// Storage of weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Also writes what the host and the device did, and when, for https://ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    unused: Unused,
    #[command(flatten)]
    device: DeviceRequest,
}

/// Runs the command.
///
/// # Errors
/// As the library; no results are written then.
pub fn run(args: Args) -> Result<()> {
    check_writable(&args.output)?;
    if args.trace.as_ref().is_some_and(|trace| [&args.output, &args.input].iter().any(|f| is_same_file(f, trace))) {
        return Err(Error::Usage(
            "--trace names a file of the run, which would be overwritten; give another name".into(),
        ));
    }
    traced(args.trace.as_deref(), || pass(&args))
}

fn pass(args: &Args) -> Result<()> {
    let span = trace::span("open the model");
    let LoadedModel { model, weights, .. } = LoadedModel::open(&args.unused.open(&args.model)?, &args.component)?;
    drop(span);

    // 1. inputs, as the graph takes them
    let in_file = |error: Error| match error {
        Error::Shape(m) => Error::Shape(format!("{}: {m}", args.input.display())),
        Error::Usage(m) => Error::Usage(format!("{}: {m}", args.input.display())),
        other => other,
    };
    let file = Tensors::open(&args.input)?;
    let given = file.names().map(|n| Ok((n.to_owned(), file.read_f32(n)?))).collect::<Result<NamedTensors>>()?;
    let (graph, inputs) = prepare(model.as_ref(), given, args.precision.dtype()).map_err(in_file)?;

    // 2. one pass
    let names: Vec<_> = graph.outputs().iter().map(|(name, _)| name.clone()).collect();
    let span = trace::span("open the device");
    let device = args.device.open()?;
    drop(span);
    let mut session = device.load(graph, &weights, &load_options(&args.device, &device)?)?;
    for (name, tensor) in &inputs {
        session.write(name, tensor)?;
    }
    session.run()?;

    // 3. outputs
    let mut outputs = NamedTensors::new();
    for name in names {
        let tensor = model.layout(&name).to_public(session.read(&name)?);
        outputs.insert(name, tensor);
    }
    device.end_trace()?;
    let _span = trace::span("write the results");
    let listed: Vec<_> = outputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata = BTreeMap::from([("device".to_owned(), device.describe())]);
    write_atomic(&args.output, |file| safetensors::write(file, &listed, &metadata))
}
