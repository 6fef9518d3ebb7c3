//! Stable Diffusion from prompt to picture against diffusers' pipelines: the same seed gives the same picture.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::{distance, stable_diffusion};
use crate::device::gpu;

/// The accuracy that the project promises after all steps, in [0, 1].
const MAX_ABS: f64 = 2e-3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

struct Run {
    pipeline: DiffusionPipeline,
    options: SampleOptions,
    seeds: Vec<u64>,
    file: Tensors,
}

impl Run {
    fn load(model: &str, name: &str) -> Self {
        let fixtures = stable_diffusion(model);
        let file = Tensors::open(fixtures.join(format!("runs/{name}.safetensors"))).expect("the fixture is there");
        let meta = file.metadata().clone();
        let call: Value = serde_json::from_str(&meta["call"]).expect("JSON");
        let folder =
            if fixtures.join("model_index.json").is_file() { fixtures } else { root().join("weights").join(model) };
        let checkpoint = Checkpoint::open(folder).expect("the model is there");
        let checkpoint =
            if model == "sd2" { checkpoint.with_variant("fp16").expect("the variant is there") } else { checkpoint };
        let scheduler = Scheduler::new(SchedulerConfig::from_json(&meta["scheduler"]).expect("sound")).expect("sound");
        let pipeline =
            DiffusionPipeline::load(&checkpoint, scheduler).unwrap_or_else(|e| panic!("{model}/{name}: {e}"));
        let seeds = match meta.get("seeds") {
            Some(list) => serde_json::from_str(list).expect("a list"),
            None => vec![meta["seed"].parse().expect("a number")],
        };
        let result = if file.info("images").is_some() { "images" } else { "latents" };
        let batch = file.info(result).expect("the fixture has a result").shape[0];
        let texts = |key: &str| -> Vec<String> {
            match &call[key] {
                Value::String(one) => vec![one.clone()],
                Value::Array(many) => many.iter().map(|t| t.as_str().expect("text").to_owned()).collect(),
                _ => Vec::new(),
            }
        };
        let number = |key: &str, default: f64| call[key].as_f64().unwrap_or(default);
        let count = |key: &str| call[key].as_u64().map(|v| v as usize);
        let pair = |key: &str| {
            call[key]
                .as_array()
                .map(|p| (p[0].as_u64().expect("a number") as usize, p[1].as_u64().expect("a number") as usize))
        };
        let bytes = |name: &str| {
            file.info(name).map(|_| {
                let bytes = file.read_f32(name).expect("sound");
                let channels = bytes.shape.get(2).copied().unwrap_or(1);
                let shape = [1, bytes.shape[0], bytes.shape[1], channels];
                let unit = bytes.data.iter().map(|v| v / 255.0).collect();
                HostTensor::new(shape, unit).map(|t| t.channels_first()).expect("[H, W, C]")
            })
        };
        let image = bytes("image").map(|mut image| {
            image.data.iter_mut().for_each(|v| *v = *v * 2.0 - 1.0);
            image
        });
        let options = SampleOptions {
            batch_size: batch,
            prompts: texts("prompt"),
            negative_prompts: texts("negative_prompt"),
            negative_prompts_2: texts("negative_prompt_2"),
            prompts_2: texts("prompt_2"),
            height: count("height"),
            width: count("width"),
            sampling: Sampling {
                eta: number("eta", 0.0),
                strength: number("strength", 1.0),
                denoising_start: call["denoising_start"].as_f64(),
                denoising_end: call["denoising_end"].as_f64(),
                ..Sampling::steps(count("num_inference_steps").expect("every run has steps"))
            },
            guidance_scale: vec![number("guidance_scale", 7.5)],
            guidance_rescale: number("guidance_rescale", 0.0),
            image_guidance_scale: number("image_guidance_scale", 1.5),
            aesthetic_scores: (number("aesthetic_score", 6.0), number("negative_aesthetic_score", 2.5)),
            noise_level: count("noise_level").unwrap_or(20),
            mask: bytes("mask"),
            latents: file.info("input_latents").map(|_| file.read_f32("input_latents").expect("sound")),
            clip_skip: count("clip_skip").unwrap_or(0),
            weighting: call["weighting"].as_bool().unwrap_or(false),
            original_size: pair("original_size"),
            crop: pair("crops_coords_top_left").unwrap_or((0, 0)),
            target_size: pair("target_size"),
            image,
            ..SampleOptions::default()
        };
        Self { pipeline, options, seeds, file }
    }

    fn sample(&self, device: &Device) -> HostTensor {
        let mut sources: Vec<_> = self.seeds.iter().map(|s| TorchCpu::new(*s)).collect();
        if self.file.info("images").is_none() {
            let load = LoadOptions::default();
            let runtime = Runtime::new(device, &load, DType::F32);
            return self
                .pipeline
                .sample_latents(&runtime, &self.options, &mut sources, &mut |_| Ok(()))
                .expect("samples");
        }
        self.pipeline
            .sample(
                &Runtime::new(device, &LoadOptions::default(), DType::F32),
                &self.options,
                &mut sources,
                &mut |_| Ok(()),
            )
            .expect("samples")
    }
}

fn check(model: &str, name: &str, device: &Device) {
    let run = Run::load(model, name);
    let images = run.sample(device);
    let result = if run.file.info("images").is_some() { "images" } else { "latents" };
    let truth = run.file.read_f32(result).expect("sound");
    compare(&images, &truth, Tolerance::largest(MAX_ABS))
        .unwrap_or_else(|e| panic!("{model}/{name} on {}, after all steps: {e}", device.describe()));
}

fn device() -> Device {
    Device::Gpu(gpu().clone())
}

#[test]
fn stable_diffusion_1_and_2() {
    let runs = [
        "text_to_image",
        "no_guidance",
        "seed_per_image",
        "eta",
        "clip_skip",
        "image_to_image",
        "image_to_image_euler",
        "dpmsolver_sde",
        "sasolver",
        "inpaint_masked_latents",
        "inpaint_masked_latents_full",
    ];
    for name in runs {
        check("sd1", name, &device());
    }
    check("sd2", "text_to_image", &device());
}

#[test]
fn stable_diffusion_xl() {
    for name in ["text_to_image", "no_negative_prompt", "turbo", "image_to_image", "base"] {
        check("sdxl", name, &device());
    }
    check("sdxl_refiner", "refine", &device());
    check("sdxl_refiner", "inpaint_masked_latents", &device());
}

#[test]
fn latent_consistency_model() {
    check("lcm", "text_to_image", &device());
    check("lcm", "image_to_image", &device());
}

#[test]
fn inpainting_model() {
    check("inpaint", "full", &device());
    check("inpaint", "strength", &device());
}

/// diffusers got the texts of every call of the U-Net written out, this engine the prompt that means them.
#[test]
fn prompts_that_change() {
    for (model, name) in [("sd1", "prompt_editing"), ("sd1", "prompt_editing_heun"), ("sdxl", "prompt_editing")] {
        check(model, name, &device());
        // Without the syntax brackets are text, and the picture is another.
        let mut run = Run::load(model, name);
        run.options.weighting = false;
        let plain = run.sample(&device());
        let error = distance(&plain, &run.file.read_f32("images").expect("sound"));
        assert!(error > 10.0 * MAX_ABS, "{model}/{name}: the changes have no effect: {error:.1e}");
    }
}

#[test]
fn instruct_pix2pix() {
    check("instruct_pix2pix", "edit", &device());
}

#[test]
fn upscaling() {
    check("x4_upscaler", "upscale", &device());
}

#[test]
fn the_model_that_ships() {
    check("emoji-64", "text_to_image", &device());
}

#[test]
fn reference_agrees_too() {
    check("sd1", "text_to_image", &Device::Reference);
}

#[test]
fn the_prompt_matters() {
    let mut run = Run::load("sd1", "no_guidance");
    run.options.prompts = vec!["another prompt".into()];
    let truth = run.file.read_f32("images").expect("sound");
    let images = run.sample(&Device::Reference);
    let error = distance(&images, &truth);
    assert!(error > 10.0 * MAX_ABS, "the prompt has no effect: {error:.1e}");
}
