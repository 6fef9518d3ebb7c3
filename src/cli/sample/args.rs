//! What can be asked of `unmist sample`.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cli::options::{DeviceArgs, Precision};
use crate::rng::{NoiseSource, TorchCpu, TorchCuda};

/// Options of `unmist sample`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub options: Options,
    /// Makes the pictures of this file again (a PNG or .safetensors of this command), bit for bit on the same device. Other options given beside it
    /// replace its own; flags that it has stay on
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// FILE.png, or FILE.safetensors for the values before rounding (tensor `images`, [N, C, H, W] in [0, 1])
    #[arg(long, short, default_value = "out.png", value_name = "FILE")]
    pub output: PathBuf,
    /// Writes the current estimate of the finished pictures every N steps, to OUTPUT with .preview before its extension
    #[arg(long, value_name = "N")]
    pub preview_every: Option<usize>,
    /// Also writes the latents that the pictures are decoded from (tensor `latents`, [N, C, h, w]), which --latents reads
    #[arg(long, value_name = "FILE.safetensors")]
    pub save_latents: Option<PathBuf>,
}

/// Everything that decides what the pictures are. A picture remembers it, so every field can be written as JSON, and every default is `None` or empty.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What the picture shows (models with a text encoder)
    pub prompt: Option<String>,
    /// What the picture should not show (models with a text encoder)
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
    /// Model folder in diffusers' layout, a single file in the original Stable Diffusion layout, or the name of a model in weights/ [default: the first
    /// one there that fits]
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
    /// Prefers weight files of a variant, as fp16 for diffusion_pytorch_model.fp16.safetensors
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// A LoRA and how strongly it changes the model; may be repeated [default scale: 1]
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub lora: Vec<String>,
    /// A textual inversion and the word that stands for it in prompts; may be repeated [default word: the file's own]
    #[arg(long, value_name = "FILE[:WORD]")]
    pub embedding: Vec<String>,
    /// What the U-Net predicts, where the model's files say it wrongly or not at all
    #[arg(long, value_name = "epsilon|v_prediction|sample", value_parser = ["epsilon", "v_prediction", "sample"])]
    pub prediction_type: Option<String>,
    /// Seed of the noise; the same seed gives the same picture as diffusers on a CPU. Several, comma-separated: one for each picture [default: 0]
    #[arg(long, value_delimiter = ',', value_name = "N[,N…]")]
    pub seed: Vec<u64>,
    /// Whose random numbers the seed starts: PyTorch's on a CPU, as ComfyUI, or PyTorch's on CUDA, as AUTOMATIC1111 [default: torch-cpu]
    #[arg(long, value_enum)]
    pub rng: Option<Rng>,
    /// Number of denoise steps [default: 50]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Sampler: ddpm, ddim, "Euler a", "DPM++ 2M Karras" … as other programs name them, or diffusers' class [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// DDIM: share of fresh noise in each step, from 0 (none) to 1 (as DDPM) [default: 0]
    #[arg(long, value_name = "F")]
    pub eta: Option<f64>,
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
    /// With --image: the share of the steps that is done, from 0 (nothing changes) to 1 (little of the picture stays) [default: 0.8]
    #[arg(long, value_name = "F")]
    pub strength: Option<f64>,
    /// Latents to start from in place of noise (models with a text encoder): tensor `latents`, [N, C, h, w], at the noise level of the first step
    #[arg(long, value_name = "FILE.safetensors")]
    pub latents: Option<PathBuf>,
    /// Leaves out that many of the text encoder's last layers [default: 0]
    #[arg(long, value_name = "N")]
    pub clip_skip: Option<usize>,
    /// Number of pictures made at once [default: 1, or one for each seed]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Columns [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    pub width: Option<usize>,
    /// Rows [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    pub height: Option<usize>,
    /// Storage of weights and activations [default: f32]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Several pictures as numbered files instead of a grid
    #[arg(long)]
    pub separate: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Whose random numbers a seed starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rng {
    /// `torch.Generator("cpu")`
    #[default]
    TorchCpu,
    /// `torch.Generator("cuda")`
    TorchCuda,
}

impl Options {
    /// The options with every default that does not depend on the model: what a picture remembers stays true if a default changes.
    pub fn with_defaults(self) -> Self {
        Self {
            seed: if self.seed.is_empty() { vec![0] } else { self.seed.clone() },
            rng: Some(self.rng.unwrap_or_default()),
            steps: Some(self.steps()),
            eta: Some(self.eta()),
            strength: self.strength.or(self.image.as_ref().map(|_| 0.8)),
            clip_skip: Some(self.clip_skip()),
            batch_size: Some(self.batch_size()),
            precision: Some(self.precision()),
            ..self
        }
    }

    /// Number of denoise steps.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(50)
    }

    /// Share of fresh noise.
    pub fn eta(&self) -> f64 {
        self.eta.unwrap_or(0.0)
    }

    /// Layers of the text encoder that are left out.
    pub fn clip_skip(&self) -> usize {
        self.clip_skip.unwrap_or(0)
    }

    /// Pictures made at once.
    pub fn batch_size(&self) -> usize {
        self.batch_size.unwrap_or(self.seed.len().max(1))
    }

    /// Storage of weights and activations.
    pub fn precision(&self) -> Precision {
        self.precision.unwrap_or(Precision::F32)
    }

    /// One noise source for each seed.
    pub fn noise_sources(&self) -> Vec<Box<dyn NoiseSource>> {
        let source = |seed: &u64| -> Box<dyn NoiseSource> {
            match self.rng.unwrap_or_default() {
                Rng::TorchCpu => Box::new(TorchCpu::new(*seed)),
                Rng::TorchCuda => Box::new(TorchCuda::new(*seed)),
            }
        };
        self.seed.iter().map(source).collect()
    }
}
