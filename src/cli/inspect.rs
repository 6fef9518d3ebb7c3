//! `unmist inspect`: what is understood of a model, without running it.

use std::path::PathBuf;

use super::options::{DeviceArgs, Precision};
use super::{model_path, print};
use crate::backend::Device;
use crate::caps::Caps;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::graph::passes;
use crate::models::{LoadedModel, Sizes};
use crate::plan::Plan;

/// Options of `unmist inspect`.
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
    let path = model_path::find_with(args.model.as_deref(), &args.component)?;
    let LoadedModel { class_name, config, model, weights } =
        LoadedModel::open(&Checkpoint::open(&path)?, &args.component)?;
    let own = model.default_sizes();
    let sizes = Sizes {
        batch: args.batch_size,
        height: args.height.unwrap_or(own.height),
        width: args.width.unwrap_or(own.width),
        ..own
    };
    if sizes.batch == 0 || sizes.height == 0 || sizes.width == 0 {
        return Err(Error::Usage("--batch-size, --width and --height must be above 0".into()));
    }
    let load = args.device.load_options()?;
    let (caps, device) = match args.device.open()? {
        Device::Gpu(gpu) => (gpu.caps().clone(), gpu.describe()),
        Device::Reference => {
            (Caps::webgpu_minimum(), "no adapter: planned for the least that WebGPU guarantees".to_owned())
        }
    };
    let graph = passes::optimize(&model.graph(&sizes, args.precision.dtype())?, &load.disabled_passes)?;
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
            "model": path, "component": args.component, "class": class_name, "config": config.value, "parameters": weights.parameters(),
            "device": device, "graph": graph.to_string().lines().collect::<Vec<_>>(), "plan": steps, "summary": plan.summary(),
        });
        print(&format!("{json:#}\n"));
        return Ok(());
    }
    print(&format!(
        "model {}, {}\nparameters {}\n{model:#?}\n\ngraph after the passes:\n{graph}\nplan for {device}:\n{plan}",
        path.display(),
        args.component,
        weights.parameters(),
    ));
    Ok(())
}
