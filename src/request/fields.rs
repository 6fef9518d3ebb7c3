//! The one list of what can be asked for.
//!
//! A new field is written down here; [`resolve`](super::resolve) makes an option of the pipeline of it, and
//! [`check_fits`](crate::pipelines::check_fits) knows which models take it.
//!
//! A field's first paragraph is also its help on the command line, where names of other fields in backticks become
//! their flags.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DeviceRequest, MaskReading, Precision, Rng, Switch};
use crate::refusal::Refusal;

// Headings of the help text.
#[cfg(feature = "cli")]
mod heading {
    pub const PROMPTS: &str = "What is painted";
    pub const MODEL: &str = "The model";
    pub const SAMPLING: &str = "Noise and steps";
    pub const PICTURES: &str = "Pictures to begin with";
    pub const SIZE: &str = "Number and size";
}
/// A seed, or for -1 one drawn at random: below 2³², as other programs show them.
#[cfg(feature = "cli")]
fn seed(text: &str) -> Result<u64, String> {
    use std::hash::BuildHasher;
    if text == "-1" {
        return Ok(std::hash::RandomState::new().hash_one(text) & u64::from(u32::MAX));
    }
    text.parse().map_err(|_| "expected a whole number from 0 on, or -1 for a random one".to_owned())
}

#[cfg(feature = "cli")]
use heading::{MODEL, PICTURES, PROMPTS, SAMPLING, SIZE};

/// Everything that can be asked for: what the pictures are, and on which device they are made. Every
/// default is `None` or empty. In JSON, fields have the names that they have here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[cfg_attr(feature = "serve", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// What the picture shows (models with a text encoder); several prompts make several pictures
    pub prompt: Vec<String>,
    /// What the picture should not show (models with a text encoder); once for all prompts, or repeated for each
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS, value_name = "TEXT"))]
    pub negative_prompt: Vec<String>,
    /// SDXL: other prompts for the second text encoder; once for all prompts, or repeated for each
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS, value_name = "TEXT"))]
    pub prompt_2: Vec<String>,
    /// SDXL: other negative prompts for the second text encoder; once for all prompts, or repeated for each
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS, value_name = "TEXT"))]
    pub negative_prompt_2: Vec<String>,
    /// Reads prompts in AUTOMATIC1111's syntax: `(more)`, `(much more:1.3)`, `[less]`, `BREAK`; while sampling,
    /// `[from:to:0.5]` changes after half of the steps (`[from:to:5]`: after 5), `[a|b]` in every step; otherwise
    /// brackets are text
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS))]
    pub weighting: bool,
    /// Leaves out this many of the text encoder's last layers [default: 0]
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS, value_name = "N"))]
    pub clip_skip: Option<usize>,
    /// Class of the pictures; several, comma-separated, take turns [default: no class; of consistency models, which
    /// have none for that, one drawn by the seed]
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS, value_delimiter = ',', value_name = "N[,N…]"))]
    pub class: Vec<usize>,
    /// The class that stands for "no class" in classifier-free guidance [default: the last]
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS, value_name = "N"))]
    pub null_class: Option<usize>,
    /// A classifier of noised pictures (guided-diffusion's, as .safetensors, or a folder with its config.json) that
    /// leads to `class`, also with models that know no classes
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS, value_name = "FILE|DIR"))]
    pub classifier: Option<PathBuf>,
    /// How strongly `classifier` leads to the class [default: 1]
    #[cfg_attr(feature = "cli", arg(long, help_heading = PROMPTS, value_name = "F"))]
    pub classifier_scale: Option<f64>,
    /// Model folder in diffusers' layout, a single file (.safetensors or .gguf) in the original Stable Diffusion
    /// layout, or the name of a model in weights/ [default: the first one there that fits]
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "DIR|FILE"))]
    pub model: Option<PathBuf>,
    /// Another U-Net than the model's: a folder, or a single file that holds one
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "DIR|FILE"))]
    pub unet: Option<PathBuf>,
    /// Another autoencoder than the model's: a folder, or a single file that holds one
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "DIR|FILE"))]
    pub vae: Option<PathBuf>,
    /// Another text encoder than the model's: a folder, or a single file that holds one
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "DIR|FILE"))]
    pub text_encoder: Option<PathBuf>,
    /// SDXL: another second text encoder than the model's: a folder, or a single file that holds one
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "DIR|FILE"))]
    pub text_encoder_2: Option<PathBuf>,
    /// Prefers weight files of a variant, such as fp16 for diffusion_pytorch_model.fp16.safetensors
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "NAME"))]
    pub variant: Option<String>,
    /// A LoRA (LoCon, LoHa, LoKr, DoRA; a file or PEFT's folder) and how strongly it changes the U-Net and, with a
    /// second number, the text encoders; may be repeated [default scale: 1]
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "FILE[:SCALE[:TEXT_SCALE]]"))]
    pub lora: Vec<String>,
    /// Where `<lora:NAME:SCALE>` in a prompt is looked for, with `weighting` [default: beside the model]
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "DIR"))]
    pub lora_dir: Option<PathBuf>,
    /// A textual inversion and the word that stands for it in prompts; may be repeated [default word: the file's own]
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "FILE[:WORD]"))]
    pub embedding: Vec<String>,
    /// The scheduler's config, `scheduler_config.json`, in place of the model's own
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "FILE"))]
    pub scheduler_config: Option<PathBuf>,
    /// Tensors and config fields that may stay unread where no model asks for them, by name, with * for any characters;
    /// may be repeated
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "PATTERN"))]
    pub ignore_unused: Vec<String>,
    /// What the U-Net predicts, where the model's files say it wrongly or not at all
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "epsilon|v_prediction|sample"))]
    #[cfg_attr(feature = "cli", arg(value_parser = ["epsilon", "v_prediction", "sample"]))]
    pub prediction_type: Option<String>,
    /// SDXL: a model that does the last steps
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "DIR|FILE"))]
    pub refiner: Option<PathBuf>,
    /// A LoRA that changes the refiner, as `lora` changes the model; may be repeated
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "FILE[:SCALE[:TEXT_SCALE]]"))]
    pub refiner_lora: Vec<String>,
    /// Storage of weights and activations [default: f32]
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_enum))]
    pub precision: Option<Precision>,
    /// Whether the autoencoder works in overlapping tiles: where the whole does not fit, always, never, or in tiles of
    /// this many pixels [default: auto]
    #[cfg_attr(feature = "cli", arg(long, help_heading = MODEL, value_name = "auto|on|off|PIXELS"))]
    #[cfg_attr(feature = "cli", arg(value_parser = checked_tiling))]
    pub vae_tiling: Option<String>,
    /// Seed of the noise; the same seed gives the same picture as diffusers on a CPU. Several, comma-separated: one for
    /// each picture; -1 draws one at random [default: 0]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_delimiter = ',', value_name = "N[,N…]"))]
    #[cfg_attr(feature = "cli", arg(value_parser = seed))]
    pub seed: Vec<u64>,
    /// Whose random numbers the seed starts: PyTorch's on a CPU, like ComfyUI, or PyTorch's on CUDA, like AUTOMATIC1111
    /// [default: torch-cpu]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_enum))]
    pub rng: Option<Rng>,
    /// Number of denoise steps [default: the model's
    /// generation_config.json, else 50; consistency models 1, latent ones 4, enlarging 75, editing 100]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "N"))]
    pub steps: Option<usize>,
    /// The timesteps to visit, falling, comma-separated, in place of a number of `steps`; a consistency model counts
    /// them from its cleanest noise level: of 40, 22,0 are the published ones of two steps
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_delimiter = ',', value_name = "N[,N…]"))]
    pub timesteps: Vec<usize>,
    /// Sampler: ddpm, ddim, "Euler a", "DPM++ 2M Karras" … as other programs name them, or diffusers' class [default:
    /// the model's generation_config.json, else its own]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "NAME"))]
    pub scheduler: Option<String>,
    /// RePaint: steps that a run goes back to more noise at a time [default: 10]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "N"))]
    pub jump_length: Option<usize>,
    /// RePaint: how often each part of a run is done, so that what is painted fits what is around it [default: 10]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "N"))]
    pub jump_n_sample: Option<usize>,
    /// DDIM, RePaint, TCD: share of fresh noise in each step, from 0 (none) to 1 (like DDPM) [default: 0]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "F"))]
    pub eta: Option<f64>,
    /// DDIM: whether the noise left in the sample is the one that belongs to the clipped x_0, as guidance needs where
    /// x_0 is clipped [default: the model's generation_config.json, else off]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_enum, value_name = "on|off"))]
    pub use_clipped_model_output: Option<Switch>,
    /// Classifier-free guidance: how far to go from "no class" or the negative prompt to what is asked and beyond; 1 is
    /// none. Several, comma-separated: one for each prompt or picture [default: the model's generation_config.json,
    /// else 1 for classes and 7.5 for prompts; SDXL 5, latent consistency models 8.5, enlarging 9]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_delimiter = ',', value_name = "F[,F…]"))]
    pub guidance_scale: Vec<f64>,
    /// How much of the prediction's own contrast is restored after guidance, from 0 to 1 [default: 0]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "F"))]
    pub guidance_rescale: Option<f64>,
    /// Editing by instruction: like `guidance_scale`, but towards the picture [default: 1.5]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "F"))]
    pub image_guidance_scale: Option<f64>,
    /// The share of the noise, above 0 and below 1, that another run has already taken away from `latents`
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "F"))]
    pub denoising_start: Option<f64>,
    /// The share of the noise, above 0 and below 1, after which the run ends, or `refiner` goes on [default with
    /// `refiner`: 0.8]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SAMPLING, value_name = "F"))]
    pub denoising_end: Option<f64>,
    /// A picture to start from, to paint into, to edit or to enlarge, depending on the model (of those on pixels, with
    /// RePaint to paint into); PNG, JPEG or WebP, resized if `width` or `height` are given
    #[cfg_attr(feature = "cli", arg(long, help_heading = PICTURES, value_name = "FILE"))]
    pub image: Option<PathBuf>,
    /// Where to paint over `image`: a picture of the same size, white or any bright colour where it changes, or
    /// transparent where it does not
    #[cfg_attr(feature = "cli", arg(long, help_heading = PICTURES, value_name = "FILE"))]
    pub mask: Option<PathBuf>,
    /// What `mask` paints over: its opaque parts if it has transparent ones, else what is bright (auto); what is opaque
    /// (alpha) or transparent (erased); what diffusers would [default: auto]
    #[cfg_attr(feature = "cli", arg(long, help_heading = PICTURES, value_enum, hide_possible_values = true))]
    #[cfg_attr(feature = "cli", arg(value_name = "auto|alpha|erased|diffusers"))]
    pub mask_reading: Option<MaskReading>,
    /// How soft the edge of `mask` is: the radius of a Gaussian in pixels, 0 to 64; what is not painted over stays as
    /// it is in `image`, to the pixel
    #[cfg_attr(feature = "cli", arg(long, help_heading = PICTURES, value_name = "PIXELS"))]
    pub mask_blur: Option<f64>,
    /// Works on what `mask` paints over alone, with so many pixels around it, enlarged to `width` and `height`, and
    /// puts it back into `image`
    #[cfg_attr(feature = "cli", arg(long, help_heading = PICTURES, value_name = "PIXELS"))]
    pub padding_mask_crop: Option<usize>,
    /// With `image` or `latents`: the share of the steps to do, above 0 (little changes) and up to 1 (little stays)
    /// [default: 0.8; with `mask` 1]
    #[cfg_attr(feature = "cli", arg(long, help_heading = PICTURES, value_name = "F"))]
    pub strength: Option<f64>,
    /// Enlarging: the timestep up to which the picture is noised [default: 20]
    #[cfg_attr(feature = "cli", arg(long, help_heading = PICTURES, value_name = "N"))]
    pub noise_level: Option<usize>,
    /// Latents in place of `image` (models with a text encoder): tensor "latents", [N, C, h, w], as a run saves
    /// them; with `denoising_start` a run goes on from them
    #[cfg_attr(feature = "cli", arg(long, help_heading = PICTURES, value_name = "FILE.safetensors"))]
    pub latents: Option<PathBuf>,
    /// Number of pictures of each prompt [default: 1, or one for each seed or class]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE, value_name = "N"))]
    pub batch_size: Option<usize>,
    /// Columns [default: the model's own]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE, value_name = "PIXELS"))]
    pub width: Option<usize>,
    /// Rows [default: the model's own]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE, value_name = "PIXELS"))]
    pub height: Option<usize>,
    /// Writes several pictures as numbered files instead of a grid
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE))]
    pub separate: bool,
    /// SDXL: the size of the picture that the result pretends to be cropped from [default: the result's]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE, value_name = "WIDTHxHEIGHT", value_parser = size))]
    pub original_size: Option<(usize, usize)>,
    /// SDXL: where in it the result pretends to begin [default: 0,0]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE, value_name = "LEFT,TOP", value_parser = place))]
    pub crop: Option<(usize, usize)>,
    /// SDXL: the size that the result pretends to have [default: its own]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE, value_name = "WIDTHxHEIGHT", value_parser = size))]
    pub target_size: Option<(usize, usize)>,
    /// SDXL's refiner: the picture's aesthetic score, usually 1 to 10 [default: 6]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE, value_name = "F"))]
    pub aesthetic_score: Option<f64>,
    /// SDXL's refiner: its opposite's aesthetic score [default: 2.5]
    #[cfg_attr(feature = "cli", arg(long, help_heading = SIZE, value_name = "F"))]
    pub negative_aesthetic_score: Option<f64>,
    /// On which device, and how.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub device: DeviceRequest,
}

impl Request {
    /// Checks that the request can be written as JSON.
    ///
    /// # Errors
    /// A refusal if the name of a file is not UTF-8, or a number not finite.
    pub fn check(&self) -> Result<(), Refusal> {
        let files = [
            ("model", &self.model),
            ("unet", &self.unet),
            ("vae", &self.vae),
            ("text_encoder", &self.text_encoder),
            ("text_encoder_2", &self.text_encoder_2),
            ("classifier", &self.classifier),
            ("lora_dir", &self.lora_dir),
            ("scheduler_config", &self.scheduler_config),
            ("refiner", &self.refiner),
            ("image", &self.image),
            ("mask", &self.mask),
            ("latents", &self.latents),
            ("tuned", &self.device.tuned),
        ];
        for (field, path) in files {
            if path.as_ref().is_some_and(|path| path.to_str().is_none()) {
                let why = "the file's name is not UTF-8, so the picture cannot remember it; rename the file";
                return Err(Refusal::of(field, why));
            }
        }
        let numbers = [
            ("eta", self.eta),
            ("classifier_scale", self.classifier_scale),
            ("guidance_rescale", self.guidance_rescale),
            ("image_guidance_scale", self.image_guidance_scale),
            ("denoising_start", self.denoising_start),
            ("denoising_end", self.denoising_end),
            ("strength", self.strength),
            ("aesthetic_score", self.aesthetic_score),
            ("negative_aesthetic_score", self.negative_aesthetic_score),
            ("max_memory", self.device.max_memory),
        ];
        let scales = self.guidance_scale.iter().map(|scale| ("guidance_scale", Some(*scale)));
        for (field, number) in numbers.into_iter().chain(scales) {
            if let Some(number) = number.filter(|number| !number.is_finite()) {
                return Err(Refusal::of_value(field, number, "expected a finite number"));
            }
        }
        Ok(())
    }

    /// Number of pictures in all.
    pub fn pictures(&self) -> usize {
        self.batch_size.unwrap_or(1).saturating_mul(self.prompt.len().max(1))
    }
}

/// Two numbers with an `x` between them.
#[cfg(feature = "cli")]
fn size(text: &str) -> Result<(usize, usize), String> {
    pair(text, 'x').ok_or_else(|| format!("expected a width and a height as in 1024x768, found {text:?}"))
}

/// Two numbers with a comma between them.
#[cfg(feature = "cli")]
fn place(text: &str) -> Result<(usize, usize), String> {
    pair(text, ',').ok_or_else(|| format!("expected two numbers as in 0,256, found {text:?}"))
}

#[cfg(feature = "cli")]
fn pair(text: &str, between: char) -> Option<(usize, usize)> {
    let (first, second) = text.split_once(between)?;
    Some((first.trim().parse().ok()?, second.trim().parse().ok()?))
}

#[cfg(feature = "cli")]
fn checked_tiling(text: &str) -> Result<String, String> {
    text.parse::<crate::pipelines::Tiling>().map(|_| text.to_owned())
}
