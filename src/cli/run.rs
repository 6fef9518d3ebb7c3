//! `unmist run`: one forward pass of a component on given tensors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::options::{DeviceArgs, Precision};
use crate::checkpoint::{Folder, Tensors, Weights, safetensors};
use crate::error::{Error, Result};
use crate::models::UNet2DModel;
use crate::output::{check_writable, write_atomic};
use crate::tensor::HostTensor;

/// Options of `unmist run`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Which component
    #[arg(long, default_value = "unet", value_name = "NAME")]
    component: String,
    /// Input tensors, named as the arguments of diffusers' `forward`: `sample` [N, C, H, W], `timestep`, `class_labels`
    #[arg(long, value_name = "FILE.safetensors")]
    input: PathBuf,
    /// Where the result goes: tensor `sample` [N, C, H, W]
    #[arg(long, value_name = "FILE.safetensors")]
    output: PathBuf,
    /// Storage of weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
///
/// # Errors
/// As the library; nothing is written then.
pub fn run(args: Args) -> Result<()> {
    check_writable(&args.output)?;
    let folder = Folder::open(&args.model)?;
    let component = folder.component(&args.component)?;
    let inputs = Tensors::open(&args.input)?;
    let model = UNet2DModel::from_json(&component.config)?;
    let weights = Weights::new(component.tensors, &model.parameters()?)?;

    // 1. inputs, as the graph takes them
    let given =
        |name: &str| -> Result<Option<HostTensor>> { inputs.info(name).map(|_| inputs.read_f32(name)).transpose() };
    let missing = |name: &str| Error::Usage(format!("{}: there is no tensor `{name}`", args.input.display()));
    let sample = given("sample")?.ok_or_else(|| missing("sample"))?;
    let &[batch, channels, height, width] = sample.shape.as_slice() else {
        return Err(Error::Shape(format!(
            "{}: sample must be [N, C, H, W], found {:?}",
            args.input.display(),
            sample.shape
        )));
    };
    if channels != model.config.in_channels || batch == 0 {
        return Err(Error::Shape(format!(
            "{}: sample must be [N, {}, H, W] with N above 0, found {:?}",
            args.input.display(),
            model.config.in_channels,
            sample.shape
        )));
    }
    let timestep = broadcast(given("timestep")?.ok_or_else(|| missing("timestep"))?, batch)?;
    let labels = match model.class_labels_desc(batch) {
        Some(_) => Some(given("class_labels")?.ok_or_else(|| missing("class_labels"))?),
        None => None,
    };
    let known = ["sample", "timestep", "class_labels"];
    if let Some(unknown) = inputs.names().find(|n| !known.contains(n)) {
        return Err(Error::Usage(format!(
            "{}: tensor `{unknown}` is no input of this component; it takes {}",
            args.input.display(),
            known.join(", ")
        )));
    }
    if labels.is_none() && inputs.info("class_labels").is_some() {
        return Err(Error::Usage(format!(
            "{}: class_labels are given, but the model has no classes",
            args.input.display()
        )));
    }
    if let (Some(labels), crate::models::ClassEmbedding::Table(rows)) = (&labels, model.config.class_embedding)
        && let Some(bad) = labels.data.iter().find(|l| l.fract() != 0.0 || **l < 0.0 || **l >= rows as f32)
    {
        return Err(Error::Usage(format!(
            "{}: class_labels holds {bad}; this model has classes 0 to {}",
            args.input.display(),
            rows - 1
        )));
    }

    // 2. one pass
    let graph = model.graph(batch, height, width, args.precision.dtype())?;
    let device = args.device.open()?;
    let mut session = device.load(graph, &weights, &args.device.load_options()?)?;
    session.write("sample", &sample.nchw_to_nhwc()?)?;
    session.write("timestep", &timestep)?;
    if let Some(labels) = labels {
        session.write("class_labels", &labels)?;
    }
    session.run()?;
    let out = session.read("sample")?.nhwc_to_nchw()?;
    let metadata = BTreeMap::from([("device".to_owned(), device.describe())]);
    write_atomic(&args.output, |file| safetensors::write(file, &[("sample", &out)], &metadata))
}

/// A scalar or a single value for every picture of the batch.
fn broadcast(timestep: HostTensor, batch: usize) -> Result<HostTensor> {
    match timestep.data.as_slice() {
        [one] => Ok(HostTensor { shape: vec![batch], data: vec![*one; batch] }),
        many if many.len() == batch && timestep.shape.len() == 1 => Ok(timestep),
        _ => Err(Error::Shape(format!("timestep must be one number or [{batch}], found shape {:?}", timestep.shape))),
    }
}
