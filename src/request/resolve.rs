//! Turns a request for a model into what its pipeline does.

use std::fmt;

use serde_json::Value;

use super::layers::Stack;
use super::{Asked, GenerationConfig, Origin, Request, Rng, Switch, defaults, idle};
use crate::error::Error;
use crate::pipelines::{Moved, SampleOptions, Tiling, Traits, check_fits, check_scheduler};
use crate::refusal::{Refusal, Remedy};
use crate::rng::{NoiseSource, TorchCpu, TorchCuda};
use crate::schedulers::{Sampling, Scheduler, SchedulerClass, SchedulerConfig, scheduler_by_name};

/// What resolving a request needs to know of a model.
#[derive(Clone, Copy, Debug)]
pub struct ModelFacts<'a> {
    /// The traits that decide what fits it.
    pub traits: &'a Traits,
    /// The settings that its folder recommends.
    pub generation: &'a GenerationConfig,
    /// The config of the scheduler in its files.
    pub scheduler: &'a SchedulerConfig,
}

/// A request with nothing left open.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The request with the defaults that a picture remembers; another version can resolve it again.
    pub request: Request,
    /// The pipeline's options. Whoever reads the files fills in `image`, `mask` and `latents`.
    pub options: SampleOptions,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// How the autoencoder works.
    pub tiling: Tiling,
    /// Every value and where it came from, by the names of the fields.
    pub settings: Vec<Setting>,
    /// What was asked for and has no effect, and what was chosen by chance, one sentence each.
    pub notes: Vec<String>,
}

/// One setting of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The field of [`Request`] (or of its [`DeviceRequest`](super::DeviceRequest)).
    pub field: String,
    /// Its value.
    pub value: Value,
    /// Where the value came from.
    pub origin: Origin,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Asked => "asked for",
            Origin::Picture => "the picture that is made again",
            Origin::Model => "the model's own files",
            Origin::Pipeline => "the pipeline's default",
        })
    }
}

impl Resolved {
    /// One noise source for all pictures, or one for each.
    pub fn noise_sources(&self) -> Vec<Box<dyn NoiseSource>> {
        let source = |seed: &u64| -> Box<dyn NoiseSource> {
            match self.request.rng.unwrap_or_default() {
                Rng::TorchCpu => Box::new(TorchCpu::new(*seed)),
                Rng::TorchCuda => Box::new(TorchCuda::new(*seed)),
            }
        };
        self.request.seed.iter().map(source).collect()
    }
}

/// Works out what `asked` means for `model`.
///
/// # Errors
/// What the model cannot do, what does not go together, and values that make no sense, by the field at fault.
pub fn resolve(asked: &Asked, model: &ModelFacts<'_>) -> Result<Resolved, Refusal> {
    let mut layers = asked.layers()?;
    // Timesteps say how many steps there are: what is asked for goes before what a picture says of either.
    match (layers.origin("timesteps"), layers.origin("steps")) {
        (Some(Origin::Asked), Some(Origin::Picture)) => _ = layers.remove("steps"),
        (Some(Origin::Picture), Some(Origin::Asked)) => _ = layers.remove("timesteps"),
        _ => {}
    }
    check_fits(model.traits, &|field| layers.given(field))?;
    let (scheduler, scheduler_origin) = scheduler(asked, model.scheduler, model.generation)?;

    // 1. what the request leaves open
    let class = scheduler.class;
    check_scheduler(model.traits, class, &|field| layers.given(field))?;
    let is_ddim = class == SchedulerClass::Ddim;
    let from_model = defaults::of_model(&layers.request(), model, is_ddim);
    layers.below(Origin::Model, &from_model)?;
    let from_pipeline = defaults::of_pipeline(&layers.request(), model, class);
    layers.below(Origin::Pipeline, &from_pipeline)?;
    let mut notes = idle::leave_out(&mut layers, model.traits, scheduler.class);
    layers.below(Origin::Pipeline, &from_pipeline)?; // in place of what was left out
    let request = layers.request();
    let that_follow = defaults::that_follow(&request, model);
    layers.below(Origin::Pipeline, &that_follow)?;

    if layers.origin("class") == Some(Origin::Pipeline) {
        let drawn: Vec<String> = request.class.iter().map(ToString::to_string).collect();
        notes.push(format!("`class` {}: none was asked for, so the seed has drawn it", drawn.join(", ")));
    }

    // 2. the pipeline's options
    let options = options(&layers.request())?;
    model.traits.check(&options)?;
    if request.image.is_none() && request.latents.is_none() {
        model.traits.size(&options)?;
    }
    if model.traits.classifier.is_some() {
        Moved::by(&scheduler)?;
    }
    let scheduler = Scheduler::new(scheduler).map_err(|error| refused("scheduler", None, error))?;
    let sampling = model.traits.sampling(&options, scheduler.config.class);
    let field = if sampling.timesteps.is_some() { "timesteps" } else { "steps" };
    scheduler.schedule(&sampling).map_err(|error| refused(field, None, error))?;
    let tiling = request.vae_tiling.as_deref().unwrap_or("auto");
    let tiling = tiling.parse().map_err(|why: String| Refusal::of_value("vae_tiling", tiling, why))?;

    // 3. where each value came from
    let settings = settings(&layers, &scheduler.config, scheduler_origin, is_ddim);
    Ok(Resolved { request, options, scheduler, tiling, settings, notes })
}

/// The scheduler, and who chose it: the request, the picture, the model's recommended settings, or its scheduler
/// config.
/// `own` is the config of the scheduler in the model's files; every other one works on its noise schedule.
///
/// # Errors
/// A refusal if there is no such scheduler, or if it cannot serve the model.
pub fn scheduler(
    asked: &Asked,
    own: &SchedulerConfig,
    generation: &GenerationConfig,
) -> Result<(SchedulerConfig, Origin), Refusal> {
    let given = &asked.request;
    let changed = given.scheduler.is_some()
        || given.scheduler_config.is_some()
        || given.prediction_type.is_some()
        || given.model.is_some();
    if let Some(past) = asked.past.as_ref().and_then(|past| past.scheduler.as_ref()).filter(|_| !changed) {
        return Ok((past.clone(), Origin::Picture));
    }
    let merged = asked.merged()?;
    let (mut config, mut origin) = (own.clone(), Origin::Model);
    if let Some(name) = merged.scheduler.as_ref().or(generation.scheduler.as_ref()) {
        config = scheduler_by_name(name, own).map_err(|error| refused("scheduler", Some(name), error))?;
    }
    if merged.scheduler.is_some() {
        origin = if given.scheduler.is_some() { Origin::Asked } else { Origin::Picture };
    }
    if let Some(name) = &merged.prediction_type {
        let keys = [("prediction_type", Value::from(name.as_str()))];
        config =
            config.with_class(config.class, &keys).map_err(|error| refused("prediction_type", Some(name), error))?;
    }
    if config.class == SchedulerClass::DdimInverse {
        let why = "it goes from a picture to its noise, and pictures are made on the way back";
        return Err(Refusal::of_value("scheduler", config.class.name(), why).instead(Remedy::Change("scheduler")));
    }
    Ok((config, origin))
}

/// An error that the value of a field leads to.
fn refused(field: &'static str, found: Option<&String>, error: Error) -> Refusal {
    let why = match error {
        Error::Refused(refusal) => return refusal,
        Error::Usage(why) | Error::Unsupported(why) | Error::Config(why) => why,
        other => other.to_string(),
    };
    Refusal { found: found.cloned(), ..Refusal::of(field, why) }
}

/// The pipeline's options of a complete request.
fn options(request: &Request) -> Result<SampleOptions, Refusal> {
    let (prompts, pictures) = (request.prompt.len().max(1), request.pictures());
    let batch = request.batch_size.unwrap_or(1);
    if pictures == 0 || pictures > SampleOptions::MAX_PICTURES {
        let why = format!("{pictures} pictures, expected 1 to {}", SampleOptions::MAX_PICTURES);
        return Err(Refusal::of_value("batch_size", batch, why));
    }
    let seeds = request.seed.len();
    if seeds > 1 && seeds != pictures {
        let why = format!("{seeds} seeds for {pictures} pictures; give one, or one for each picture");
        return Err(Refusal::of("seed", why));
    }
    let texts = |field, texts: &[String]| spread(field, texts, prompts, batch);
    let flipped = |(width, height): (usize, usize)| (height, width); // diffusers counts rows first
    let own = SampleOptions::default();
    Ok(SampleOptions {
        batch_size: pictures,
        prompts: texts("prompt", &request.prompt)?,
        negative_prompts: texts("negative_prompt", &request.negative_prompt)?,
        prompts_2: texts("prompt_2", &request.prompt_2)?,
        negative_prompts_2: texts("negative_prompt_2", &request.negative_prompt_2)?,
        weighting: request.weighting,
        clip_skip: request.clip_skip.unwrap_or(own.clip_skip),
        // Classes take turns.
        classes: request.class.iter().cycle().take(pictures).copied().collect(),
        null_class: request.null_class,
        height: request.height,
        width: request.width,
        sampling: Sampling {
            eta: request.eta.unwrap_or(own.sampling.eta),
            use_clipped_model_output: request.use_clipped_model_output == Some(Switch::On),
            strength: request.strength.unwrap_or(own.sampling.strength),
            denoising_start: request.denoising_start,
            denoising_end: request.denoising_end,
            jump_length: request.jump_length.unwrap_or(own.sampling.jump_length),
            jump_n_sample: request.jump_n_sample.unwrap_or(own.sampling.jump_n_sample),
            timesteps: (!request.timesteps.is_empty()).then(|| request.timesteps.clone()),
            ..Sampling::steps(match request.timesteps.len() {
                0 => request.steps.unwrap_or(own.sampling.num_inference_steps),
                n => n,
            })
        },
        guidance_scale: spread("guidance_scale", &request.guidance_scale, prompts, batch)?,
        classifier_scale: request.classifier_scale.unwrap_or(own.classifier_scale),
        guidance_rescale: request.guidance_rescale.unwrap_or(own.guidance_rescale),
        image_guidance_scale: request.image_guidance_scale.unwrap_or(own.image_guidance_scale),
        original_size: request.original_size.map(flipped),
        crop: request.crop.map_or(own.crop, flipped),
        target_size: request.target_size.map(flipped),
        aesthetic_scores: (
            request.aesthetic_score.unwrap_or(own.aesthetic_scores.0),
            request.negative_aesthetic_score.unwrap_or(own.aesthetic_scores.1),
        ),
        noise_level: request.noise_level.unwrap_or(own.noise_level),
        image: None,
        mask: None,
        mask_reduction: request.mask_reading.unwrap_or_default().reduction(),
        latents: None,
        noise: None,
    })
}

/// A list with one entry for all pictures or one for each, made from one that has one for all, one for each of
/// `prompts`, or one for each picture (`batch` for each prompt).
fn spread<T: Clone>(field: &'static str, given: &[T], prompts: usize, batch: usize) -> Result<Vec<T>, Refusal> {
    let pictures = prompts * batch;
    match given.len() {
        0 | 1 => Ok(given.to_vec()),
        n if n == pictures => Ok(given.to_vec()),
        n if n == prompts => Ok(given.iter().flat_map(|entry| vec![entry.clone(); batch]).collect()),
        n => Err(Refusal::of(
            field,
            format!("{n} for {prompts} prompts and {pictures} pictures; give one, or as many as there are of either"),
        )),
    }
}

/// Every value and where it came from.
fn settings(layers: &Stack, scheduler: &SchedulerConfig, chosen_by: Origin, is_ddim: bool) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (field, mut value) in layers.settings() {
        let mut origin = layers.origin(&field).unwrap_or(Origin::Pipeline);
        if field == "use_clipped_model_output" && !is_ddim {
            continue;
        }
        if field == "scheduler" {
            // A picture's scheduler, if it has no name, is known by its class alone.
            if chosen_by == Origin::Picture && origin != Origin::Picture {
                value = Value::from(scheduler.class.name());
            }
            origin = chosen_by;
        }
        settings.push(Setting { field, value, origin });
    }
    settings
}
