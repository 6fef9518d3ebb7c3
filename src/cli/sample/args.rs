//! What can be asked of `unmist sample`.

use std::path::PathBuf;

use crate::cli::options::{DeviceArgs, Precision};

/// Options of `unmist sample`.
#[derive(clap::Args)]
pub struct Args {
    /// What the picture shows (models with a text encoder)
    pub prompt: Option<String>,
    /// What the picture should not show (models with a text encoder)
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
    /// Model folder in diffusers' layout, or a single file in the original Stable Diffusion layout [default: a model from weights/ that fits]
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
    /// Seed of the noise; the same seed gives the same picture as diffusers on a CPU. Several, comma-separated: one for each picture
    #[arg(long, default_value = "0", value_delimiter = ',', value_name = "N[,N…]")]
    pub seed: Vec<u64>,
    /// Number of denoise steps
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub steps: usize,
    /// Sampler: ddpm, ddim, "Euler a", "DPM++ 2M Karras" … as other programs name them, or diffusers' class [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// DDIM: share of fresh noise in each step, from 0 (none) to 1 (as DDPM)
    #[arg(long, default_value_t = 0.0, value_name = "F")]
    pub eta: f64,
    /// Class of the pictures; several, comma-separated, take turns [default: no class]
    #[arg(long, value_delimiter = ',', value_name = "N[,N…]")]
    pub class: Vec<usize>,
    /// The class that stands for "no class" in classifier-free guidance [default: the last]
    #[arg(long, value_name = "N")]
    pub null_class: Option<usize>,
    /// Classifier-free guidance: how far to go from "no class" or the negative prompt towards what is asked, and beyond [default: 1 (off) for classes, 7.5
    /// for prompts]
    #[arg(long, value_name = "F")]
    pub guidance_scale: Option<f64>,
    /// A picture to start from (models with a text encoder)
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// With --image: the share of the steps that is done, from 0 (nothing changes) to 1 (little of the picture stays)
    #[arg(long, default_value_t = 0.8, value_name = "F")]
    pub strength: f64,
    /// Leaves out that many of the text encoder's last layers
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub clip_skip: usize,
    /// Number of pictures made at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub batch_size: usize,
    /// Columns [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    pub width: Option<usize>,
    /// Rows [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    pub height: Option<usize>,
    /// Storage of weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: Precision,
    /// FILE.png, or FILE.safetensors for the values before rounding (tensor `images`, [N, C, H, W] in [0, 1])
    #[arg(long, short, default_value = "out.png", value_name = "FILE")]
    pub output: PathBuf,
    /// Several pictures as numbered files instead of a grid
    #[arg(long)]
    pub separate: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}
