//! `unmist inspect`: what unmist understands of a model, without running it.

mod files;

use std::path::PathBuf;
use std::sync::Arc;

use super::{load_options, print, words};
use crate::backend::Device;
use crate::caps::Caps;
use crate::checkpoint::{Checkpoint, Ignore};
use crate::error::{Error, Result};
use crate::generate::places;
use crate::graph::{Rate, passes};
use crate::models::{LoadedModel, Sizes};
use crate::pipelines::{DiffusionPipeline, Runtime, STABLE_DIFFUSION_PIPELINES, SampleOptions, Tiling};
use crate::plan::{self, Decision, Program};
use crate::request::{DeviceRequest, Precision};
use crate::schedulers::Scheduler;

/// Options of `unmist inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout, or a single file in the original layout [default: a model from weights/]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// Which component: unet, vae.encoder, vae.decoder, text_encoder, text_encoder_2 [default: unet; of a model that
    /// takes a prompt, the memory of all of them]
    #[arg(long, value_name = "NAME")]
    component: Option<String>,
    /// Pictures or texts at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch_size: usize,
    /// Columns of the picture or latent that goes into the component; without --component, of the finished picture
    /// [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    width: Option<usize>,
    /// Rows, likewise [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    height: Option<usize>,
    /// Storage of weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Whether the autoencoder works in tiles: where the whole does not fit (auto), always, never, or in tiles of this
    /// many pixels
    #[arg(long, default_value = "auto", value_name = "auto|on|off|PIXELS")]
    vae_tiling: Tiling,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceRequest,
}

/// Runs the command.
///
/// # Errors
/// As the library.
pub fn run(args: Args) -> Result<()> {
    let component = args.component.as_deref().unwrap_or("unet");
    let path = places::find_with(args.model.as_deref(), component)?;
    // It is only looked at: what no model asks for is shown.
    let ignore = Arc::new(Ignore::new(&["*".to_owned()]));
    let checkpoint = Checkpoint::open(&path)?.with_ignored(ignore.clone());
    let text = checkpoint.pipeline_class().is_some_and(|class| STABLE_DIFFUSION_PIPELINES.contains(&class));
    // A folder may hold only some of the components.
    let has = |name: &str| checkpoint.component_names().iter().any(|n| n == name);
    let whole =
        has("unet") && (has("vae") || has("vqvae")) && (has("bert") || has("text_encoder") || has("text_encoder_2"));
    if args.component.is_none() && text && whole {
        return pipeline(&args, &checkpoint, &ignore);
    }
    if args.component.is_none() && checkpoint.single_file().is_some() {
        let files = files::Account::of(&checkpoint, &ignore)?;
        print(&if args.json { format!("{:#}\n", files.to_json()) } else { files.to_string() });
        return Ok(());
    }
    let LoadedModel { class_name, config, model, weights } = LoadedModel::open(&checkpoint, component)?;
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
    let helps = |field: &str| field != "batch_size" || args.batch_size > 1;
    let device = args.device.open()?;
    let load = load_options(&args.device, &device)?;
    let (caps, device) = match device {
        Device::Gpu(gpu) => (gpu.caps().clone(), gpu.describe()),
        Device::Reference => {
            (Caps::webgpu_minimum(), "no adapter: planned for the least that WebGPU guarantees".to_owned())
        }
    };
    let graph = passes::optimize(&model.graph(&sizes, args.precision.dtype())?, &load.disabled_passes)?;
    load.plan.choice.check_nodes(std::slice::from_ref(&graph))?;
    let program = Program::new(&graph, &caps, &load.plan).map_err(|error| error.offering(&helps))?;
    let choices = plan::explain(&graph, &caps, &load.plan.choice)?;
    if args.json {
        let choices: Vec<_> =
            choices.iter().map(|(node, decision)| serde_json::json!({"node": node, "decision": decision})).collect();
        let launches: Vec<_> = Rate::ALL
            .into_iter()
            .flat_map(|rate| program.list(rate).iter().map(move |launch| (rate, launch)))
            .map(|(rate, launch)| {
                let value = &program.values[launch.value];
                serde_json::json!({
                    "node": value.name, "rate": rate.name(), "kernel": program.kernels[launch.kernel].name,
                    "shape": value.shape, "dtype": value.dtype.name(), "workgroups": launch.workgroups,
                    "flops": launch.cost.flops, "bytes": launch.cost.bytes,
                })
            })
            .collect();
        let json = serde_json::json!({
            "model": path, "component": component, "class": class_name, "config": config.value,
            "parameters": weights.parameters(), "device": device,
            "graph": graph.to_string().lines().collect::<Vec<_>>(), "plan": launches, "choices": choices,
            "summary": program.summary(),
        });
        print(&format!("{json:#}\n"));
        return Ok(());
    }
    print(&format!(
        "model {}, {}\nparameters {}\n{model:#?}\n\ngraph after the passes:\n{graph}\nplan for \
        {device}:\n{program}\nchoices:\n{}",
        path.display(),
        component,
        weights.parameters(),
        choices.iter().map(|(node, decision)| describe(node, decision)).collect::<String>(),
    ));
    Ok(())
}

/// What was chosen for a node and why, then the other candidates, one a line.
fn describe(node: &str, decision: &Decision) -> String {
    let Decision { variant, knobs, reason, candidates, .. } = decision;
    let setting = if knobs.is_empty() { String::new() } else { format!("[{knobs}]") };
    let mut text = format!("{node:<52} {variant}{setting}: {reason}\n");
    for candidate in candidates.iter().filter(|c| c.variant != *variant) {
        let why = candidate.objection.as_deref().unwrap_or("can run too");
        let settings = match candidate.settings {
            0 => "cannot".into(),
            1 => "1 setting".into(),
            n => format!("{n} settings"),
        };
        text += &format!("{:<52} not {} ({settings}): {why}\n", "", candidate.variant);
    }
    text
}

/// The memory of every stage of a run.
fn pipeline(args: &Args, checkpoint: &Checkpoint, ignore: &Ignore) -> Result<()> {
    if args.batch_size == 0 {
        return Err(Error::Usage("--batch-size must be above 0".into()));
    }
    let scheduler = Scheduler::new(DiffusionPipeline::scheduler_config(checkpoint)?)?;
    let mut pipeline = DiffusionPipeline::load(checkpoint, scheduler)?;
    pipeline.set_tiling(args.vae_tiling);
    let device = args.device.open()?;
    let load = load_options(&args.device, &device)?;
    let runtime = Runtime::new(&device, &load, args.precision.dtype());
    let options = SampleOptions {
        batch_size: args.batch_size,
        prompts: vec![String::new()],
        height: args.height,
        width: args.width,
        ..pipeline.defaults()
    };
    let files = files::Account::of(checkpoint, ignore)?;
    let (height, width) = pipeline.size(&options)?;
    let plan = pipeline.plan(&runtime, &options)?;
    if args.json {
        let stages: Vec<_> = plan
            .stages
            .iter()
            .map(|s| match &s.memory {
                Ok(memory) => serde_json::json!({"component": s.component, "memory": memory, "tiles": s.tiles}),
                Err(why) => serde_json::json!({"component": s.component, "refused": why.in_words(&words::flag)}),
            })
            .collect();
        let json = serde_json::json!({
            "model": checkpoint.path(), "files": files.to_json(), "device": device.describe(),
            "batch_size": args.batch_size, "height": height, "width": width,
            "stages": stages, "peak": plan.peak(), "available": plan.available,
        });
        print(&format!("{json:#}\n"));
        return Ok(());
    }
    let guided = options.guidance_scale.iter().any(|scale| pipeline.traits.guides(*scale));
    // The first latent diffusion models call their autoencoder otherwise.
    let vqvae = checkpoint.component_names().iter().any(|name| name == "vqvae");
    let name = |component: &str| if vqvae { component.replace("vae.", "vqvae.") } else { component.to_owned() };
    print(&format!(
        "{files}\n{} picture{} of {width} x {height} pixels{} in {} on {}\n\n{}\n--component NAME shows \
        the config, the graph and the kernels of one component: {}\n",
        args.batch_size,
        if args.batch_size == 1 { "" } else { "s" },
        if guided { " with guidance" } else { "" },
        runtime.dtype.name(),
        device.describe(),
        plan.in_words(&words::flag),
        plan.stages.iter().map(|s| name(&s.component)).collect::<Vec<_>>().join(", "),
    ));
    Ok(())
}
