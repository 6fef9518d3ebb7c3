//! `unmist verify`: parity with the CPU reference on the user's own device and driver.

use std::path::PathBuf;

use super::unused::Unused;
use super::{load_options, print};
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::generate::places;
use crate::gpu::GpuDevice;
use crate::graph::{Graph, NodeKind, passes};
use crate::models::{LoadedModel, Model, NamedTensors, Sizes};
use crate::ops::{Fill, Info, Size, registry};
use crate::request::{DeviceRequest, Precision};
use crate::tensor::DType;
use crate::verify::{Selection, first_divergence, sweep};

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
    /// Only these operations, and no model
    #[arg(long, alias = "op", value_name = "NAME", value_delimiter = ',')]
    operation: Vec<String>,
    /// Only this kernel variant of the operations, and no model
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Only cases that launch this kernel (path below wgsl/ without extension, e.g. contraction/1_naive), and no model
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Sizes of the operations' cases. Small ones run checked, unchecked and with folded dispatches; large and perf
    /// ones as users run them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "small")]
    size: Vec<SizeArg>,
    /// Stop at the first comparison that fails
    #[arg(long)]
    stop_at_first: bool,
    /// Storage of the model's weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    #[command(flatten)]
    unused: Unused,
    #[command(flatten)]
    device: DeviceRequest,
}

/// Sizes of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SizeArg {
    /// Odd, asymmetric, one more or less than a tile
    Small,
    /// The longest sums and largest dispatches
    Large,
    /// Shapes of real models
    Perf,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Kernel`] counting what diverges, after everything was compared and printed.
pub fn run(args: Args) -> Result<()> {
    let Device::Gpu(gpu) = args.device.open()? else {
        return Err(Error::Device(
            "verify compares a graphics adapter with the CPU reference, but there is no adapter, \
            or --device reference was given"
                .into(),
        ));
    };
    print(&format!("device: {}\n", gpu.describe()));
    let mut failures = operations(&gpu, &args)?;
    let all = args.operation.is_empty() && args.variant.is_none() && args.kernel.is_none();
    if all && !(failures > 0 && args.stop_at_first) {
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

/// Checks the chosen operations: every case × storage × variant × way to run; returns the number of failures.
fn operations(gpu: &GpuDevice, args: &Args) -> Result<usize> {
    let mut sizes = Vec::new();
    for size in &args.size {
        sizes.push(match size {
            SizeArg::Small => Size::Small,
            SizeArg::Large => Size::Large,
            SizeArg::Perf => Size::Perf,
        });
    }
    let selection = Selection {
        sizes: &sizes,
        variant: args.variant.as_deref(),
        kernel: args.kernel.as_deref(),
        stop_at_first: args.stop_at_first,
        thorough: true,
    };
    let (mut failures, mut compared) = (0, 0);
    for info in chosen(args)? {
        let mut report = |failure| {
            failures += 1;
            print(&format!("DIVERGES {failure}\n"));
        };
        for summary in sweep(gpu, &info, selection, &mut report)? {
            compared += summary.equal;
            print(&format!(
                "{:<24} {:<16} {:>4} comparisons equal, {:>3} cases not for this variant or device, worst f32 error \
                {:.1e}\n",
                info.name, summary.variant, summary.equal, summary.unsupported, summary.worst
            ));
        }
        if failures > 0 && args.stop_at_first {
            break;
        }
    }
    if failures + compared == 0 {
        return Err(Error::Usage(
            "no case of these operations has this --size, launches this --kernel and runs on this device".into(),
        ));
    }
    Ok(failures)
}

/// The operations that `--operation` and `--variant` name; without them, all.
fn chosen(args: &Args) -> Result<Vec<Info>> {
    let mut registry = registry();
    let names: Vec<_> = registry.iter().map(|i| i.name).collect();
    let is_called = |info: &Info, name: &String| info.name == name || info.aliases.contains(&name.as_str());
    if let Some(unknown) = args.operation.iter().find(|o| !registry.iter().any(|i| is_called(i, o))) {
        return Err(Error::Usage(format!("--operation {unknown}: there are {}", names.join(", "))));
    }
    registry.retain(|i| args.operation.is_empty() || args.operation.iter().any(|o| is_called(i, o)));
    if let Some(variant) = args.variant.as_deref() {
        let mut known: Vec<_> = registry.iter().flat_map(|i| i.variants.iter().copied()).collect();
        if !known.contains(&variant) {
            known.sort_unstable();
            known.dedup();
            return Err(Error::Usage(format!("--variant {variant}: these operations have {}", known.join(", "))));
        }
        registry.retain(|i| i.variants.contains(&variant));
    }
    if let Some(kernel) = args.kernel.as_deref()
        && !crate::kernel::kernels().any(|(name, _)| name == kernel)
    {
        return Err(Error::Usage(format!("--kernel {kernel}: there is no wgsl/{kernel}.wgsl")));
    }
    Ok(registry)
}

/// One forward pass of the model, node by node; true if all agree.
fn model(args: &Args, gpu: &GpuDevice) -> Result<bool> {
    let path = places::find_with(args.model.as_deref(), &args.component)?;
    let LoadedModel { model, weights, .. } = LoadedModel::open(&args.unused.open(&path)?, &args.component)?;
    let own = model.default_sizes();
    // Large enough for every kernel; the reference would take minutes for a picture of full size.
    let sizes = Sizes { batch: 2, height: own.height.min(MAX_SIZE), width: own.width.min(MAX_SIZE), ..own };
    let load = load_options(&args.device, &Device::Gpu(gpu.clone()))?;
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

/// Values that suit each of the graph's inputs.
pub(super) fn random_inputs(model: &dyn Model, graph: &Graph) -> Result<NamedTensors> {
    let mut inputs = NamedTensors::new();
    for (seed, node) in graph.nodes().iter().filter(|n| matches!(n.kind, NodeKind::Input(_))).enumerate() {
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
