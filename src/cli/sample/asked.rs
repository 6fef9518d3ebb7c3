//! From options to what a text-to-image pipeline is asked: defaults, pictures read, and a clear word about what does
//! not fit the model.

use std::path::Path;

use super::args::{Options, Switch};
use super::model::Model;
use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::image_io::{Picture, Range, read, resize_lanczos};
use crate::pipelines::{Kind, PromptOptions};
use crate::schedulers::Sampling;
use crate::tensor::HostTensor;

/// What a run may be asked for depends on these.
pub struct Traits {
    /// What the U-Net is for.
    pub kind: Kind,
    /// SDXL.
    pub xl: bool,
    /// The model, or the refiner, is told how beautiful the picture is.
    pub aesthetic: bool,
}

impl Traits {
    /// The traits of a model and the refiner that goes on after it.
    pub fn new(kind: Kind, model: &Model, refiner: Option<&Model>) -> Result<Self> {
        let flag = |model: &Model| {
            model.checkpoint.option("requires_aesthetics_score").is_some_and(|value| value.as_bool() == Some(true))
        };
        let unet = model.checkpoint.component_config("unet")?;
        Ok(Self {
            kind,
            xl: unet.value["addition_embed_type"] == "text_time",
            aesthetic: flag(model) || refiner.is_some_and(flag),
        })
    }
}

/// Fills in the defaults: the model's own, or those of diffusers' pipeline.
pub fn complete(options: &mut Options, traits: &Traits, model: &Model) {
    let distilled = model.checkpoint.pipeline_class().is_some_and(|class| class.starts_with("LatentConsistency"));
    let (steps, guidance) = match traits.kind {
        Kind::Upscale => (75, 9.0),
        Kind::Edit => (100, 7.5),
        _ if distilled => (4, 8.5),
        _ if traits.xl => (50, 5.0),
        _ => (50, 7.5),
    };
    options.steps.get_or_insert(model.defaults.num_inference_steps.unwrap_or(steps));
    if options.guidance_scale.is_empty() {
        options.guidance_scale = vec![model.defaults.guidance_scale.unwrap_or(guidance)];
    }
    options.use_clipped_model_output = model.clipping(options);
    options.clip_skip.get_or_insert(0);
    let changes = matches!(traits.kind, Kind::Plain | Kind::Inpaint) && options.denoising_start.is_none();
    if changes && (options.image.is_some() || options.latents.is_some()) {
        options.strength.get_or_insert(if options.mask.is_some() { 1.0 } else { 0.8 });
    }
    if traits.kind == Kind::Edit {
        options.image_guidance_scale.get_or_insert(1.5);
    }
    if traits.kind == Kind::Upscale {
        options.noise_level.get_or_insert(20);
    }
    if options.refiner.is_some() {
        options.denoising_end.get_or_insert(0.8);
    }
}

/// Refuses options that this model cannot use, by name.
pub fn refuse(options: &Options, traits: &Traits, model: &Path) -> Result<()> {
    let (kind, xl) = (traits.kind, traits.xl);
    let picture = options.image.is_some() || options.latents.is_some();
    let classes = !options.class.is_empty() || options.null_class.is_some();
    let only_xl = "it is for Stable Diffusion XL";
    for (given, option, why) in [
        (classes, "--class", "the model takes a prompt"),
        (
            options.image_guidance_scale.is_some() && kind != Kind::Edit,
            "--image-guidance-scale",
            "it is for models that edit a picture by instruction",
        ),
        (
            options.guidance_rescale.is_some() && kind == Kind::Edit,
            "--guidance-rescale",
            "it is not for models that edit a picture by instruction",
        ),
        (
            options.noise_level.is_some() && kind != Kind::Upscale,
            "--noise-level",
            "it is for models that enlarge a picture",
        ),
        (!options.prompt_2.is_empty() && !xl, "--prompt-2", only_xl),
        (!options.negative_prompt_2.is_empty() && !xl, "--negative-prompt-2", only_xl),
        (options.original_size.is_some() && !xl, "--original-size", only_xl),
        (options.crop.is_some() && !xl, "--crop", only_xl),
        (options.target_size.is_some() && !xl, "--target-size", only_xl),
        (options.refiner.is_some() && !xl, "--refiner", only_xl),
        (
            options.aesthetic_score.is_some() && !traits.aesthetic,
            "--aesthetic-score",
            "it is for Stable Diffusion XL's refiner",
        ),
        (
            options.negative_aesthetic_score.is_some() && !traits.aesthetic,
            "--negative-aesthetic-score",
            "it is for Stable Diffusion XL's refiner",
        ),
        (
            options.strength.is_some() && !picture,
            "--strength",
            "it says how much of a picture is changed; give one with --image",
        ),
        (
            options.denoising_start.is_some() && options.latents.is_none(),
            "--denoising-start",
            "it says where a run goes on; give its --latents",
        ),
        (
            options.denoising_start.is_some() && options.strength.is_some(),
            "--denoising-start",
            "it replaces --strength; leave one of them out",
        ),
        (
            options.denoising_start.is_some() && options.refiner.is_some(),
            "--denoising-start",
            "the refiner begins at --denoising-end",
        ),
        (
            options.latents.is_some() && (options.width.is_some() || options.height.is_some()),
            "--latents",
            "they have a size; leave --width and --height out",
        ),
    ] {
        if given {
            return Err(Error::Usage(format!("{option}: {why} ({})", model.display())));
        }
    }
    Ok(())
}

/// What the pipeline is asked.
pub fn prompt_options(options: &Options) -> Result<PromptOptions> {
    let spread = |texts: &[String], option: &str| spread(texts, option, options);
    let some = |texts: Vec<String>| Some(texts).filter(|texts| !texts.is_empty());
    let prompts = if options.prompt.is_empty() { &[String::new()][..] } else { &options.prompt };
    let (image, mask) = pictures(options)?;
    let flipped = |pair: (usize, usize)| (pair.1, pair.0); // diffusers counts rows first
    let guidance_scale = match options.guidance_scale.as_slice() {
        [one] => vec![*one],
        several => self::spread(several, "--guidance-scale", options)?,
    };
    let own = PromptOptions::default();
    Ok(PromptOptions {
        prompts: spread(prompts, "PROMPT")?,
        negative_prompts: some(spread(&options.negative_prompt, "--negative-prompt")?),
        prompts_2: some(spread(&options.prompt_2, "--prompt-2")?),
        negative_prompts_2: some(spread(&options.negative_prompt_2, "--negative-prompt-2")?),
        weighting: options.weighting,
        height: options.height,
        width: options.width,
        sampling: Sampling {
            eta: options.eta.unwrap_or(0.0),
            use_clipped_model_output: options.use_clipped_model_output == Some(Switch::On),
            strength: options.strength.unwrap_or(1.0),
            denoising_start: options.denoising_start,
            denoising_end: options.denoising_end,
            ..Sampling::steps(options.steps.unwrap_or(50))
        },
        guidance_scale,
        guidance_rescale: options.guidance_rescale.unwrap_or(own.guidance_rescale),
        image_guidance_scale: options.image_guidance_scale.unwrap_or(own.image_guidance_scale),
        clip_skip: options.clip_skip.unwrap_or(0),
        original_size: options.original_size.map(flipped),
        crop: options.crop.map(flipped).unwrap_or(own.crop),
        target_size: options.target_size.map(flipped),
        aesthetic_scores: (
            options.aesthetic_score.unwrap_or(own.aesthetic_scores.0),
            options.negative_aesthetic_score.unwrap_or(own.aesthetic_scores.1),
        ),
        image,
        mask,
        noise_level: options.noise_level.unwrap_or(own.noise_level),
        latents: options.latents.as_deref().map(read_latents).transpose()?,
    })
}

/// A list for all pictures from one with an entry for all, for each prompt, or for each picture. Nothing stays nothing.
fn spread<T: Clone>(given: &[T], option: &str, options: &Options) -> Result<Vec<T>> {
    let (prompts, batch, pictures) = (options.prompt.len().max(1), options.batch_size(), options.pictures());
    match given.len() {
        0 => Ok(Vec::new()),
        1 => Ok(vec![given[0].clone(); pictures]),
        n if n == pictures => Ok(given.to_vec()),
        n if n == prompts => Ok(given.iter().flat_map(|entry| vec![entry.clone(); batch]).collect()),
        n => Err(Error::Usage(format!(
            "{option}: {n} for {prompts} prompts and {pictures} pictures; give one, or as many as there are of either"
        ))),
    }
}

/// The pictures of `--image`, `[1, 3, H, W]` in [−1, 1], and `--mask`, `[1, 1, H, W]` in [0, 1], both resized to
/// `--width` and `--height` if given.
fn pictures(options: &Options) -> Result<(Option<HostTensor>, Option<HostTensor>)> {
    let image = options.image.as_deref().map(|path| read(path, 3)).transpose()?;
    let mask = options.mask.as_deref().map(|path| read(path, 1)).transpose()?;
    if let (Some(image), Some(mask)) = (&image, &mask)
        && (image.width, image.height) != (mask.width, mask.height)
    {
        return Err(Error::Usage(format!(
            "--mask: it is {} x {} pixels, --image {} x {}; they must be of one size",
            mask.width, mask.height, image.width, image.height
        )));
    }
    let resized = |picture: Picture| -> Result<Picture> {
        let (width, height) = (options.width.unwrap_or(picture.width), options.height.unwrap_or(picture.height));
        if width == 0 || height == 0 || width.max(height) > 1 << 14 {
            return Err(Error::Usage(format!("--width {width} --height {height}: expected 1 to {} each", 1 << 14)));
        }
        Ok(if (width, height) == (picture.width, picture.height) {
            picture
        } else {
            resize_lanczos(&picture, width, height)
        })
    };
    let tensor = |picture: Option<Picture>, range| -> Result<Option<HostTensor>> {
        Ok(picture.map(resized).transpose()?.map(|picture| picture.to_tensor(range)))
    };
    Ok((tensor(image, Range::MinusOneToOne)?, tensor(mask, Range::ZeroToOne)?))
}

/// The tensor `latents` of a file.
fn read_latents(path: &Path) -> Result<HostTensor> {
    let file = Tensors::open(path)?;
    if file.info("latents").is_none() {
        let names: Vec<_> = file.names().take(5).collect();
        return Err(Error::Usage(format!(
            "--latents {}: expected a tensor `latents`, as --save-latents writes it; found {}",
            path.display(),
            names.join(", ")
        )));
    }
    file.read_f32("latents")
}
