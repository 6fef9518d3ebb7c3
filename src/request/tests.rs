use serde_json::json;

use super::*;
use crate::pipelines::{Kind, Traits};
use crate::refusal::{Refusal, Remedy};
use crate::schedulers::SchedulerConfig;

/// A model of which nothing but this is known.
struct Known {
    traits: Traits,
    generation: GenerationConfig,
    scheduler: SchedulerConfig,
}

impl Known {
    fn new(kind: Kind) -> Self {
        let (scale, classes) = if kind == Kind::Pixels { (1, Some(11)) } else { (8, None) };
        let traits = Traits {
            kind,
            xl: false,
            aesthetic: false,
            consistency: false,
            distilled: false,
            steps: None,
            max_noise_level: (kind == Kind::Upscale).then_some(350),
            lacks_labels: None,
            classes,
            ldm_text: false,
            classifier: None,
            own_size: Some((64 * scale, 32 * scale)),
            multiple: 4.max(scale),
            scale,
        };
        Self { traits, generation: GenerationConfig::default(), scheduler: scheduler_config("PNDMScheduler") }
    }

    fn resolve(&self, asked: impl Into<Asked>) -> Result<Resolved, Refusal> {
        let Self { traits, generation, scheduler } = self;
        resolve(&asked.into(), &ModelFacts { traits, generation, scheduler })
    }

    fn refused(&self, request: Request) -> Refusal {
        self.resolve(request.clone()).expect_err(&format!("{request:?} was expected to be refused"))
    }
}

fn scheduler_config(class: &str) -> SchedulerConfig {
    let text = json!({"_class_name": class, "skip_prk_steps": true}).to_string();
    SchedulerConfig::from_json(&text).expect("sound")
}

fn prompt() -> Request {
    Request { prompt: vec!["a fox".into()], ..Request::default() }
}

fn origin(resolved: &Resolved, field: &str) -> Option<Origin> {
    resolved.settings.iter().find(|setting| setting.field == field).map(|setting| setting.origin)
}

#[test]
fn what_is_asked_goes_before_the_picture_before_the_model_before_the_pipeline() {
    let mut model = Known::new(Kind::Plain);
    let steps_and_origin = |resolved: &Resolved| (resolved.request.steps, origin(resolved, "steps"));

    let plain = model.resolve(prompt()).expect("fits");
    assert_eq!(steps_and_origin(&plain), (Some(50), Some(Origin::Pipeline)));
    assert_eq!((plain.options.sampling.num_inference_steps, plain.options.guidance_scale.clone()), (50, vec![7.5]));
    assert_eq!((plain.request.height, plain.request.width), (Some(512), Some(256)));
    assert_eq!(origin(&plain, "width"), Some(Origin::Model));

    model.generation.num_inference_steps = Some(30);
    model.generation.guidance_scale = Some(3.0);
    let own = model.resolve(prompt()).expect("fits");
    assert_eq!(steps_and_origin(&own), (Some(30), Some(Origin::Model)));
    assert_eq!(own.options.guidance_scale, [3.0]);

    let past =
        Past { request: Request { steps: Some(20), ..prompt() }, scheduler: Some(scheduler_config("DDIMScheduler")) };
    let asked = Asked { request: Request::default(), past: Some(past.clone()) };
    let again = model.resolve(asked).expect("fits");
    assert_eq!(steps_and_origin(&again), (Some(20), Some(Origin::Picture)));
    assert_eq!(again.options.prompts, ["a fox"]);

    let asked = Asked { request: Request { steps: Some(10), ..Request::default() }, past: Some(past) };
    let other = model.resolve(asked).expect("fits");
    assert_eq!(steps_and_origin(&other), (Some(10), Some(Origin::Asked)));
    assert_eq!(origin(&other, "prompt"), Some(Origin::Picture));
    assert_eq!(origin(&other, "guidance_scale"), Some(Origin::Model), "the picture does not say");
}

#[test]
fn the_scheduler_too_remembers_who_chose_it() {
    let mut model = Known::new(Kind::Plain);
    let chosen = |model: &Known, asked: Asked| {
        let resolved = model.resolve(asked).expect("fits");
        let setting = resolved.settings.iter().find(|setting| setting.field == "scheduler").expect("always there");
        (resolved.scheduler.config.class.name(), setting.value.clone(), setting.origin)
    };
    let pndm = "PNDMScheduler";
    assert_eq!(chosen(&model, prompt().into()), (pndm, json!(pndm), Origin::Model));
    model.generation.scheduler = Some("ddim".into());
    let ddim = "DDIMScheduler";
    assert_eq!(chosen(&model, prompt().into()), (ddim, json!("ddim"), Origin::Model));
    let asked = |name: Option<&str>, past: Option<&str>| Asked {
        request: Request { scheduler: name.map(str::to_owned), ..prompt() },
        past: past.map(|class| Past { request: prompt(), scheduler: Some(scheduler_config(class)) }),
    };
    let euler = "EulerDiscreteScheduler";
    assert_eq!(chosen(&model, asked(None, Some(euler))), (euler, json!(euler), Origin::Picture));
    assert_eq!(
        chosen(&model, asked(Some("heun"), Some(euler))),
        ("HeunDiscreteScheduler", json!("heun"), Origin::Asked)
    );
    // Another model: the picture's scheduler was for the noise schedule of its own.
    let mut elsewhere = asked(None, Some(euler));
    elsewhere.request.model = Some("another".into());
    assert_eq!(chosen(&model, elsewhere), (ddim, json!("ddim"), Origin::Model));
}

#[test]
fn every_kind_of_model_has_its_defaults() {
    let steps_and_guidance = |kind, change: fn(&mut Traits), request| {
        let mut model = Known::new(kind);
        change(&mut model.traits);
        let resolved = model.resolve(request).expect("fits");
        (resolved.request.steps.expect("filled in"), resolved.request.guidance_scale[0])
    };
    let image = || Request { image: Some("a.png".into()), ..prompt() };
    let masked = || Request { mask: Some("b.png".into()), ..image() };
    assert_eq!(steps_and_guidance(Kind::Pixels, |_| (), Request::default()), (50, 1.0));
    assert_eq!(steps_and_guidance(Kind::Plain, |_| (), prompt()), (50, 7.5));
    assert_eq!(steps_and_guidance(Kind::Plain, |traits| traits.xl = true, prompt()), (50, 5.0));
    assert_eq!(steps_and_guidance(Kind::Plain, |traits| traits.consistency = true, prompt()), (4, 8.5));
    assert_eq!(steps_and_guidance(Kind::Inpaint, |_| (), masked()), (50, 7.5));
    assert_eq!(steps_and_guidance(Kind::Edit, |_| (), image()), (100, 7.5));
    assert_eq!(steps_and_guidance(Kind::Upscale, |_| (), image()), (75, 9.0));

    let strength = |request| Known::new(Kind::Plain).resolve(request).expect("fits").request.strength;
    assert_eq!((strength(prompt()), strength(image()), strength(masked())), (None, Some(0.8), Some(1.0)));
    let latents = Request { latents: Some("l".into()), ..prompt() };
    assert_eq!(strength(latents.clone()), Some(0.8));
    assert_eq!(strength(Request { denoising_start: Some(0.5), ..latents }), None);
}

#[test]
fn lists_are_for_all_for_each_prompt_or_for_each_picture() {
    let model = Known::new(Kind::Plain);
    let two = |request: Request| Request { prompt: vec!["a".into(), "b".into()], ..request };
    let with = |scales: &[f64], batch_size| {
        let request = Request { guidance_scale: scales.to_vec(), batch_size, ..two(Request::default()) };
        model.resolve(request).map(|resolved| resolved.options)
    };
    let options = with(&[2.0, 6.0], Some(2)).expect("one for each prompt");
    assert_eq!((options.batch_size, options.guidance_scale), (4, vec![2.0, 2.0, 6.0, 6.0]));
    assert_eq!(options.prompts, ["a", "a", "b", "b"]);
    assert_eq!(
        with(&[1.0, 2.0, 3.0, 4.0], Some(2)).expect("one for each picture").guidance_scale,
        [1.0, 2.0, 3.0, 4.0]
    );
    assert_eq!(with(&[3.0], Some(2)).expect("one for all").guidance_scale, [3.0]);
    assert_eq!(with(&[1.0, 2.0, 3.0], Some(2)).expect_err("neither").field, "guidance_scale");

    let seeds = |seed: &[u64]| model.resolve(Request { seed: seed.to_vec(), ..two(Request::default()) });
    assert_eq!(seeds(&[1, 2, 3, 4]).expect("two for each").request.batch_size, Some(2));
    assert_eq!(seeds(&[1, 2, 3]).expect_err("three for two").field, "seed");

    let classes = Request { class: vec![7, 9], batch_size: Some(3), ..Request::default() };
    assert_eq!(Known::new(Kind::Pixels).resolve(classes).expect("fits").options.classes, [7, 9, 7], "they take turns");
}

#[test]
fn a_refusal_names_the_field_and_what_to_do() {
    let (plain, pixels) = (Known::new(Kind::Plain), Known::new(Kind::Pixels));
    let refusal = plain.refused(Request { class: vec![3], ..prompt() });
    assert_eq!((refusal.field, refusal.instead), ("class", vec![Remedy::GiveInstead(&["prompt"])]));
    let refusal = pixels.refused(prompt());
    assert_eq!((refusal.field, refusal.instead), ("prompt", vec![Remedy::GiveInstead(&["class"])]));
    let refusal = plain.refused(Request { mask: Some("m.png".into()), ..prompt() });
    assert_eq!((refusal.field, refusal.instead), ("mask", vec![Remedy::Give(&["image"])]));
    let refusal = Known::new(Kind::Inpaint).refused(Request { image: Some("i.png".into()), ..prompt() });
    assert_eq!((refusal.field, refusal.instead), ("mask", vec![Remedy::Give(&["image", "mask"])]));

    let image = || Some("i.png".into());
    let cases = [
        ("class", pixels.refused(Request { guidance_scale: vec![2.0], class: vec![11], ..Request::default() })),
        ("guidance_scale", pixels.refused(Request { guidance_scale: vec![0.5], class: vec![1], ..Request::default() })),
        ("refiner", plain.refused(Request { refiner: Some("r".into()), ..prompt() })),
        ("original_size", plain.refused(Request { original_size: Some((8, 8)), ..prompt() })),
        ("aesthetic_score", plain.refused(Request { aesthetic_score: Some(7.0), ..prompt() })),
        ("noise_level", plain.refused(Request { noise_level: Some(7), ..prompt() })),
        ("image_guidance_scale", plain.refused(Request { image_guidance_scale: Some(7.0), ..prompt() })),
        ("guidance_rescale", plain.refused(Request { guidance_rescale: Some(1.5), ..prompt() })),
        ("strength", plain.refused(Request { strength: Some(0.5), ..prompt() })),
        ("denoising_start", plain.refused(Request { denoising_start: Some(0.5), ..prompt() })),
        ("latents", plain.refused(Request { latents: image(), width: Some(64), ..prompt() })),
        ("latents", plain.refused(Request { latents: image(), image: image(), ..prompt() })),
        ("image", Known::new(Kind::Edit).refused(prompt())),
        ("strength", Known::new(Kind::Edit).refused(Request { image: image(), strength: Some(0.5), ..prompt() })),
        ("mask", Known::new(Kind::Upscale).refused(Request { image: image(), mask: image(), ..prompt() })),
        (
            "noise_level",
            Known::new(Kind::Upscale).refused(Request { image: image(), noise_level: Some(351), ..prompt() }),
        ),
        ("steps", plain.refused(Request { steps: Some(0), ..prompt() })),
        ("denoising_end", plain.refused(Request { denoising_end: Some(2.0), ..prompt() })),
        ("width", plain.refused(Request { width: Some(33), ..prompt() })),
        ("batch_size", plain.refused(Request { batch_size: Some(0), ..prompt() })),
        ("batch_size", plain.refused(Request { batch_size: Some(usize::MAX), ..prompt() })),
        ("eta", plain.refused(Request { eta: Some(f64::NAN), ..prompt() })),
        ("scheduler", plain.refused(Request { scheduler: Some("magic".into()), ..prompt() })),
        ("prediction_type", plain.refused(Request { prediction_type: Some("flow".into()), ..prompt() })),
        ("vae_tiling", plain.refused(Request { vae_tiling: Some("maybe".into()), ..prompt() })),
    ];
    for (field, refusal) in cases {
        assert_eq!(refusal.field, field, "{refusal}");
        assert!(refusal.to_string().starts_with(&format!("`{field}`")) && refusal.why.len() > 8, "{refusal}");
        assert!(Request::fields().iter().any(|known| known == refusal.field), "{field} is no field");
    }
}

#[test]
fn a_picture_remembers_no_value_that_follows_from_others() {
    let mut model = Known::new(Kind::Plain);
    model.traits.xl = true;
    let resolved = model.resolve(prompt()).expect("fits");
    assert_eq!(resolved.options.original_size, Some((512, 256)), "rows first");
    assert_eq!(origin(&resolved, "original_size"), Some(Origin::Pipeline));
    assert_eq!((resolved.request.original_size, resolved.request.crop), (None, None));
    // So that a replay of another size is of that size in every respect.
    let past = Past { request: resolved.request, scheduler: Some(resolved.scheduler.config) };
    let request = Request { width: Some(128), ..Request::default() };
    let again = model.resolve(Asked { request, past: Some(past) }).expect("fits");
    assert_eq!(again.options.original_size, Some((512, 128)));
}

/// RePaint is the only way of a model on pixels into a part of a picture, and has numbers of its own.
#[test]
fn repaint_has_its_own_defaults() {
    let model = Known::new(Kind::Pixels);
    let picture =
        || Request { image: Some("a.png".into()), mask: Some("b.png".into()), class: vec![3], ..Request::default() };
    let with = |name: &str| Request { scheduler: Some(name.into()), ..picture() };
    let resolved = model.resolve(with("repaint")).expect("fits");
    let Request { steps, jump_length, jump_n_sample, .. } = resolved.request;
    assert_eq!((steps, jump_length, jump_n_sample), (Some(250), Some(10), Some(10)));
    assert_eq!(resolved.options.sampling.jump_n_sample, 10);
    let few = Request { jump_length: Some(2), jump_n_sample: Some(3), steps: Some(6), ..with("repaint") };
    let sampling = model.resolve(few).expect("fits").options.sampling;
    assert_eq!((sampling.num_inference_steps, sampling.jump_length, sampling.jump_n_sample), (6, 2, 3));

    let refusal = model.refused(picture());
    assert_eq!((refusal.field, refusal.instead), ("mask", vec![Remedy::Set("scheduler", "repaint".into())]));
    assert_eq!(model.refused(Request { image: None, mask: None, ..with("repaint") }).field, "image");
    assert_eq!(Known::new(Kind::Plain).refused(Request { class: vec![], ..with("repaint") }).field, "scheduler");
    let refusal = model.refused(Request { strength: Some(0.5), ..with("repaint") });
    assert_eq!((refusal.field, refusal.instead), ("strength", vec![Remedy::LeaveOut(&["strength"])]));
    // A whole picture it changes as others do.
    let whole = model.resolve(Request { mask: None, ..picture() }).expect("fits");
    assert_eq!((whole.request.strength, whole.options.sampling.strength), (Some(0.8), 0.8));
    let idle = Request { jump_length: Some(2), ..Request::default() };
    let resolved = model.resolve(idle).expect("it changes nothing");
    assert!(resolved.request.jump_length.is_none() && resolved.notes[0].contains("`jump_length` has no effect"));
}

/// Timesteps say how many steps there are; what is asked for goes before what a picture says of either.
#[test]
fn timesteps_or_steps() {
    let mut model = Known::new(Kind::Pixels);
    model.scheduler = scheduler_config("DDPMScheduler");
    let steps = |steps| Request { steps: Some(steps), ..Request::default() };
    let timesteps = |list: &[usize]| Request { timesteps: list.to_vec(), ..Request::default() };
    let again = |request: Request, past: &Request| {
        let past = Some(Past { request: model.resolve(past.clone()).expect("fits").request, scheduler: None });
        let resolved = model.resolve(Asked { request, past }).expect("fits");
        (resolved.request.steps, resolved.request.timesteps, resolved.options.sampling.num_inference_steps)
    };
    let own = timesteps(&[900, 500, 0]);
    assert_eq!(again(Request::default(), &own), (None, vec![900, 500, 0], 3));
    assert_eq!(again(steps(5), &own), (Some(5), vec![], 5));
    assert_eq!(again(own.clone(), &steps(5)), (None, vec![900, 500, 0], 3));
    assert_eq!(model.refused(Request { steps: Some(3), ..own }).field, "steps");
    assert_eq!(model.refused(timesteps(&[3, 5])).field, "timesteps");
    model.scheduler = scheduler_config("DDIMScheduler");
    assert_eq!(model.refused(timesteps(&[5, 3])).field, "timesteps");
}
