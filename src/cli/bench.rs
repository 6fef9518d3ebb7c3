//! `unmist bench`: how long one component of a model takes, and where the time goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::model_path::{self, Unused};
use super::verify::random_inputs;
use super::{load_options, print};
use crate::backend::{Device, Session};
use crate::error::{Error, Result};
use crate::gpu::GpuSession;
use crate::graph::{Rate, passes};
use crate::models::{LoadedModel, Sizes};
use crate::ops::Cost;
use crate::plan::{Program, mib};
use crate::request::{DeviceRequest, Precision};

/// Lines of each table.
const TOP: usize = 10;

/// Options of `unmist bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout, or a single file in the original layout [default: a model from weights/]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// Which component: unet, vae.encoder, vae.decoder, text_encoder, text_encoder_2
    #[arg(long, default_value = "unet", value_name = "NAME")]
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
    /// How often the whole is timed; the fastest run counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    runs: usize,
    #[command(flatten)]
    unused: Unused,
    #[command(flatten)]
    device: DeviceRequest,
}

/// Runs the command.
///
/// # Errors
/// As the library; [`Error::Device`] without an adapter.
pub fn run(args: Args) -> Result<()> {
    let Device::Gpu(gpu) = args.device.open()? else {
        return Err(Error::Device(
            "bench times kernels, but there is no adapter, or --device reference was given".into(),
        ));
    };
    // 1. the model on the device
    let path = model_path::find_with(args.model.as_deref(), &args.component)?;
    let LoadedModel { model, weights, .. } = LoadedModel::open(&args.unused.open(&path)?, &args.component)?;
    let own = model.default_sizes();
    let sizes = Sizes {
        batch: args.batch_size,
        height: args.height.unwrap_or(own.height),
        width: args.width.unwrap_or(own.width),
        ..own
    };
    if sizes.batch == 0 || sizes.height == 0 || sizes.width == 0 || args.runs == 0 {
        return Err(Error::Usage("--batch-size, --width, --height and --runs must be above 0".into()));
    }
    let helps = |field: &str| field != "batch_size" || args.batch_size > 1;
    let load = load_options(&args.device, &Device::Gpu(gpu.clone()))?;
    let graph = passes::optimize(&model.graph(&sizes, args.precision.dtype())?, &load.disabled_passes)?;
    load.plan.choice.check_nodes(std::slice::from_ref(&graph))?;
    let program = Arc::new(Program::new(&graph, gpu.caps(), &load.plan).map_err(|error| error.offering(&helps))?);
    let (planned, cost) = (program.resident_bytes(), program.cost(Rate::Step));
    let start = Instant::now();
    let mut session = GpuSession::new(&gpu, program, &weights)?;
    for (name, tensor) in &random_inputs(model.as_ref(), &graph)? {
        session.write(name, tensor)?;
    }
    session.wait()?;
    let allocated = gpu.allocated_bytes().map_or("unknown".into(), mib);
    print(&format!(
        "device: {}\n{}, {} in {}, batch {}, {} x {}: {:.1} GFLOP\nloaded in {:.1} s; memory: {} planned, {allocated} \
        allocated\n",
        gpu.describe(),
        path.display(),
        args.component,
        args.precision.dtype().name(),
        sizes.batch,
        sizes.height,
        sizes.width,
        cost.flops as f64 / 1e9,
        start.elapsed().as_secs_f64(),
        mib(planned),
    ));

    // 2. as a whole
    let mut fastest = Duration::MAX;
    for number in 1..=args.runs {
        let start = Instant::now();
        session.run()?;
        session.wait()?;
        fastest = fastest.min(start.elapsed());
        print(&format!("run {number} of {}: {:.4} s\n", args.runs, start.elapsed().as_secs_f64()));
    }
    print(&format!("fastest: {}\n\n", rates(fastest, cost)));

    // 3. launch by launch
    let times = session.profile()?;
    print(&tables(session.program(), &times));
    Ok(())
}

/// Time, GFLOP/s and GB/s.
fn rates(time: Duration, cost: Cost) -> String {
    let seconds = time.as_secs_f64().max(1e-9);
    format!(
        "{:>11.3} ms {:>9.1} GFLOP/s {:>8.2} GB/s",
        1e3 * seconds,
        cost.flops as f64 / 1e9 / seconds,
        cost.bytes as f64 / 1e9 / seconds
    )
}

/// The kernels and the nodes that take most of the time.
fn tables(program: &Program, times: &[Duration]) -> String {
    let total: Duration = times.iter().sum();
    let mut kernels: BTreeMap<&str, (usize, Duration, Cost)> = BTreeMap::new();
    let mut nodes: BTreeMap<usize, (Duration, Cost)> = BTreeMap::new();
    for (launch, time) in program.step.iter().zip(times) {
        let kernel = kernels.entry(program.kernels[launch.kernel].name.as_str()).or_default();
        *kernel = (kernel.0 + 1, kernel.1 + *time, kernel.2 + launch.cost);
        let node = nodes.entry(launch.value).or_default();
        *node = (node.0 + *time, node.1 + launch.cost);
    }
    let share = |time: Duration| 100.0 * time.as_secs_f64() / total.as_secs_f64().max(1e-9);
    let mut text =
        format!("all {} launches one by one: {:.3} ms; by kernel:\n", times.len(), 1e3 * total.as_secs_f64());
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by_key(|(_, (_, time, _))| std::cmp::Reverse(*time));
    for (name, (launches, time, cost)) in kernels.into_iter().take(TOP) {
        text += &format!("{:5.1} % {}  {name}, {launches} launches\n", share(time), rates(time, cost));
    }
    text += "by operation:\n";
    let mut nodes: Vec<_> = nodes.into_iter().collect();
    nodes.sort_by_key(|(_, (time, _))| std::cmp::Reverse(*time));
    for (index, (time, cost)) in nodes.into_iter().take(TOP) {
        let value = &program.values[index];
        let variant = program.step.iter().find(|launch| launch.value == index).map_or("", |l| l.variant.as_str());
        text += &format!(
            "{:5.1} % {}  {} {} by {variant} -> {}\n",
            share(time),
            rates(time, cost),
            value.name,
            value.op,
            value.label()
        );
    }
    text
}
