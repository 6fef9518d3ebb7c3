//! `unmist verify`: parity with the CPU reference on the user's own device and driver.

use std::path::PathBuf;

use super::options::{DeviceArgs, Precision};
use super::{model_path, print};
use crate::backend::Device;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::graph::{Graph, NodeKind, passes};
use crate::models::{LoadedModel, Model, NamedTensors, Sizes};
use crate::ops::{Fill, registry};
use crate::tensor::DType;
use crate::verify::{CaseResult, Storage, check_case, first_divergence};

/// Rows and columns of the pictures that a model is verified with, at most.
const MAX_SIZE: usize = 64;

/// Options of `unmist verify`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout, or a single file in the original layout [default: a model from weights/]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// Which component of the model: unet, vae.encoder, vae.decoder, text_encoder, text_encoder_2
    #[arg(long, default_value = "unet", value_name = "NAME")]
    component: String,
    /// Only this operation (and no model)
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Storage of the model's weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Kernel`] counting what diverges, after everything was compared and printed.
pub fn run(args: Args) -> Result<()> {
    let Device::Gpu(gpu) = args.device.open()? else {
        return Err(Error::Device("verify compares a graphics adapter with the CPU reference; there is no adapter, or --device reference was given".into()));
    };
    print(&format!("device: {}\n", gpu.describe()));
    let mut failures = operations(&gpu, args.op.as_deref())?;
    if args.op.is_none() {
        failures += usize::from(!model(&args, &gpu)?);
    }
    match failures {
        0 => {
            print("everything agrees with the reference\n");
            Ok(())
        }
        n => {
            Err(Error::Kernel(format!("{n} comparison{} failed on {}", if n == 1 { "" } else { "s" }, gpu.describe())))
        }
    }
}

/// Every operation × variant × case × storage; returns the number of failures.
fn operations(gpu: &GpuDevice, only: Option<&str>) -> Result<usize> {
    let registry = registry();
    let names: Vec<_> = registry.iter().map(|i| i.name).collect();
    if let Some(unknown) = only.filter(|o| !names.contains(o)) {
        return Err(Error::Usage(format!("--op {unknown}: there are {}", names.join(", "))));
    }
    let mut failures = 0;
    for info in registry.iter().filter(|i| only.is_none_or(|o| o == i.name)) {
        for variant in &info.variants {
            let (mut equal, mut unsupported, mut worst) = (0, 0, 0.0f64);
            for (case, storage) in info.cases.iter().flat_map(|c| Storage::ALL.map(|storage| (c, storage))) {
                match check_case(gpu, case, variant, storage) {
                    Ok(CaseResult::Equal(difference)) => {
                        equal += 1;
                        worst = worst.max(if storage == Storage::F32 { difference.relative_l2 } else { 0.0 });
                    }
                    Ok(CaseResult::Unsupported(_)) => unsupported += 1,
                    Err(error @ Error::Device(_)) => return Err(error),
                    Err(error) => {
                        failures += 1;
                        print(&format!(
                            "DIVERGES {} {variant} {} \"{}\": {error}\n",
                            info.name,
                            storage.name(),
                            case.label
                        ));
                    }
                }
            }
            print(&format!(
                "{:<24} {:<12} {equal:>3} cases equal, {unsupported:>3} not for this variant or device, worst f32 error {worst:.1e}\n",
                info.name, variant
            ));
        }
    }
    Ok(failures)
}

/// One forward pass of the model, node by node; true if all agree.
fn model(args: &Args, gpu: &GpuDevice) -> Result<bool> {
    let path = model_path::find_with(args.model.as_deref(), &args.component)?;
    let LoadedModel { model, weights, .. } = LoadedModel::open(&Checkpoint::open(&path)?, &args.component)?;
    let own = model.default_sizes();
    // Enough for every kernel; the reference would take minutes for a picture of full size.
    let sizes = Sizes { batch: 2, height: own.height.min(MAX_SIZE), width: own.width.min(MAX_SIZE), ..own };
    let load = args.device.load_options()?;
    let graph = passes::optimize(&model.graph(&sizes, args.precision.dtype())?, &load.disabled_passes)?;
    let inputs = random_inputs(model.as_ref(), &graph)?;
    let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let bound = match args.precision.dtype() {
        DType::F16 => 1e-2,
        _ => 1e-4,
    };
    match first_divergence(gpu, &graph, &weights, &inputs, &load.plan, bound)? {
        None => {
            print(&format!(
                "{} {}: every intermediate value within {bound:.0e} of the reference\n",
                path.display(),
                args.component
            ));
            Ok(true)
        }
        Some(divergence) => {
            print(&format!(
                "DIVERGES {} {}: first at {} ({}): {}\n",
                path.display(),
                args.component,
                divergence.node,
                divergence.kernels.join(", "),
                divergence.error
            ));
            Ok(false)
        }
    }
}

/// Inputs of the kind that each of the graph's inputs takes.
pub(super) fn random_inputs(model: &dyn Model, graph: &Graph) -> Result<NamedTensors> {
    let mut inputs = NamedTensors::new();
    for (seed, node) in graph.nodes().iter().filter(|n| n.kind == NodeKind::Input).enumerate() {
        let fill = match (model.index_bound(&node.name), node.desc.dtype) {
            (Some(bound), _) => Fill::Index(bound as u32),
            (None, DType::U32) => continue, // follows from the others
            _ if node.name == "timestep" => Fill::Uniform(0.0, 1000.0),
            _ => Fill::Normal,
        };
        inputs.insert(node.name.clone(), fill.tensor(&node.desc.shape, seed as u64 + 1));
    }
    model.complete(&mut inputs)?;
    Ok(inputs)
}
