//! What a user asks of Stable Diffusion.

use crate::schedulers::Sampling;
use crate::tensor::HostTensor;

/// What to paint.
#[derive(Clone, Debug)]
pub struct PromptOptions {
    /// One prompt for each picture.
    pub prompts: Vec<String>,
    /// What to keep away from, one for each picture; `None`: nothing (for SDXL not the same as an empty text).
    pub negative_prompts: Option<Vec<String>>,
    /// Other prompts for SDXL's second text encoder.
    pub prompts_2: Option<Vec<String>>,
    /// Other negative prompts for SDXL's second text encoder.
    pub negative_prompts_2: Option<Vec<String>>,
    /// Prompts in A1111's syntax: `(more:1.3)`, `[less]`, `BREAK`; see [`crate::prompt`]. Else brackets are text.
    pub weighting: bool,
    /// Rows; the model's own size if none.
    pub height: Option<usize>,
    /// Columns; the model's own size if none.
    pub width: Option<usize>,
    /// Steps, η, strength and the like.
    pub sampling: Sampling,
    /// ε = ε(negative) + w·(ε(prompt) − ε(negative)): one w, or one for each picture; all 1 or less is no guidance.
    pub guidance_scale: Vec<f64>,
    /// How much of the prediction's own deviation is restored after guidance, 0 to 1 (Lin et al. 2023, section 3.4).
    pub guidance_rescale: f64,
    /// Editing by instruction: as `guidance_scale`, for the picture; 1 or more.
    pub image_guidance_scale: f64,
    /// Leaves out that many of the text encoder's last layers.
    pub clip_skip: usize,
    /// SDXL: height and width of the picture the model shall imagine it was cropped from; none: the size of the result.
    pub original_size: Option<(usize, usize)>,
    /// SDXL: top and left of that crop.
    pub crop: (usize, usize),
    /// SDXL: height and width that the model shall imagine for the result; none: its size.
    pub target_size: Option<(usize, usize)>,
    /// SDXL's refiner: how beautiful the picture, and its opposite, shall be, 1 to 10.
    pub aesthetic_scores: (f64, f64),
    /// A picture `[1, 3, H, W]` in [−1, 1]: to start from (by `sampling.strength`), to paint into, to edit, to enlarge.
    pub image: Option<HostTensor>,
    /// Inpainting: ½ and more where `image` is painted anew, `[1, 1, H, W]`.
    pub mask: Option<HostTensor>,
    /// Enlarging: the timestep up to which the small picture is noised.
    pub noise_level: usize,
    /// Latents `[N, C, h, w]` to start from: with `sampling.denoising_start` as they are, such as a base model's for
    /// its refiner; else as an encoded `image`, noised by `sampling.strength`.
    pub latents: Option<HostTensor>,
}

impl Default for PromptOptions {
    fn default() -> Self {
        Self {
            prompts: Vec::new(),
            negative_prompts: None,
            prompts_2: None,
            negative_prompts_2: None,
            weighting: false,
            height: None,
            width: None,
            sampling: Sampling::steps(50),
            guidance_scale: vec![7.5],
            guidance_rescale: 0.0,
            image_guidance_scale: 1.5,
            clip_skip: 0,
            original_size: None,
            crop: (0, 0),
            target_size: None,
            aesthetic_scores: (6.0, 2.5),
            image: None,
            mask: None,
            noise_level: 20,
            latents: None,
        }
    }
}
