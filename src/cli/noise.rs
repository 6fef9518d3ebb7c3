//! `unmist noise`: the forward process on a picture.

use std::collections::HashMap;
use std::path::PathBuf;

use super::load_options;
use crate::checkpoint::Folder;
use crate::error::{Error, Result};
use crate::generate::places;
use crate::graph::{Graph, TensorDesc};
use crate::image_io::{Picture, Range, grid, read, write_png};
use crate::models::UNet2DModel;
use crate::output::check_writable;
use crate::request::DeviceRequest;
use crate::rng::{NoiseSource, TorchCpu};
use crate::schedulers::{Frame, Scheduler, SchedulerConfig};
use crate::tensor::HostTensor;

/// Options of `unmist noise`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout, whose noise schedule is used [default: a model from weights/]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The picture, PNG, JPEG or WebP
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Timesteps, comma-separated: 0 is the first and least noisy
    #[arg(long, required = true, value_delimiter = ',', value_name = "T[,T…]")]
    timestep: Vec<usize>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Where the strip goes: the picture at each timestep, side by side
    #[arg(long, short, default_value = "noise.png", value_name = "FILE.png")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceRequest,
}

/// Runs the command.
///
/// # Errors
/// As the library; nothing is written then.
pub fn run(args: Args) -> Result<()> {
    if args.output.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        return Err(Error::Usage(format!("--output {}: expected a name that ends in .png", args.output.display())));
    }
    check_writable(&args.output)?;
    let folder = Folder::open(places::find(args.model.as_deref(), &["DDPMPipeline", "DDIMPipeline"])?)?;
    let scheduler = Scheduler::new(SchedulerConfig::read(&folder.scheduler_config()?)?)?;
    let class = scheduler.config.class;
    if class.frame() != Frame::Timesteps {
        let why = format!("the model's scheduler, {}, has noise levels but no numbered timesteps", class.name());
        return Err(Error::Unsupported(why));
    }
    let channels = UNet2DModel::from_json(&folder.component_config("unet")?)?.config.in_channels;
    let picture = read(&args.image, if channels == 1 { 1 } else { 3 })?;
    let original = picture.to_tensor(Range::MinusOneToOne);
    let noise = TorchCpu::new(args.seed).randn(&original.shape);

    // q(x_t | x_0) = N(sqrt(alphas_cumprod_t) x_0, 1 - alphas_cumprod_t): the same picture and the same noise at every
    // timestep.
    let noisings = args.timestep.iter().map(|t| scheduler.noise_schedule.noising(*t)).collect::<Result<Vec<_>>>()?;
    let count = noisings.len();
    let repeat = |t: &HostTensor| -> Result<HostTensor> {
        let mut shape = t.shape.clone();
        shape[0] = count;
        Ok(HostTensor::new(shape, t.data.repeat(count))?.channels_last())
    };
    let (original, noise) = (repeat(&original)?, repeat(&noise)?);
    let coefficients = HostTensor {
        shape: vec![count, 2],
        data: noisings.iter().flat_map(|n| [n.signal as f32, n.noise as f32]).collect(),
    };

    let mut graph = Graph::new();
    let x0 = graph.input("original", TensorDesc::f32(original.shape.clone()));
    let eps = graph.input("noise", TensorDesc::f32(original.shape.clone()));
    let k = graph.input("coefficients", TensorDesc::f32([count, 2]));
    let noisy = graph.add_noise("add_noise", x0, eps, k)?;
    graph.output("noisy", noisy);
    let device = args.device.open()?;
    let mut session = device.load(graph, &HashMap::new(), &load_options(&args.device, &device)?)?;
    session.write("original", &original)?;
    session.write("noise", &noise)?;
    session.write("coefficients", &coefficients)?;
    session.run()?;
    let mut images = session.read("noisy")?.channels_first();
    images.data.iter_mut().for_each(|v| *v = (*v / 2.0 + 0.5).clamp(0.0, 1.0));
    let strip = grid(&Picture::from_tensor(&images)?, Some(count))?;
    let steps: Vec<_> = args.timestep.iter().map(usize::to_string).collect();
    write_png(
        &args.output,
        &strip,
        &[("parameters".to_owned(), format!("Forward process at timesteps {}, seed {}", steps.join(" "), args.seed))],
    )
}
