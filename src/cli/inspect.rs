//! `unmist inspect`: what is understood of a model, without running it.

use std::path::PathBuf;

use super::options::{DeviceArgs, Precision};
use super::{model_path, print};
use crate::backend::Device;
use crate::caps::Caps;
use crate::checkpoint::{Folder, Weights};
use crate::error::Result;
use crate::graph::passes;
use crate::models::UNet2DModel;
use crate::plan::Plan;

/// Options of `unmist inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout [default: a model from weights/]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Pictures at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch_size: usize,
    /// Columns [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    width: Option<usize>,
    /// Rows [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    height: Option<usize>,
    /// Storage of weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
///
/// # Errors
/// As the library.
pub fn run(args: Args) -> Result<()> {
    let path = model_path::find(args.model.as_deref(), &["DDPMPipeline", "DDIMPipeline"])?;
    let component = Folder::open(&path)?.component("unet")?;
    let model = UNet2DModel::from_json(&component.config)?;
    let weights = Weights::new(component.tensors, &model.parameters()?)?;
    let size = model.config.sample_size.unwrap_or((32, 32));
    let (height, width) = (args.height.unwrap_or(size.0), args.width.unwrap_or(size.1));
    let load = args.device.load_options()?;
    let (caps, device) = match args.device.open()? {
        Device::Gpu(gpu) => (gpu.caps().clone(), gpu.describe()),
        Device::Reference => {
            (Caps::webgpu_minimum(), "no adapter: planned for the least that WebGPU guarantees".to_owned())
        }
    };
    let graph =
        passes::optimize(&model.graph(args.batch_size, height, width, args.precision.dtype())?, &load.disabled_passes)?;
    let plan = Plan::new(&graph, &caps, &load.plan)?;
    if args.json {
        let steps: Vec<_> = plan
            .steps
            .iter()
            .map(|s| {
                let desc = graph.desc(s.value);
                serde_json::json!({
                    "node": s.name, "kernel": plan.kernels[s.kernel].key.name, "shape": desc.shape, "dtype": desc.dtype.name(),
                    "workgroups": s.workgroups, "flops": s.cost.flops, "bytes": s.cost.bytes,
                })
            })
            .collect();
        let json = serde_json::json!({
            "model": path, "class": component.class_name, "config": component.config.value, "parameters": weights.parameters(), "device": device,
            "graph": graph.to_string().lines().collect::<Vec<_>>(), "plan": steps, "summary": plan.summary(),
        });
        print(&format!("{json:#}\n"));
        return Ok(());
    }
    print(&format!(
        "model {}\nparameters {}\nconfig {:#?}\n\ngraph after the passes, {} x {} x {width} x {height}:\n{graph}\nplan for {device}:\n{plan}",
        path.display(),
        weights.parameters(),
        model.config,
        args.batch_size,
        model.config.in_channels
    ));
    Ok(())
}
