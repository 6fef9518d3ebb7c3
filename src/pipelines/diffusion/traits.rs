//! The traits of a model that decide which options fit it, and the defaults that suit it.

use super::SampleOptions;
use super::texts::parse;
use crate::prompt::is_composed;
use crate::refusal::{Refusal, Remedy};
use crate::schedulers::{Sampling, SchedulerClass};

/// What a U-Net was trained to see and to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pixels, without text encoder, possibly by class; or latents in their place (`LDMPipeline`).
    Pixels,
    /// Latents and text: text to image, image to image, and inpainting by putting back what stays.
    Plain,
    /// Also a mask and the latents of the masked picture.
    Inpaint,
    /// Also the latents of the picture to edit (instruct-pix2pix, Brooks et al. 2023).
    Edit,
    /// Also the small picture, noised, with the noise's timestep as class.
    Upscale,
    /// Latents without text, and beside them the small picture as it is (`LDMSuperResolutionPipeline`).
    SuperResolution,
}

impl Kind {
    /// Whether the model has a text encoder.
    pub fn has_text(self) -> bool {
        !matches!(self, Self::Pixels | Self::SuperResolution)
    }

    /// Whether it makes a larger picture of one.
    pub fn enlarges(self) -> bool {
        matches!(self, Self::Upscale | Self::SuperResolution)
    }
}

/// The traits of a model that decide which options fit it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traits {
    /// What the U-Net is for.
    pub kind: Kind,
    /// Stable Diffusion XL: two text encoders, and numbers about the picture.
    pub xl: bool,
    /// SDXL's refiner takes an aesthetic score in place of the target size (`requires_aesthetics_score`).
    pub aesthetic: bool,
    /// A consistency model, or a latent one: made to need one step, or few.
    pub consistency: bool,
    /// The U-Net takes the guidance scale as an input (`time_cond_proj_dim`).
    pub distilled: bool,
    /// Steps that the model's pipeline takes, where that is not what others of its kind take.
    pub steps: Option<usize>,
    /// Enlarging: the largest timestep up to which the small picture can be noised.
    pub max_noise_level: Option<usize>,
    /// Number of classes, including "no class", if the model has any.
    pub classes: Option<usize>,
    /// Why no run can give the U-Net the labels that it takes, if that is so.
    pub lacks_labels: Option<&'static str>,
    /// The classifier that leads to a class, if there is one.
    pub classifier: Option<ClassifierTraits>,
    /// Rows and columns of the pictures that the model was trained on, where its config says.
    pub own_size: Option<(usize, usize)>,
    /// `LDMTextToImagePipeline`: without guidance by default, and any scale but 1 is guidance.
    pub ldm_text: bool,
    /// What rows and columns must be multiples of.
    pub multiple: usize,
    /// Rows (and columns) of the picture for one of what the U-Net works on.
    pub scale: usize,
}

/// What decides which pictures a classifier can guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifierTraits {
    /// Number of classes.
    pub classes: usize,
    /// Rows and columns of the pictures.
    pub size: usize,
}

/// The most rows or columns.
const MAX_SIDE: usize = 1 << 14;

impl Traits {
    /// What the model does, in a word: `text`, `classes` or `pixels`; `inpaint`, `edit` and `upscale` for models of
    /// these kinds of text; `super_resolution` for one that enlarges without.
    pub fn word(&self) -> &'static str {
        match (self.kind, self.classes) {
            (Kind::Pixels, Some(_)) => "classes",
            (Kind::Pixels, None) => "pixels",
            (Kind::Plain, _) => "text",
            (Kind::Inpaint, _) => "inpaint",
            (Kind::Edit, _) => "edit",
            (Kind::Upscale, _) => "upscale",
            (Kind::SuperResolution, _) => "super_resolution",
        }
    }

    /// The defaults of diffusers' pipeline for such a model. This is the only place that chooses a number of steps or a
    /// guidance scale.
    pub fn defaults(&self) -> SampleOptions {
        let (steps, guidance_scale) = match self.kind {
            Kind::Pixels if self.consistency => (1, 1.0),
            Kind::Pixels => (50, 1.0),
            Kind::Upscale => (75, 9.0),
            Kind::SuperResolution => (100, 1.0),
            Kind::Edit => (100, 7.5),
            _ if self.ldm_text => (50, 1.0),
            _ if self.consistency => (4, 8.5),
            _ if self.xl => (50, 5.0),
            _ => (50, 7.5),
        };
        let sampling = Sampling::steps(self.steps.unwrap_or(steps));
        SampleOptions { sampling, guidance_scale: vec![guidance_scale], ..SampleOptions::default() }
    }

    /// Whether a scale means guidance. 1 is the plain prediction, and less counts as 1, as in diffusers, where 0
    /// switches guidance off; but for `LDMTextToImagePipeline`, where it mixes what is and is not of the text.
    pub fn guides(&self, scale: f64) -> bool {
        scale > 1.0 || (self.ldm_text && scale != 1.0)
    }

    /// Steps of a run with a scheduler of this class.
    pub fn steps(&self, scheduler: SchedulerClass) -> usize {
        if scheduler == SchedulerClass::RePaint { 250 } else { self.defaults().sampling.num_inference_steps }
    }

    /// The class that stands for "no class" if none is named: the last. The classes of a consistency model are all ones
    /// of pictures, as it is called without guidance.
    pub fn null_class(&self) -> Option<usize> {
        self.classes.filter(|_| !self.consistency).map(|rows| rows - 1)
    }

    /// The run as the model's own pipeline does it with a scheduler of this class: a latent consistency model does all
    /// its steps at any strength, in a shorter stretch of noise levels.
    pub fn sampling(&self, options: &SampleOptions, scheduler: SchedulerClass) -> Sampling {
        let asked = options.sampling.clone();
        if self.distilled && scheduler == SchedulerClass::Lcm {
            return Sampling { distilled_strength: asked.strength, strength: 1.0, ..asked };
        }
        asked
    }

    /// Checks that each value of `options` makes sense by itself; [`super::check_fits`] checks what fits together.
    ///
    /// # Errors
    /// A refusal of the first one that does not.
    pub fn check(&self, options: &SampleOptions) -> Result<(), Refusal> {
        let batch = options.batch_size;
        if batch == 0 || batch > SampleOptions::MAX_PICTURES {
            let why = format!("expected 1 to {} pictures", SampleOptions::MAX_PICTURES);
            return Err(Refusal::of_value("batch_size", batch, why));
        }
        for (field, entries) in [
            ("prompt", options.prompts.len()),
            ("negative_prompt", options.negative_prompts.len()),
            ("prompt_2", options.prompts_2.len()),
            ("negative_prompt_2", options.negative_prompts_2.len()),
            ("class", options.classes.len()),
            ("guidance_scale", options.guidance_scale.len()),
        ] {
            if entries > 1 && entries != batch {
                let why = format!("{entries} for {batch} pictures; expected one, or one for each");
                return Err(Refusal::of(field, why));
            }
        }
        for (field, texts) in [
            ("prompt", &options.prompts),
            ("prompt_2", &options.prompts_2),
            ("negative_prompt", &options.negative_prompts),
            ("negative_prompt_2", &options.negative_prompts_2),
        ] {
            parse(field, texts, options.weighting)?;
            // In a negative prompt the web UI gives it no meaning either.
            let composes = options.weighting && field.starts_with("prompt");
            if composes && texts.iter().any(|text| is_composed(text)) {
                return Err(Refusal::of(field, "`AND`, several prompts in one picture, is not supported")
                    .instead(Remedy::Write("and")));
            }
        }
        if let Some(max) = self.max_noise_level.filter(|max| options.noise_level > *max) {
            let why = format!("this model knows levels up to {max}");
            return Err(Refusal::of_value("noise_level", options.noise_level, why));
        }
        if let Some(rows) = self.classes {
            let classes = options.classes.iter().map(|class| ("class", class));
            let null = options.null_class.iter().map(|class| ("null_class", class));
            if let Some((field, class)) = classes.chain(null).find(|(_, class)| **class >= rows) {
                return Err(Refusal::of_value(field, class, format!("this model has classes 0 to {}", rows - 1)));
            }
        }
        if let Some(ClassifierTraits { classes, .. }) = self.classifier {
            if options.classes.is_empty() {
                return Err(Refusal::of("class", "there is none, and the classifier leads to one"));
            }
            if let Some(class) = options.classes.iter().find(|class| **class >= classes) {
                let why = format!("the classifier knows classes 0 to {}", classes - 1);
                return Err(Refusal::of_value("class", class, why));
            }
            if !options.classifier_scale.is_finite() {
                let found = options.classifier_scale;
                return Err(Refusal::of_value("classifier_scale", found, "expected a finite number"));
            }
        }
        if self.classes.is_some() && options.null_class.or(self.null_class()).is_none() {
            if options.classes.is_empty() {
                let why = "there is none, and every class of this model is one of pictures";
                return Err(Refusal::of("class", why));
            }
            if let Some(scale) = options.guidance_scale.iter().find(|scale| **scale > 1.0) {
                let why = "guidance leads away from a class that stands for \"no class\", and this model is not known \
                           to have one";
                return Err(Refusal::of_value("guidance_scale", scale, why).instead(Remedy::Give(&["null_class"])));
            }
        }
        // Less than 1 would be a mixture of the class and of none, which guidance is not.
        let least = if options.classes.is_empty() { f64::NEG_INFINITY } else { 1.0 };
        if options.guidance_scale.is_empty() {
            return Err(Refusal::of("guidance_scale", "there is none; 1 is no guidance"));
        }
        for scale in &options.guidance_scale {
            if !scale.is_finite() {
                return Err(Refusal::of_value("guidance_scale", scale, "expected a finite number"));
            }
            if *scale < least {
                return Err(Refusal::of_value("guidance_scale", scale, "expected 1 (no guidance) or more"));
            }
        }
        if !(0.0..=1.0).contains(&options.guidance_rescale) {
            let found = options.guidance_rescale;
            return Err(Refusal::of_value("guidance_rescale", found, "expected a number from 0 to 1"));
        }
        if !options.image_guidance_scale.is_finite() {
            let found = options.image_guidance_scale;
            return Err(Refusal::of_value("image_guidance_scale", found, "expected a finite number"));
        }
        Ok(())
    }

    /// Rows and columns of the pictures.
    ///
    /// # Errors
    /// A refusal if neither the options nor the model say, or if they are not multiples of what the model needs.
    pub fn size(&self, options: &SampleOptions) -> Result<(usize, usize), Refusal> {
        let fits = |n: usize| n > 0 && n.is_multiple_of(self.multiple) && n <= MAX_SIDE;
        let expected = format!("multiples of {}, at most {MAX_SIDE}", self.multiple);
        let given = match (&options.image, &options.latents) {
            (Some(image), _) => Some(("image", image)),
            (None, Some(latents)) => Some(("latents", latents)),
            (None, None) => None,
        };
        if let Some((field, tensor)) = given {
            let &[_, _, height, width] = tensor.shape.as_slice() else {
                return Err(Refusal::of(field, format!("expected 4 dimensions, found shape {:?}", tensor.shape)));
            };
            let enlarges = field == "latents" || self.kind.enlarges();
            let scale = if enlarges { self.scale } else { 1 };
            let (height, width) = (height.saturating_mul(scale), width.saturating_mul(scale));
            if fits(height) && fits(width) {
                self.check_classifier_size(height, width)?;
                return Ok((height, width));
            }
            let why = format!("the result would be {width} wide and {height} high; expected {expected}");
            let refusal = Refusal::of(field, why);
            return Err(match field {
                "image" => refusal.instead(Remedy::Give(&["width", "height"])),
                _ => refusal,
            });
        }
        let side =
            |field, asked: Option<usize>, own: Option<usize>| match asked.or(own) {
                Some(n) if fits(n) => Ok(n),
                Some(n) => Err(Refusal::of_value(field, n, format!("expected {expected}"))),
                None => Err(Refusal::of(field, "the model's config has no sample_size")
                    .instead(Remedy::Give(&["width", "height"]))),
            };
        let height = side("height", options.height, self.own_size.map(|size| size.0))?;
        let width = side("width", options.width, self.own_size.map(|size| size.1))?;
        self.check_classifier_size(height, width)?;
        Ok((height, width))
    }

    fn check_classifier_size(&self, height: usize, width: usize) -> Result<(), Refusal> {
        match self.classifier {
            Some(ClassifierTraits { size, .. }) if (height, width) != (size, size) => {
                let why = format!("it sees pictures {size} wide and {size} high, and these are {width} by {height}");
                Err(Refusal::of("classifier", why))
            }
            _ => Ok(()),
        }
    }
}
