//! What can be asked of `unmist sample`.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cli::options::{DeviceArgs, Precision};
use crate::pipelines::Tiling;
use crate::rng::{NoiseSource, TorchCpu, TorchCuda};

// Headings of the help text.
const PROMPTS: &str = "What is painted";
const MODEL: &str = "The model";
const SAMPLING: &str = "Noise and steps";
const PICTURES: &str = "Pictures to begin with";
const SIZE: &str = "Number and size";

/// Options of `unmist sample`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub options: Options,
    /// Makes the pictures of this file again (a PNG or .safetensors of this command), bit for bit on the same device.
    /// Other options given beside it replace its own; flags that it has stay on
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// FILE.png, or FILE.safetensors for the values before rounding (tensor `images`, [N, C, H, W] in [0, 1])
    #[arg(long, short, default_value = "out.png", value_name = "FILE")]
    pub output: PathBuf,
    /// Writes the current estimate of the finished pictures every N steps, to OUTPUT with .preview.png for its
    /// extension
    #[arg(long, value_name = "N")]
    pub preview_every: Option<usize>,
    /// Also writes the latents that the pictures are decoded from (tensor `latents`, [N, C, h, w]), which --latents
    /// reads
    #[arg(long, value_name = "FILE.safetensors")]
    pub save_latents: Option<PathBuf>,
}

/// Everything that decides what the pictures are. A picture remembers it, so every field can be written as JSON, and
/// every default is `None` or empty.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What the picture shows (models with a text encoder); several prompts make several pictures
    pub prompt: Vec<String>,
    /// What the picture should not show (models with a text encoder); once for all prompts, or repeated for each
    #[arg(long, help_heading = PROMPTS, value_name = "TEXT")]
    pub negative_prompt: Vec<String>,
    /// SDXL: other prompts for the second text encoder; once for all prompts, or repeated for each
    #[arg(long, help_heading = PROMPTS, value_name = "TEXT")]
    pub prompt_2: Vec<String>,
    /// SDXL: other negative prompts for the second text encoder; once for all prompts, or repeated for each
    #[arg(long, help_heading = PROMPTS, value_name = "TEXT")]
    pub negative_prompt_2: Vec<String>,
    /// Reads prompts in AUTOMATIC1111's syntax: (more), (much more:1.3), [less], BREAK; otherwise brackets are text
    #[arg(long, help_heading = PROMPTS)]
    pub weighting: bool,
    /// Leaves out that many of the text encoder's last layers [default: 0]
    #[arg(long, help_heading = PROMPTS, value_name = "N")]
    pub clip_skip: Option<usize>,
    /// Class of the pictures; several, comma-separated, take turns [default: no class]
    #[arg(long, help_heading = PROMPTS, value_delimiter = ',', value_name = "N[,N…]")]
    pub class: Vec<usize>,
    /// The class that stands for "no class" in classifier-free guidance [default: the last]
    #[arg(long, help_heading = PROMPTS, value_name = "N")]
    pub null_class: Option<usize>,
    /// Model folder in diffusers' layout, a single file in the original Stable Diffusion layout, or the name of a model
    /// in weights/ [default: the first one there that fits]
    #[arg(long, help_heading = MODEL, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
    /// Prefers weight files of a variant, as fp16 for diffusion_pytorch_model.fp16.safetensors
    #[arg(long, help_heading = MODEL, value_name = "NAME")]
    pub variant: Option<String>,
    /// A LoRA and how strongly it changes the model; may be repeated [default scale: 1]
    #[arg(long, help_heading = MODEL, value_name = "FILE[:SCALE]")]
    pub lora: Vec<String>,
    /// A textual inversion and the word that stands for it in prompts; may be repeated [default word: the file's own]
    #[arg(long, help_heading = MODEL, value_name = "FILE[:WORD]")]
    pub embedding: Vec<String>,
    /// What the U-Net predicts, where the model's files say it wrongly or not at all
    #[arg(long, help_heading = MODEL, value_name = "epsilon|v_prediction|sample", value_parser = ["epsilon", "v_prediction", "sample"])]
    pub prediction_type: Option<String>,
    /// SDXL: a model that does the last steps
    #[arg(long, help_heading = MODEL, value_name = "DIR|FILE")]
    pub refiner: Option<PathBuf>,
    /// Storage of weights and activations [default: f32]
    #[arg(long, help_heading = MODEL, value_enum)]
    pub precision: Option<Precision>,
    /// Whether the autoencoder works in overlapping tiles: where the whole does not fit, always, never, or in tiles of
    /// so many pixels [default: auto]
    #[arg(long, help_heading = MODEL, value_name = "auto|on|off|PIXELS", value_parser = checked_tiling)]
    pub vae_tiling: Option<String>,
    /// Seed of the noise; the same seed gives the same picture as diffusers on a CPU. Several, comma-separated: one for
    /// each picture [default: 0]
    #[arg(long, help_heading = SAMPLING, value_delimiter = ',', value_name = "N[,N…]")]
    pub seed: Vec<u64>,
    /// Whose random numbers the seed starts: PyTorch's on a CPU, as ComfyUI, or PyTorch's on CUDA, as AUTOMATIC1111
    /// [default: torch-cpu]
    #[arg(long, help_heading = SAMPLING, value_enum)]
    pub rng: Option<Rng>,
    /// Number of denoise steps [default: the model's
    /// generation_config.json, else 50; latent consistency models 4, enlarging 75, editing 100]
    #[arg(long, help_heading = SAMPLING, value_name = "N")]
    pub steps: Option<usize>,
    /// Sampler: ddpm, ddim, "Euler a", "DPM++ 2M Karras" … as other programs name them, or diffusers' class [default:
    /// the model's generation_config.json, else its own]
    #[arg(long, help_heading = SAMPLING, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// DDIM: share of fresh noise in each step, from 0 (none) to 1 (as DDPM) [default: 0]
    #[arg(long, help_heading = SAMPLING, value_name = "F")]
    pub eta: Option<f64>,
    /// DDIM: whether the noise left in the sample is that which goes with the clipped x_0, as guidance needs where x_0
    /// is clipped [default: the model's generation_config.json, else off]
    #[arg(long, help_heading = SAMPLING, value_enum, value_name = "on|off")]
    pub use_clipped_model_output: Option<Switch>,
    /// Classifier-free guidance: how far to go from "no class" or the negative prompt towards what is asked, and
    /// beyond; several, comma-separated: one for each prompt or picture [default: the model's generation_config.json,
    /// else 1 (off) for classes and 7.5 for prompts; SDXL 5, latent consistency models 8.5, enlarging 9]
    #[arg(long, help_heading = SAMPLING, value_delimiter = ',', value_name = "F[,F…]")]
    pub guidance_scale: Vec<f64>,
    /// How much of the prediction's own contrast is restored after guidance, from 0 to 1 [default: 0]
    #[arg(long, help_heading = SAMPLING, value_name = "F")]
    pub guidance_rescale: Option<f64>,
    /// Editing by instruction: as --guidance-scale, for the picture [default: 1.5]
    #[arg(long, help_heading = SAMPLING, value_name = "F")]
    pub image_guidance_scale: Option<f64>,
    /// The share of the noise, from 0 to 1, that another run has taken away from --latents
    #[arg(long, help_heading = SAMPLING, value_name = "F")]
    pub denoising_start: Option<f64>,
    /// The share of the noise, from 0 to 1, after which the run ends, or --refiner goes on [default with --refiner:
    /// 0.8]
    #[arg(long, help_heading = SAMPLING, value_name = "F")]
    pub denoising_end: Option<f64>,
    /// A picture to start from, to paint into, to edit or to enlarge, as the model does (models with a text encoder);
    /// PNG or JPEG, resized if --width or --height are given
    #[arg(long, help_heading = PICTURES, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Where --image is painted anew: white, a picture of the same size
    #[arg(long, help_heading = PICTURES, value_name = "FILE")]
    pub mask: Option<PathBuf>,
    /// With --image or --latents: the share of the steps that is done, from 0 (nothing changes) to 1 (little stays)
    /// [default: 0.8; with --mask 1]
    #[arg(long, help_heading = PICTURES, value_name = "F")]
    pub strength: Option<f64>,
    /// Enlarging: the timestep up to which the picture is noised [default: 20]
    #[arg(long, help_heading = PICTURES, value_name = "N")]
    pub noise_level: Option<usize>,
    /// Latents in place of --image (models with a text encoder): tensor `latents`, [N, C, h, w], as --save-latents
    /// writes it; with --denoising-start a run goes on from them
    #[arg(long, help_heading = PICTURES, value_name = "FILE.safetensors")]
    pub latents: Option<PathBuf>,
    /// Number of pictures of each prompt [default: 1, or one for each seed or class]
    #[arg(long, help_heading = SIZE, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Columns [default: the model's own]
    #[arg(long, help_heading = SIZE, value_name = "PIXELS")]
    pub width: Option<usize>,
    /// Rows [default: the model's own]
    #[arg(long, help_heading = SIZE, value_name = "PIXELS")]
    pub height: Option<usize>,
    /// Several pictures as numbered files instead of a grid
    #[arg(long, help_heading = SIZE)]
    pub separate: bool,
    /// SDXL: the size that the picture shall seem to have had [default: the result's]
    #[arg(long, help_heading = SIZE, value_name = "WIDTHxHEIGHT", value_parser = size)]
    pub original_size: Option<(usize, usize)>,
    /// SDXL: how much of it shall seem to be cut off [default: 0,0]
    #[arg(long, help_heading = SIZE, value_name = "LEFT,TOP", value_parser = place)]
    pub crop: Option<(usize, usize)>,
    /// SDXL: the size that the result shall seem to have [default: its own]
    #[arg(long, help_heading = SIZE, value_name = "WIDTHxHEIGHT", value_parser = size)]
    pub target_size: Option<(usize, usize)>,
    /// SDXL's refiner: how beautiful the picture shall be, from 1 to 10 [default: 6]
    #[arg(long, help_heading = SIZE, value_name = "F")]
    pub aesthetic_score: Option<f64>,
    /// SDXL's refiner: how beautiful its opposite shall be [default: 2.5]
    #[arg(long, help_heading = SIZE, value_name = "F")]
    pub negative_aesthetic_score: Option<f64>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Whether something is done. Not a flag, because a model's default may be either.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
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
    /// The options with the defaults that do not depend on the model: what a picture remembers stays true if a default
    /// changes.
    pub fn with_defaults(self) -> Self {
        Self {
            batch_size: Some(self.batch_size()),
            seed: if self.seed.is_empty() { vec![0] } else { self.seed.clone() },
            rng: Some(self.rng.unwrap_or_default()),
            eta: Some(self.eta.unwrap_or(0.0)),
            precision: Some(self.precision()),
            ..self
        }
    }

    /// Number of pictures of each prompt.
    pub fn batch_size(&self) -> usize {
        let prompts = self.prompt.len().max(1);
        let seeds = self.seed.len().max(1);
        self.batch_size.unwrap_or(match seeds {
            1 => self.class.len().max(1),
            _ if seeds.is_multiple_of(prompts) => seeds / prompts,
            _ => 1,
        })
    }

    /// Number of pictures in all.
    pub fn pictures(&self) -> usize {
        self.batch_size().saturating_mul(self.prompt.len().max(1))
    }

    /// Storage of weights and activations.
    pub fn precision(&self) -> Precision {
        self.precision.unwrap_or(Precision::F32)
    }

    /// How the autoencoder works.
    pub fn tiling(&self) -> Tiling {
        self.vae_tiling.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
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

/// Two numbers with an `x` between.
fn size(text: &str) -> Result<(usize, usize), String> {
    pair(text, 'x').ok_or_else(|| format!("expected a width and a height as in 1024x768, found {text:?}"))
}

/// Two numbers with a comma between.
fn place(text: &str) -> Result<(usize, usize), String> {
    pair(text, ',').ok_or_else(|| format!("expected two numbers as in 0,256, found {text:?}"))
}

fn pair(text: &str, between: char) -> Option<(usize, usize)> {
    let (first, second) = text.split_once(between)?;
    Some((first.trim().parse().ok()?, second.trim().parse().ok()?))
}

fn checked_tiling(text: &str) -> Result<String, String> {
    text.parse::<Tiling>().map(|_| text.to_owned())
}
