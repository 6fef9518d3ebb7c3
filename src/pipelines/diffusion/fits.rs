//! Which options fit which model, and which fit together: one table, for requests and for options.

use super::traits::{Kind, Traits};
use crate::refusal::{Refusal, Remedy};
use crate::schedulers::SchedulerClass;

/// A line of the table.
enum Rule {
    /// These fields are only for models of which this holds.
    Only(&'static [&'static str], fn(&Traits) -> bool, &'static str, &'static [Remedy]),
    /// Models of which this holds need all of these fields.
    Needs(fn(&Traits) -> bool, &'static [&'static str], &'static str),
    /// This field makes sense only together with one of these.
    With(&'static str, &'static [&'static str], &'static str, Remedy),
    /// This field does not go together with any of these.
    Without(&'static str, &'static [&'static str], &'static str, Remedy),
}

/// Fields that only models with a text encoder take.
const TEXT: &[&str] = &[
    "prompt",
    "negative_prompt",
    "prompt_2",
    "negative_prompt_2",
    "weighting",
    "clip_skip",
    "guidance_rescale",
    "image_guidance_scale",
    "noise_level",
    "latents",
    "denoising_start",
    "denoising_end",
    "refiner",
    "refiner_lora",
    "vae_tiling",
    "original_size",
    "crop",
    "target_size",
    "aesthetic_score",
    "negative_aesthetic_score",
];

/// Fields of a picture to begin with. Models on pixels take it whole, and a mask with RePaint.
const PICTURE: &[&str] = &["image", "strength", "mask", "mask_reading", "mask_blur", "padding_mask_crop"];

/// Fields that only SDXL takes.
const XL: &[&str] = &["prompt_2", "negative_prompt_2", "original_size", "crop", "target_size", "refiner"];

const RULES: &[Rule] = &[
    Rule::Only(
        TEXT,
        |model| !pixels(model) || model.classes.is_none(),
        "this model has no text encoder, it knows classes",
        &[Remedy::GiveInstead(&["class"])],
    ),
    Rule::Only(TEXT, |model| !pixels(model), "this model has no text encoder", &[]),
    Rule::Only(&["class", "null_class"], pixels, "this model takes a prompt", &[Remedy::GiveInstead(&["prompt"])]),
    Rule::Only(
        &["classifier", "classifier_scale"],
        |model| pixels(model) && model.scale == 1 && !model.consistency,
        "it is for models on pixels that count timesteps",
        &[],
    ),
    Rule::With("classifier_scale", &["classifier"], "there is no classifier", Remedy::Give(&["classifier"])),
    Rule::With("classifier", &["class"], "it leads to a class, and there is none", Remedy::Give(&["class"])),
    Rule::Only(
        &["class"],
        |model| model.classes.is_some() || model.classifier.is_some(),
        "this model has no classes",
        &[],
    ),
    Rule::Only(&["null_class"], |model| model.classes.is_some(), "this model has no classes", &[]),
    Rule::Only(
        &["image_guidance_scale"],
        |model| model.kind == Kind::Edit,
        "it is for models that edit a picture by instruction",
        &[],
    ),
    Rule::Only(
        &["guidance_rescale"],
        |model| model.kind != Kind::Edit,
        "it is not for models that edit a picture by instruction",
        &[],
    ),
    Rule::Only(&["noise_level"], |model| model.kind == Kind::Upscale, "it is for models that enlarge a picture", &[]),
    Rule::Only(XL, |model| model.xl, "it is for Stable Diffusion XL", &[]),
    Rule::Only(
        &["aesthetic_score", "negative_aesthetic_score"],
        |model| model.aesthetic,
        "it is for Stable Diffusion XL's refiner",
        &[],
    ),
    Rule::Only(
        &["mask"],
        |model| model.kind == Kind::Pixels || changes(model),
        "this model cannot paint into a picture",
        &[Remedy::LeaveOut(&["mask"])],
    ),
    Rule::Only(&["strength"], changes, "this model always starts from noise", &[Remedy::LeaveOut(&["strength"])]),
    Rule::Needs(|model| model.kind == Kind::Inpaint, &["image", "mask"], "this model paints into a picture"),
    Rule::Needs(|model| model.kind == Kind::Edit, &["image"], "this model edits a picture as the prompt tells it"),
    Rule::Needs(|model| model.kind.enlarges(), &["image"], "this model enlarges a picture"),
    Rule::With("mask_reading", &["mask"], "there is no mask", Remedy::Give(&["mask"])),
    Rule::With("mask_blur", &["mask"], "there is no mask", Remedy::Give(&["mask"])),
    Rule::With("padding_mask_crop", &["mask"], "there is no mask", Remedy::Give(&["mask"])),
    Rule::With("mask", &["image"], "there is no picture that it belongs to", Remedy::Give(&["image"])),
    Rule::Without(
        "latents",
        &["image"],
        "they take the place of a picture and cannot be combined with one",
        Remedy::LeaveOut(&["latents"]),
    ),
    Rule::Without(
        "steps",
        &["timesteps"],
        "the timesteps that are given say how many there are",
        Remedy::LeaveOut(&["steps"]),
    ),
    Rule::With("refiner_lora", &["refiner"], "there is no refiner that it changes", Remedy::Give(&["refiner"])),
    Rule::With("strength", &["image", "latents"], "it says how much of a picture is changed", Remedy::Give(&["image"])),
    Rule::With("denoising_start", &["latents"], "it says where a run goes on", Remedy::Give(&["latents"])),
    Rule::Without(
        "denoising_start",
        &["strength"],
        "it takes the place of the strength",
        Remedy::LeaveOut(&["strength"]),
    ),
    Rule::Without(
        "denoising_start",
        &["refiner"],
        "the refiner begins where this model ends",
        Remedy::LeaveOut(&["denoising_start"]),
    ),
    Rule::Without("latents", &["width", "height"], "they have a size", Remedy::LeaveOut(&["width", "height"])),
];

/// A model on pixels, or on latents in their place.
fn pixels(model: &Traits) -> bool {
    !model.kind.has_text()
}

/// Whether a picture can be what a run of such a model starts from.
pub fn changes(model: &Traits) -> bool {
    matches!(model.kind, Kind::Plain | Kind::Inpaint)
        || model.kind == Kind::Pixels && model.scale == 1 && !model.consistency
}

/// Checks that the `given` fields (names of a [`Request`](crate::request::Request)) fit the model.
///
/// # Errors
/// A model that no fields fit; the first line of the table that it breaks.
pub fn check(model: &Traits, given: &dyn Fn(&str) -> bool) -> Result<(), Refusal> {
    if let Some(why) = model.lacks_labels {
        return Err(Refusal::of("model", why));
    }
    let any = |fields: &[&str]| fields.iter().any(|field| given(field));
    for rule in RULES {
        let broken = match rule {
            Rule::Only(fields, holds, why, instead) => {
                let field = fields.iter().find(|field| !holds(model) && given(field));
                field.map(|field| Refusal { instead: instead.to_vec(), ..Refusal::of(field, *why) })
            }
            Rule::Needs(holds, fields, why) => {
                let missing = fields.iter().find(|field| holds(model) && !given(field));
                missing.map(|field| Refusal::of(field, *why).instead(Remedy::Give(fields)))
            }
            Rule::With(field, others, why, instead) => {
                (given(field) && !any(others)).then(|| Refusal::of(field, *why).instead(instead.clone()))
            }
            Rule::Without(field, others, why, instead) => {
                (given(field) && any(others)).then(|| Refusal::of(field, *why).instead(instead.clone()))
            }
        };
        if let Some(refusal) = broken {
            return Err(refusal);
        }
    }
    Ok(())
}

/// Checks that the scheduler fits the model and the `given` fields, which [`check`] has found sound: RePaint is how a
/// model on pixels paints into a picture, and does nothing else.
///
/// # Errors
/// A refusal of what does not fit.
pub fn check_scheduler(model: &Traits, class: SchedulerClass, given: &dyn Fn(&str) -> bool) -> Result<(), Refusal> {
    if class == SchedulerClass::RePaint {
        if !pixels(model) || model.scale > 1 {
            let why = "it paints into pictures with models on pixels, and this one is on latents";
            return Err(Refusal::of_value("scheduler", class.name(), why).instead(Remedy::Change("scheduler")));
        }
        let missing = ["image", "mask"].into_iter().find(|field| !given(field));
        if let Some(field) = missing {
            let why = "RePaint paints into a part of a picture";
            return Err(Refusal::of(field, why).instead(Remedy::Give(&["image", "mask"])));
        }
        let why = "RePaint always starts from noise";
        let idle = given("strength").then(|| Refusal::of("strength", why).instead(Remedy::LeaveOut(&["strength"])));
        return idle.map_or(Ok(()), Err);
    }
    let Some(field) = PICTURE.iter().find(|field| model.kind == Kind::Pixels && given(field)) else { return Ok(()) };
    if !changes(model) {
        return Err(Refusal::of(field, "this model makes pictures of noise alone"));
    }
    if !given("mask") {
        return Ok(());
    }
    let refusal = Refusal::of("mask", "this model has no text encoder: RePaint is how it paints into a picture");
    Err(refusal.instead(Remedy::Set("scheduler", "repaint".into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Request;

    #[test]
    fn the_table_speaks_of_fields_that_there_are() {
        let known = Request::fields();
        for rule in RULES {
            let fields = match rule {
                Rule::Only(fields, ..) | Rule::Needs(_, fields, _) => fields.to_vec(),
                Rule::With(field, others, ..) | Rule::Without(field, others, ..) => [&[*field], *others].concat(),
            };
            for field in fields {
                assert!(known.iter().any(|name| name == field), "{field} is no field of a request");
            }
        }
    }
}
