//! `unmist verify`: parity with the CPU reference on the user's own device and driver.

use std::path::PathBuf;

use super::options::{DeviceArgs, Precision};
use super::{model_path, print};
use crate::backend::Device;
use crate::checkpoint::{Folder, Weights};
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::graph::passes;
use crate::models::{ClassEmbedding, UNet2DModel};
use crate::ops::{Fill, registry};
use crate::tensor::{DType, HostTensor};
use crate::verify::{CaseResult, check_case, first_divergence};

/// Options of `unmist verify`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout [default: a model from weights/]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
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

/// Every operation × variant × case × element type; returns the number of failures.
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
            for (case, dtype) in info.cases.iter().flat_map(|c| [(c, DType::F32), (c, DType::F16)]) {
                match check_case(gpu, case, variant, dtype) {
                    Ok(CaseResult::Equal(difference)) => {
                        equal += 1;
                        worst = worst.max(if dtype == DType::F32 { difference.relative_l2 } else { 0.0 });
                    }
                    Ok(CaseResult::Unsupported(_)) => unsupported += 1,
                    Err(error @ Error::Device(_)) => return Err(error),
                    Err(error) => {
                        failures += 1;
                        print(&format!(
                            "DIVERGES {} {variant} {} \"{}\": {error}\n",
                            info.name,
                            dtype.name(),
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
    let path = model_path::find(args.model.as_deref(), &["DDPMPipeline", "DDIMPipeline"])?;
    let component = Folder::open(&path)?.component("unet")?;
    let model = UNet2DModel::from_json(&component.config)?;
    let weights = Weights::new(component.tensors, &model.parameters()?)?;
    let (height, width) = model.config.sample_size.unwrap_or((32, 32));
    let load = args.device.load_options()?;
    let graph = passes::optimize(&model.graph(2, height, width, args.precision.dtype())?, &load.disabled_passes)?;
    let mut inputs = vec![
        ("sample", Fill::Normal.tensor(&[2, height, width, model.config.in_channels], 1)),
        ("timestep", HostTensor { shape: vec![2], data: vec![981.0, 17.0] }),
    ];
    if let Some(desc) = model.class_labels_desc(2) {
        let fill = match model.config.class_embedding {
            ClassEmbedding::Table(rows) => Fill::Index(rows as u32),
            _ => Fill::Normal,
        };
        inputs.push(("class_labels", fill.tensor(&desc.shape, 2)));
    }
    let bound = match args.precision.dtype() {
        DType::F16 => 1e-2,
        _ => 1e-4,
    };
    match first_divergence(gpu, &graph, &weights, &inputs, &load.plan, bound)? {
        None => {
            print(&format!("{}: every intermediate value within {bound:.0e} of the reference\n", path.display()));
            Ok(true)
        }
        Some(divergence) => {
            print(&format!(
                "DIVERGES {}: first at {} ({}): {}\n",
                path.display(),
                divergence.node,
                divergence.kernels.join(", "),
                divergence.error
            ));
            Ok(false)
        }
    }
}
