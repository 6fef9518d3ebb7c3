//! What the options of the Stable Diffusion pipeline promise, beyond agreeing with diffusers.

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions, TextEncoders};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig, scheduler_by_name};
use unmist::{DType, HostTensor};

use crate::common::{distance, one, stable_diffusion};
use crate::device::gpu;

fn pipeline(model: &str, scheduler: &str) -> DiffusionPipeline {
    let checkpoint = Checkpoint::open(stable_diffusion(model)).expect("the model is there");
    let own = DiffusionPipeline::scheduler_config(&checkpoint).expect("sound");
    let config = scheduler_by_name(scheduler, &own).expect("a known name");
    DiffusionPipeline::load(&checkpoint, Scheduler::new(config).expect("sound")).expect("loads")
}

fn latents(pipeline: &DiffusionPipeline, options: &SampleOptions, seeds: &[u64]) -> unmist::Result<HostTensor> {
    let device = Device::Gpu(gpu().clone());
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let mut sources: Vec<_> = seeds.iter().map(|s| TorchCpu::new(*s)).collect();
    pipeline.sample_latents(&runtime, options, &mut sources, &mut |_| Ok(()))
}

fn options(prompts: &[&str]) -> SampleOptions {
    SampleOptions {
        batch_size: prompts.len(),
        prompts: prompts.iter().map(|p| (*p).to_owned()).collect(),
        guidance_scale: vec![7.5],
        height: Some(32),
        width: Some(48),
        sampling: Sampling::steps(4),
        ..SampleOptions::default()
    }
}

#[test]
fn a_picture_of_a_batch_is_as_it_would_be_alone() {
    // What they draw: fresh noise, a path for each picture, and noise that is drawn even where it counts for nothing.
    for scheduler in ["euler a", "dpm++ sde", "sa_solver"] {
        each_picture_is_as_it_would_be_alone(&pipeline("sd1", scheduler));
    }
}

fn each_picture_is_as_it_would_be_alone(pipeline: &DiffusionPipeline) {
    let negatives = ["blurry", "", "dark"];
    let mut together = options(&["a red apple", "a fox in the snow", "a boat"]);
    together.negative_prompts = negatives.map(str::to_owned).to_vec();
    together.guidance_scale = vec![7.5, 1.0, 3.0];
    let all = latents(pipeline, &together, &[5, 6, 7]).expect("samples");
    for (i, negative) in negatives.into_iter().enumerate() {
        let mut alone = options(&[&together.prompts[i]]);
        alone.negative_prompts = vec![negative.to_owned()];
        alone.guidance_scale = vec![together.guidance_scale[i]];
        let single = latents(pipeline, &alone, &[5 + i as u64]).expect("samples");
        // In a larger batch the tiles differ, and with them the order of summation.
        let difference = distance(&one(&all, i), &single);
        assert!(difference < 1e-3, "picture {i}: {difference:.1e}");
    }
    let unguided = latents(pipeline, &options(&["a red apple"]), &[5]).expect("samples");
    assert!(distance(&one(&all, 0), &unguided) > 1e-2, "the negative prompt has no effect");
}

#[test]
fn image_to_image_with_a_seed_for_each_picture() {
    let pipeline = pipeline("sd1", "ddim");
    let image = HostTensor::from_fn([1, 3, 32, 48], |i| ((i % 97) as f32 / 48.0) - 1.0);
    let from = |prompts: &[&str]| {
        let sampling = Sampling { strength: 0.5, ..Sampling::steps(4) };
        SampleOptions { image: Some(image.clone()), sampling, ..options(prompts) }
    };
    let both = latents(&pipeline, &from(&["a fox", "a fox"]), &[1, 2]).expect("samples");
    for i in 0..2 {
        let single = latents(&pipeline, &from(&["a fox"]), &[1 + i as u64]).expect("samples");
        assert!(distance(&one(&both, i), &single) < 1e-3, "picture {i}");
    }
}

#[test]
fn a_run_in_two_parts_is_the_whole_run() {
    // Schedulers that remember nothing from step to step, so that the second part does not miss what the first knew.
    for scheduler in ["ddim", "euler"] {
        let pipeline = pipeline("sd1", scheduler);
        let whole = SampleOptions { sampling: Sampling::steps(6), ..options(&["a fox"]) };
        let truth = latents(&pipeline, &whole, &[3]).expect("samples");
        let first = Sampling { denoising_end: Some(0.55), ..Sampling::steps(6) };
        let half = latents(&pipeline, &SampleOptions { sampling: first, ..whole.clone() }, &[3]).expect("samples");
        assert!(distance(&half, &truth) > 1e-2, "{scheduler}: the first part did everything");
        let second = Sampling { denoising_start: Some(0.55), ..Sampling::steps(6) };
        let rest = SampleOptions { sampling: second, latents: Some(half), ..whole };
        let joined = latents(&pipeline, &rest, &[99]).expect("samples");
        let difference = distance(&joined, &truth);
        assert!(difference < 1e-4, "{scheduler}: {difference:.1e}");
    }
}

/// Steps are counted through both parts, so that a prompt changes where it would in the whole run.
#[test]
fn a_prompt_that_changes_does_so_through_both_parts() {
    let pipeline = pipeline("sd1", "ddim");
    let editing = |sampling: Sampling, prompt: &str| SampleOptions { weighting: true, sampling, ..options(&[prompt]) };
    for prompt in ["a [red:blue:0.5] [fox|owl]", "a [red:blue:2] fox", "a [red:blue:5] fox"] {
        let truth = latents(&pipeline, &editing(Sampling::steps(6), prompt), &[3]).expect("samples");
        let first = Sampling { denoising_end: Some(0.55), ..Sampling::steps(6) };
        let half = latents(&pipeline, &editing(first, prompt), &[3]).expect("samples");
        let second = Sampling { denoising_start: Some(0.55), ..Sampling::steps(6) };
        let rest = SampleOptions { latents: Some(half), ..editing(second, prompt) };
        let joined = latents(&pipeline, &rest, &[99]).expect("samples");
        let difference = distance(&joined, &truth);
        assert!(difference < 1e-4, "{prompt}: {difference:.1e}");
        let plain = latents(&pipeline, &editing(Sampling::steps(6), "a red fox"), &[3]).expect("samples");
        assert!(distance(&truth, &plain) > 1e-3, "{prompt}: nothing changes");
    }
}

/// A change in the first or after the last step is none: the run is that of the text that all steps see. Texts of
/// different lengths are padded alike.
#[test]
fn a_prompt_that_never_changes_is_a_plain_one() {
    let pipeline = pipeline("sd1", "euler a");
    let run = |prompt: &str| {
        let options = SampleOptions { weighting: true, ..options(&[prompt]) };
        let windows = pipeline.windows(&options).expect("fits");
        (windows, latents(&pipeline, &options, &[4]).expect("samples"))
    };
    let plain = run("a red (fox:1.2)");
    for same in ["a [blue:red:0] (fox:1.2)", "a [red:blue:1.0] (fox:1.2)", "a [red|red] (fox:[1.2|1.2])"] {
        assert_eq!(run(same), plain, "{same}");
    }
    let (windows, long) = run("a red fox BREAK in the snow");
    assert_eq!(windows, 2);
    assert_eq!(run("a red fox[ BREAK in the snow:0]"), (2, long.clone()));
    // What is shorter is filled up with an empty window.
    let (windows, changing) = run("a red fox[: BREAK in the snow:2]");
    assert_eq!(windows, 2);
    let (_, short) = run("a red fox BREAK ");
    assert!(distance(&changing, &long) > 1e-3 && distance(&changing, &short) > 1e-3);
}

#[test]
fn steps_are_those_that_a_user_counts() {
    // Calls of the model, and the step of each: Heun and DPM2 have two in a step, PNDM two or four in the first.
    let cases: [(&str, usize, &[usize]); 5] = [
        ("ddim", 3, &[1, 2, 3]),
        ("heun", 3, &[1, 1, 2, 2, 3]),
        ("dpm2 a", 3, &[1, 1, 2, 2, 3]),
        ("dpm++ 2s", 4, &[1, 2, 3, 4]),
        ("plms", 4, &[1, 1, 2, 3, 4]),
    ];
    for (name, steps, expected) in cases {
        let scheduler = pipeline("sd1", name).scheduler;
        let numbers = |sampling: Sampling| scheduler.step_numbers(&sampling).expect("a sound run");
        let whole = numbers(Sampling::steps(steps));
        assert_eq!((whole.of_calls.as_slice(), whole.total), (expected, steps), "{name}");
        // By strength there are fewer steps, and the first of them is 1.
        let half = numbers(Sampling { strength: 0.5, ..Sampling::steps(2 * steps) });
        assert_eq!((half.of_calls[0], half.of_calls.last()), (1, Some(&half.total)), "{name}");
        assert!(half.total.abs_diff(steps) <= 1, "{name}: {half:?}");
        // Two parts are one run.
        let part = |denoising_start, denoising_end| {
            numbers(Sampling { denoising_start, denoising_end, ..Sampling::steps(2 * steps) })
        };
        let (first, second) = (part(None, Some(0.5)), part(Some(0.5), None));
        assert_eq!((first.total, second.total), (2 * steps, 2 * steps), "{name}");
        let whole = numbers(Sampling::steps(2 * steps)).of_calls;
        assert!(whole.starts_with(&first.of_calls) && whole.ends_with(&second.of_calls), "{name}");
    }
    let config = r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": false}"#;
    let scheduler = Scheduler::new(SchedulerConfig::from_json(config).expect("sound")).expect("sound");
    let numbers = scheduler.step_numbers(&Sampling::steps(5)).expect("a sound run");
    assert_eq!(numbers.of_calls, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5]);
}

#[test]
fn a_second_part_begins_where_a_level_begins() {
    // Heun, DPM2 and DPM++ SDE call the model twice per level, but only once at the last. Rather than begin with a
    // level's second call, diffusers makes one call more.
    for (name, calls) in [("heun", 2), ("dpm2", 2), ("dpm2 a", 2), ("dpm++ sde", 2), ("euler", 1), ("ddim", 1)] {
        let scheduler = pipeline("sd1", name).scheduler;
        let timesteps = |sampling: Sampling| -> Vec<f64> {
            scheduler.schedule(&sampling).expect("a sound run").steps.iter().map(|s| s.timestep).collect()
        };
        let whole = timesteps(Sampling::steps(9));
        for start in [0.35, 0.55, 0.8] {
            let part = timesteps(Sampling { denoising_start: Some(start), ..Sampling::steps(9) });
            let below = whole.iter().filter(|t| **t < (1000.0 * (1.0 - start)).round()).count();
            let expected = if calls == 2 && below % 2 == 0 { below + 1 } else { below };
            assert!(expected < whole.len(), "{name} at {start}: the case tests nothing");
            assert_eq!(part, whole[whole.len() - expected..], "{name} at {start}");
        }
    }
}

#[test]
fn prompt_weights_multiply_and_keep_the_mean() {
    let checkpoint = Checkpoint::open(stable_diffusion("sd1")).expect("the model is there");
    let text = TextEncoders::load(&checkpoint, false).expect("loads");
    let device = Device::Gpu(gpu().clone());
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let encode = |prompt: &str, weighting: bool| {
        let prompts = [prompt.to_owned()];
        let count = text.windows(&prompts, weighting).expect("fits");
        text.encode(&runtime, &[&prompts], weighting, count, 0).expect("encodes").hidden_states
    };
    let plain = encode("a red fox", false);
    let width = plain.shape[2];

    // Tokens: start, those of "a", of "red", of "fox", end …: the weight of "red" is 1.5.
    let tokenizer = checkpoint.tokenizer("tokenizer").expect("is there");
    let tokens = |text: &str| tokenizer.encode(text).expect("encodes").len();
    let (from, to) = (1 + tokens("a"), 1 + tokens("a red"));
    let weighted = encode("a (red:1.5) fox", true);
    let mean = |data: &[f32]| data.iter().map(|v| f64::from(*v)).sum::<f64>() / data.len() as f64;
    let mut expected = plain.clone();
    expected.data[from * width..to * width].iter_mut().for_each(|v| *v *= 1.5);
    let factor = mean(&plain.data) / mean(&expected.data);
    expected.data.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
    let (size, difference) = (mean(&plain.data).abs(), distance(&weighted, &expected));
    assert!(size > 1e-3, "the mean of the fixture's text is too near to 0 to divide by: {size:.1e}");
    assert!(difference < 1e-4, "{difference:.1e}");

    // Without weighting, brackets are text; with it, brackets of weight 1 change nothing.
    assert_eq!(encode("a (red:1.0) fox", true), plain);
    assert_ne!(encode("a (red:1.0) fox", false).data, plain.data);

    // BREAK begins a new window, side by side with the first.
    let broken = encode("a red fox BREAK a boat", true);
    assert_eq!(broken.shape, [1, 2 * plain.shape[1], width]);
    let joined = HostTensor { shape: broken.shape.clone(), data: [plain.data, encode("a boat", true).data].concat() };
    assert!(distance(&broken, &joined) < 1e-5);
}

#[test]
fn the_weighting_reaches_the_picture() {
    let pipeline = pipeline("sd1", "ddim");
    let plain = SampleOptions { weighting: true, ..options(&["a red fox"]) };
    let strong = SampleOptions { prompts: vec!["a (red:1.8) fox".into()], ..plain.clone() };
    let (a, b) =
        (latents(&pipeline, &plain, &[1]).expect("samples"), latents(&pipeline, &strong, &[1]).expect("samples"));
    assert!(distance(&a, &b) > 1e-3);
}

#[test]
fn old_scheduler_configs_are_mended() {
    let checkpoint = Checkpoint::open(stable_diffusion("sd1")).expect("the model is there");
    let config = DiffusionPipeline::scheduler_config(&checkpoint).expect("sound");
    assert_eq!(config.steps_offset, 1);
    let old = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear"}"#;
    let old = SchedulerConfig::from_json(old).expect("sound");
    let mended = old.for_stable_diffusion().expect("sound");
    assert_eq!((old.steps_offset, mended.steps_offset), (0, 1));
    assert_ne!(old.clip, mended.clip);
    let other = scheduler_by_name("DPM++ 2M Karras", &mended).expect("known");
    assert_eq!(other.steps_offset, 1, "another scheduler for the same model keeps what was mended");
}

#[test]
fn what_a_model_cannot_do_is_said() {
    let image = || Some(HostTensor::zeros([1, 3, 32, 48]));
    let mask = |h, w| Some(HostTensor::zeros([1, 1, h, w]));
    let base = || options(&["a fox"]);
    let cases: Vec<(&str, SampleOptions, &[&str])> = vec![
        ("sd1", SampleOptions { mask: mask(32, 48), ..base() }, &["`mask`", "`image`"]),
        ("sd1", SampleOptions { image: image(), mask: mask(32, 40), ..base() }, &["`mask`", "40", "48", "one size"]),
        ("sd1", SampleOptions { image: image(), latents: image(), ..base() }, &["`latents`"]),
        (
            "sd1",
            SampleOptions { latents: Some(HostTensor::zeros([1, 3, 4, 6])), ..base() },
            &["`latents`", "[1, 4, 4, 6]"],
        ),
        ("sd1", SampleOptions { guidance_scale: vec![1.0, 2.0], ..base() }, &["`guidance_scale`", "2 for 1"]),
        (
            "sd1",
            SampleOptions { weighting: true, prompts: vec!["a fox AND a boat".into()], ..base() },
            &["`prompt`", "`AND`", "write `and`"],
        ),
        ("sd1", SampleOptions { guidance_rescale: 1.5, ..base() }, &["`guidance_rescale`", "0 to 1"]),
        ("sd1", SampleOptions { image: Some(HostTensor::zeros([1, 3, 32, 45])), ..base() }, &["45", "multiples of 2"]),
        ("inpaint", base(), &["`image`", "`mask`"]),
        ("instruct_pix2pix", base(), &["`image`"]),
        ("instruct_pix2pix", SampleOptions { image: image(), mask: mask(32, 48), ..base() }, &["`mask`"]),
        ("x4_upscaler", base(), &["`image`"]),
        ("x4_upscaler", SampleOptions { image: image(), noise_level: 351, ..base() }, &["`noise_level` 351", "350"]),
        (
            "x4_upscaler",
            SampleOptions { image: image(), sampling: Sampling { strength: 0.5, ..Sampling::steps(4) }, ..base() },
            &["`strength`"],
        ),
        (
            "sd1",
            SampleOptions { sampling: Sampling { denoising_end: Some(1.0), ..Sampling::steps(4) }, ..base() },
            &["`denoising_end` 1", "below 1"],
        ),
        (
            "sd1",
            SampleOptions {
                sampling: Sampling { denoising_start: Some(0.9999), ..Sampling::steps(4) },
                latents: Some(HostTensor::zeros([1, 4, 4, 6])),
                ..base()
            },
            &["`denoising_start`", "no step"],
        ),
    ];
    for (model, options, words) in cases {
        let Err(error) = latents(&pipeline(model, "ddim"), &options, &[0]) else {
            panic!("{model}: expected a refusal with {words:?}");
        };
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{model}: expected {words:?} in: {error}");
    }
}
