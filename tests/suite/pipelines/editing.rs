//! DiffEdit against diffusers' pipeline, and styles against PyTorch with an attention processor that does the same.

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::pipelines::{DiffusionPipeline, EditMask, Runtime, SampleOptions, Style, thresholded};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor, Result};

use crate::common::{Fixture, distance, one, stable_diffusion};
use crate::device::gpu;

/// The accuracy that the project promises after all steps, relative, in the L2 norm.
const TRAJECTORY: f64 = 2e-3;

struct Run {
    fixture: Fixture,
    pipeline: DiffusionPipeline,
    options: SampleOptions,
}

fn open(model: &str, scheduler: &str) -> Result<DiffusionPipeline> {
    let checkpoint = Checkpoint::open(stable_diffusion(model)).expect("the model is there");
    DiffusionPipeline::load(&checkpoint, Scheduler::new(SchedulerConfig::from_json(scheduler)?)?)
}

impl Run {
    /// The run of a fixture, whose strength has the name `strength`.
    fn load(name: &str, strength: &str) -> Self {
        let fixture = Fixture::read(&format!("editing/{name}"));
        let pipeline = open("sd1", fixture.text("scheduler")).expect("sound");
        let number = |key: &str| fixture.text(key).parse::<f64>().expect("a number");
        let options = SampleOptions {
            prompts: vec![fixture.text("prompt").to_owned()],
            negative_prompts: vec![fixture.text("negative_prompt").to_owned()],
            guidance_scale: vec![number("guidance_scale")],
            sampling: Sampling {
                strength: number(strength),
                ..Sampling::steps(number("num_inference_steps") as usize)
            },
            image: Some(fixture.tensor("image").clone()),
            ..SampleOptions::default()
        };
        Self { fixture, pipeline, options }
    }

    fn source(&self) -> &str {
        self.fixture.text("source")
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> T {
        self.fixture.text(key).parse().unwrap_or_else(|_| panic!("{key} is a number"))
    }

    fn style(&self) -> Style {
        Style {
            source: self.source().to_owned(),
            attention_share: self.number("share"),
            fresh_noise: self.fixture.text("start") == "noised",
        }
    }
}

fn restyle(run: &Run, options: &SampleOptions, style: &Style, device: &Device) -> Result<HostTensor> {
    let load = LoadOptions::default();
    let runtime = Runtime::new(device, &load, DType::F32);
    let mut sources = [TorchCpu::new(run.number("seed"))];
    run.pipeline.restyle(&runtime, options, style, &mut sources, &mut |_| Ok(()))
}

fn check_diffedit(name: &str, device: &Device) {
    let run = Run::load(name, "inpaint_strength");
    let Run { fixture, pipeline, options } = &run;
    let load = LoadOptions::default();
    let runtime = Runtime::new(device, &load, DType::F32);
    let how = EditMask {
        num_maps_per_mask: run.number("num_maps_per_mask"),
        mask_encode_strength: run.number("mask_encode_strength"),
        mask_thresholding_ratio: run.number("mask_thresholding_ratio"),
    };
    let mut source = TorchCpu::new(run.number("seed"));
    let mut steps = 0;
    let mut count = |_: unmist::pipelines::Progress<'_>| {
        steps += 1;
        Ok(())
    };
    let map = pipeline.difference_map(&runtime, options, run.source(), &how, &mut source, &mut count).expect(name);
    let truth = fixture.tensor("map");
    let plane = HostTensor::new(truth.shape.clone(), map.data.clone()).expect("one number for each latent");
    compare(&plane, truth, Tolerance::l2(1e-4)).unwrap_or_else(|e| panic!("{name}: map: {e}"));
    let mask = thresholded(&map, how.mask_thresholding_ratio, pipeline.traits.scale);
    let image = options.image.as_ref().expect("it has one");
    assert_eq!(mask.shape[2..], image.shape[2..]);
    let truth = fixture.tensor("mask");
    let scale = pipeline.traits.scale;
    for (i, found) in mask.data.iter().enumerate() {
        let (y, x) = (i / mask.shape[3], i % mask.shape[3]);
        assert_eq!(*found, truth.data[y / scale * truth.shape[1] + x / scale], "{name}: mask at {y}, {x}");
    }

    let path = pipeline.inverted_path(&runtime, options, run.source(), &mut source, &mut count).expect(name);
    let inverted = fixture.tensor("inverted");
    assert_eq!(path.len(), inverted.shape[0]);
    for (i, latents) in path.iter().rev().enumerate() {
        compare(latents, &one(inverted, i), Tolerance::l2(TRAJECTORY)).unwrap_or_else(|e| panic!("{name}, {i}: {e}"));
    }
    let options = SampleOptions { mask: Some(mask), ..options.clone() };
    let latents = pipeline.edit(&runtime, &options, &path, &mut count).expect(name);
    compare(&latents, fixture.tensor("latents"), Tolerance::l2(TRAJECTORY))
        .unwrap_or_else(|e| panic!("{name} on {}: latents: {e}", device.describe()));
    assert_eq!(steps, how.num_maps_per_mask + 2 * path.len(), "each call of the model is told of");

    // Nothing is painted over: the path's own first step.
    let nothing = SampleOptions { mask: Some(HostTensor::zeros([1, 1, 16, 24])), ..options };
    let kept = pipeline.edit(&runtime, &nothing, &path, &mut |_| Ok(())).expect(name);
    assert_eq!(kept, path[0], "{name}");
    assert!(pipeline.edit(&runtime, &nothing, &path[1..], &mut |_| Ok(())).is_err(), "a part of a path");
}

#[test]
fn device_edits_pictures_as_diffusers_does() {
    let device = Device::Gpu(gpu().clone());
    ["diffedit", "diffedit_v"].iter().for_each(|name| check_diffedit(name, &device));
}

#[test]
fn reference_edits_pictures_as_diffusers_does() {
    check_diffedit("diffedit_v", &Device::Reference);
}

fn check_style(name: &str, device: &Device) {
    let run = Run::load(name, "strength");
    let latents = restyle(&run, &run.options, &run.style(), device).expect(name);
    compare(&latents, run.fixture.tensor("latents"), Tolerance::l2(TRAJECTORY))
        .unwrap_or_else(|e| panic!("{name} on {}: {e}", device.describe()));
}

#[test]
fn device_gives_pictures_the_style_that_pytorch_gives_them() {
    let device = Device::Gpu(gpu().clone());
    ["style", "style_noised"].iter().for_each(|name| check_style(name, &device));
}

#[test]
fn reference_gives_pictures_the_style_that_pytorch_gives_them() {
    check_style("style_noised", &Device::Reference);
}

#[test]
fn without_borrowed_attention_a_style_is_image_to_image() {
    let run = Run::load("style", "strength");
    let device = Device::Gpu(gpu().clone());
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let mut sources = [TorchCpu::new(run.number("seed"))];
    let plain = run.pipeline.sample_latents(&runtime, &run.options, &mut sources, &mut |_| Ok(())).expect("samples");
    let none = Style { attention_share: 0.0, fresh_noise: true, ..run.style() };
    let styled = restyle(&run, &run.options, &none, &device).expect("samples");
    // In a larger batch the tiles differ, and with them the order of summation.
    let found = distance(&one(&styled, 1), &plain);
    assert!(found < 1e-4, "{found}");
    let lent = restyle(&run, &run.options, &Style { attention_share: 1.0, ..none }, &device).expect("samples");
    let found = distance(&one(&lent, 1), &plain);
    assert!(found > 1e-2, "borrowed attention changes pictures: {found}");
    compare(&one(&lent, 0), &one(&styled, 0), Tolerance::l2(1e-4)).expect("the original's own way is always the same");
}

#[test]
fn in_its_own_words_a_picture_comes_back() {
    let run = Run::load("style", "strength");
    let device = Device::Gpu(gpu().clone());
    for attention_share in [0.0, 0.5, 1.0] {
        let own =
            SampleOptions { prompts: vec![run.source().to_owned()], guidance_scale: vec![1.0], ..run.options.clone() };
        let style = Style { attention_share, fresh_noise: false, ..run.style() };
        let both = restyle(&run, &own, &style, &device).expect("samples");
        compare(&one(&both, 1), &one(&both, 0), Tolerance::l2(1e-5)).expect("the inverted original's own");
    }
}

#[test]
fn what_cannot_be_edited_is_refused() {
    let run = Run::load("diffedit", "inpaint_strength");
    let load = LoadOptions::default();
    let runtime = Runtime::new(&Device::Reference, &load, DType::F32);
    let mut noise = TorchCpu::new(0);
    let mut refused = |pipeline: &DiffusionPipeline, options: &SampleOptions, source: &str, part: &str| {
        let how = EditMask { num_maps_per_mask: 1, ..EditMask::default() };
        let map = pipeline.difference_map(&runtime, options, source, &how, &mut noise, &mut |_| Ok(()));
        let error = map.expect_err(part).to_string();
        assert!(error.contains(part), "{part}: {error}");
    };
    let options = &run.options;
    refused(&run.pipeline, &SampleOptions { image: None, ..options.clone() }, "fruit", "`image`");
    let two = SampleOptions { batch_size: 2, ..options.clone() };
    refused(&run.pipeline, &two, "fruit", "`prompt`");
    refused(&run.pipeline, options, &options.prompts[0], "nothing would change");
    for (model, part) in
        [("sdxl", "Stable Diffusion XL"), ("lcm", "a consistency model"), ("inpaint", "noise and text")]
    {
        let other = open(model, run.fixture.text("scheduler")).expect("sound");
        refused(&other, options, "fruit", part);
    }
    let euler = open("sd1", r#"{"_class_name": "EulerDiscreteScheduler"}"#).expect("sound");
    refused(&euler, options, "fruit", "`scheduler`");
    let none = EditMask { num_maps_per_mask: 0, ..EditMask::default() };
    let map = run.pipeline.difference_map(&runtime, options, "fruit", &none, &mut noise, &mut |_| Ok(()));
    assert!(map.expect_err("of no map").to_string().contains("num_maps_per_mask 0"));
    let edit = run.pipeline.edit(&runtime, options, &[], &mut |_| Ok(()));
    assert!(edit.expect_err("no mask").to_string().contains("`mask`"));
    let far = Style { attention_share: 1.5, ..Run::load("style", "strength").style() };
    let error = restyle(&run, options, &far, &Device::Reference).expect_err("no share").to_string();
    assert!(error.contains("share of 1.5"), "{error}");
}
