//! The defaults that fill the gaps of a request.

use super::resolve::ModelFacts;
use super::{MaskReading, Precision, Request, Rng, Switch};
use crate::pipelines::{Kind, SampleOptions, Traits, changes};
use crate::rng::Mt19937;
use crate::schedulers::SchedulerClass;

/// The settings in the model's own files, as a request. `asked` holds the values so far; `is_ddim` says whether the
/// scheduler uses DDIM's way of clipping.
pub(super) fn of_model(asked: &Request, model: &ModelFacts<'_>, is_ddim: bool) -> Request {
    let own = model.generation;
    let mut request = Request {
        steps: own.num_inference_steps.filter(|_| asked.timesteps.is_empty()),
        guidance_scale: own.guidance_scale.into_iter().collect(),
        denoising_end: own.denoising_end.filter(|_| asked.refiner.is_some()),
        ..Request::default()
    };
    if is_ddim {
        request.use_clipped_model_output = own.use_clipped_model_output.map(Switch::from);
    }
    // A picture or latents have a size.
    if asked.image.is_none() && asked.latents.is_none() {
        request.height = model.traits.own_size.map(|size| size.0);
        request.width = model.traits.own_size.map(|size| size.1);
    }
    request
}

/// What suits the kind of pipeline. A picture remembers all of it, and so can be made again after a default changes.
/// `asked` holds the values so far.
pub(super) fn of_pipeline(asked: &Request, model: &ModelFacts<'_>, scheduler: SchedulerClass) -> Request {
    let (is_ddim, repaints) = (scheduler == SchedulerClass::Ddim, scheduler == SchedulerClass::RePaint);
    let traits = model.traits;
    let own = traits.defaults();
    let (kind, text) = (traits.kind, traits.kind.has_text());
    let changes = changes(traits)
        && !repaints
        && (asked.image.is_some() || asked.latents.is_some())
        && asked.denoising_start.is_none();
    let strength = if asked.mask.is_some() { 1.0 } else { 0.8 };
    Request {
        batch_size: Some(batch_size(asked)),
        seed: vec![0],
        rng: Some(Rng::default()),
        precision: Some(Precision::default()),
        steps: asked.timesteps.is_empty().then(|| traits.steps(scheduler)),
        jump_length: repaints.then_some(own.sampling.jump_length),
        jump_n_sample: repaints.then_some(own.sampling.jump_n_sample),
        class: drawn_classes(asked, traits),
        classifier_scale: asked.classifier.is_some().then_some(own.classifier_scale),
        eta: Some(own.sampling.eta),
        use_clipped_model_output: is_ddim.then_some(own.sampling.use_clipped_model_output.into()),
        guidance_scale: own.guidance_scale,
        clip_skip: text.then_some(own.clip_skip),
        strength: changes.then_some(strength),
        mask_reading: asked.mask.is_some().then_some(MaskReading::default()),
        image_guidance_scale: (kind == Kind::Edit).then_some(own.image_guidance_scale),
        noise_level: (kind == Kind::Upscale).then_some(own.noise_level),
        denoising_end: asked.refiner.is_some().then_some(0.8),
        ..Request::default()
    }
}

/// What follows from other values, or means that something is off. No picture remembers it: the next one may have
/// another size, or a model with other classes. `asked` holds the values so far.
pub(super) fn that_follow(asked: &Request, model: &ModelFacts<'_>) -> Request {
    let traits = model.traits;
    let own = traits.defaults();
    let (kind, text) = (traits.kind, traits.kind.has_text());
    let size = asked.width.zip(asked.height).filter(|_| traits.xl);
    let own_name = model.scheduler.class.name();
    Request {
        scheduler: Some(model.generation.scheduler.clone().unwrap_or_else(|| own_name.to_owned())),
        prompt: if text { vec![String::new()] } else { Vec::new() },
        null_class: traits.null_class(),
        guidance_rescale: (text && kind != Kind::Edit).then_some(own.guidance_rescale),
        vae_tiling: text.then(|| "auto".to_owned()),
        original_size: size,
        crop: traits.xl.then_some(own.crop),
        target_size: size,
        aesthetic_score: traits.aesthetic.then_some(own.aesthetic_scores.0),
        negative_aesthetic_score: traits.aesthetic.then_some(own.aesthetic_scores.1),
        ..Request::default()
    }
}

/// Classes of a model that has none for "no class", where none is asked for: at random, as diffusers draws them after
/// `torch.manual_seed` with the seed of all pictures, or for each with its own.
fn drawn_classes(asked: &Request, traits: &Traits) -> Vec<usize> {
    let Some(rows) = traits.classes.filter(|_| traits.null_class().or(asked.null_class).is_none()) else {
        return Vec::new();
    };
    if !asked.class.is_empty() {
        return Vec::new();
    }
    let pictures = asked.batch_size.unwrap_or_else(|| batch_size(asked)).min(SampleOptions::MAX_PICTURES);
    let randint = |engine: &mut Mt19937| engine.next_u32() as usize % rows;
    match asked.seed.as_slice() {
        [] | [_] => {
            let mut engine = Mt19937::new(asked.seed.first().copied().unwrap_or(0) as u32);
            (0..pictures).map(|_| randint(&mut engine)).collect()
        }
        seeds => seeds.iter().map(|seed| randint(&mut Mt19937::new(*seed as u32))).collect(),
    }
}

/// Pictures of each prompt: one, or as many as the seeds or classes call for.
fn batch_size(asked: &Request) -> usize {
    let (prompts, seeds) = (asked.prompt.len().max(1), asked.seed.len());
    match seeds {
        0 | 1 => asked.class.len().max(1),
        _ if seeds.is_multiple_of(prompts) => seeds / prompts,
        _ => 1,
    }
}
