//! What a pipeline shall do, with every choice made: a number where there was a name, a tensor where there was a file.

use crate::schedulers::Sampling;
use crate::tensor::HostTensor;

/// What to paint. Lists hold one entry for all pictures or one for each, or none.
///
/// [`SampleOptions::default`] is one picture without guidance. What suits a model is in
/// [`DiffusionPipeline::defaults`](super::DiffusionPipeline::defaults).
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Number of pictures.
    pub batch_size: usize,
    /// What the pictures show.
    pub prompts: Vec<String>,
    /// What the pictures should not show. No entry is not the same as an empty text for SDXL.
    pub negative_prompts: Vec<String>,
    /// Other prompts for SDXL's second text encoder.
    pub prompts_2: Vec<String>,
    /// Other negative prompts for SDXL's second text encoder.
    pub negative_prompts_2: Vec<String>,
    /// Prompts in A1111's syntax: `(more:1.3)`, `[less]`, `BREAK`, and while sampling `[from:to:0.5]`, `[a|b]`; see
    /// [`crate::prompt`]. Else brackets are text.
    pub weighting: bool,
    /// Leaves out this many of the text encoder's last layers.
    pub clip_skip: usize,
    /// The class of each picture; without an entry, no class, which a consistency model does not have.
    pub classes: Vec<usize>,
    /// The class that means "no class"; `None` is [`Traits::null_class`](super::Traits::null_class).
    pub null_class: Option<usize>,
    /// Rows; `None` is the model's own size.
    pub height: Option<usize>,
    /// Columns; `None` is the model's own size.
    pub width: Option<usize>,
    /// Steps, η, strength and the like.
    pub sampling: Sampling,
    /// Classifier-free guidance (Ho and Salimans 2022): ε = ε(∅) + w·(ε(c) − ε(∅)), where c is the prompt or class and
    /// ∅ the negative prompt or no class. A picture with a w of 1 or less is not guided.
    pub guidance_scale: Vec<f64>,
    /// Classifier guidance (Dhariwal & Nichol 2021): how far the classifier's gradient moves each step.
    pub classifier_scale: f64,
    /// How much of the prediction's own deviation is restored after guidance, 0 to 1 (Lin et al. 2023, section 3.4).
    pub guidance_rescale: f64,
    /// Editing by instruction: like `guidance_scale`, but towards the picture; 1 or more.
    pub image_guidance_scale: f64,
    /// SDXL: height and width of the picture that the result pretends to be cropped from; `None` is the result's size.
    pub original_size: Option<(usize, usize)>,
    /// SDXL: top and left of that crop.
    pub crop: (usize, usize),
    /// SDXL: height and width that the result pretends to have; `None` is its size.
    pub target_size: Option<(usize, usize)>,
    /// SDXL's refiner: aesthetic scores, 1 to 10, of the picture and of its opposite.
    pub aesthetic_scores: (f64, f64),
    /// A picture `[1, 3, H, W]` in [−1, 1]: to start from (by `sampling.strength`), to paint into, to edit, to enlarge.
    pub image: Option<HostTensor>,
    /// Inpainting: ½ and more where `image` is painted over, `[1, 1, H, W]`.
    pub mask: Option<HostTensor>,
    /// How the mask comes to the size of the latents.
    pub mask_reduction: MaskReduction,
    /// Enlarging: the timestep up to which the small picture is noised.
    pub noise_level: usize,
    /// Latents `[N, C, h, w]` to start from: with `sampling.denoising_start` as they are, such as a base model's for
    /// its refiner; else as an encoded `image`, noised by `sampling.strength`.
    pub latents: Option<HostTensor>,
    /// The noise `[N, C, h, w]` of the start, of standard deviation 1, in place of what the sources would draw for it.
    pub noise: Option<HostTensor>,
}

/// When a latent, which stands for a square of pixels, is painted over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskReduction {
    /// When its upper left pixel is, as in diffusers (torch's `interpolate`, nearest). Thin lines may be lost.
    #[default]
    Nearest,
    /// When any of its pixels is, as in stable-diffusion.cpp.
    Largest,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            batch_size: 1,
            prompts: Vec::new(),
            negative_prompts: Vec::new(),
            prompts_2: Vec::new(),
            negative_prompts_2: Vec::new(),
            weighting: false,
            clip_skip: 0,
            classes: Vec::new(),
            null_class: None,
            height: None,
            width: None,
            sampling: Sampling::steps(50),
            guidance_scale: vec![1.0],
            classifier_scale: 1.0,
            guidance_rescale: 0.0,
            image_guidance_scale: 1.5,
            original_size: None,
            crop: (0, 0),
            target_size: None,
            aesthetic_scores: (6.0, 2.5),
            image: None,
            mask: None,
            mask_reduction: MaskReduction::default(),
            noise_level: 20,
            latents: None,
            noise: None,
        }
    }
}

impl SampleOptions {
    /// The most pictures at once; more than any device holds.
    pub const MAX_PICTURES: usize = 1 << 16;

    /// Whether a field is given, by its name in a [`Request`](crate::request::Request).
    pub(super) fn given(&self, field: &str) -> bool {
        match field {
            "prompt" => !self.prompts.is_empty(),
            "negative_prompt" => !self.negative_prompts.is_empty(),
            "prompt_2" => !self.prompts_2.is_empty(),
            "negative_prompt_2" => !self.negative_prompts_2.is_empty(),
            "weighting" => self.weighting,
            "clip_skip" => self.clip_skip > 0,
            "class" => !self.classes.is_empty(),
            "null_class" => self.null_class.is_some(),
            "timesteps" => self.sampling.timesteps.is_some(),
            "strength" => self.sampling.strength != 1.0,
            "denoising_start" => self.sampling.denoising_start.is_some(),
            "denoising_end" => self.sampling.denoising_end.is_some(),
            "classifier_scale" => self.classifier_scale != 1.0,
            "guidance_rescale" => self.guidance_rescale != 0.0,
            "original_size" => self.original_size.is_some(),
            "crop" => self.crop != (0, 0),
            "target_size" => self.target_size.is_some(),
            "image" => self.image.is_some(),
            "mask" => self.mask.is_some(),
            "latents" => self.latents.is_some(),
            // Numbers that are always given, or that a model without a use for them ignores.
            _ => false,
        }
    }
}

/// A list with an entry for each of `n` pictures, from one that has one for all or one for each.
pub(super) fn each<T: Clone>(list: &[T], n: usize) -> Vec<T> {
    list.iter().cycle().take(n).cloned().collect()
}
