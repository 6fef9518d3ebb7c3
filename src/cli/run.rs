//! `unmist run`: one forward pass of a component on given tensors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::load_options;
use super::model_path::Unused;
use crate::checkpoint::{Tensors, safetensors};
use crate::error::{Error, Result};
use crate::models::{LoadedModel, NamedTensors, prepare};
use crate::output::{check_writable, write_atomic};
use crate::request::{DeviceRequest, Precision};

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
    #[command(flatten)]
    unused: Unused,
    #[command(flatten)]
    device: DeviceRequest,
}

/// Runs the command.
///
/// # Errors
/// As the library; nothing is written then.
pub fn run(args: Args) -> Result<()> {
    check_writable(&args.output)?;
    let LoadedModel { model, weights, .. } = LoadedModel::open(&args.unused.open(&args.model)?, &args.component)?;

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
    let device = args.device.open()?;
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
    let listed: Vec<_> = outputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata = BTreeMap::from([("device".to_owned(), device.describe())]);
    write_atomic(&args.output, |file| safetensors::write(file, &listed, &metadata))
}
