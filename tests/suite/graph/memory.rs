//! The memory of whole runs: planned before anything is loaded, refused if it cannot fit, and freed after each stage.

use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::gpu::{Checks, GpuDevice, select_adapter};
use unmist::pipelines::{DiffusionPipeline, PipelinePlan, Runtime, SampleOptions, Tiling};
use unmist::plan::PlanOptions;
use unmist::refusal::{Advised, Remedy};
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, Error, HostTensor, Result};

use crate::commands::usage::{fails, stable_diffusion, succeeds};
use crate::models::autoencoder::scaled_copy;

fn load(folder: &Path) -> DiffusionPipeline {
    let checkpoint = Checkpoint::open(folder).expect("the model is there");
    let config = SchedulerConfig::from_json(&checkpoint.scheduler_config("scheduler").expect("is there").text);
    DiffusionPipeline::load(&checkpoint, Scheduler::new(config.expect("sound")).expect("sound")).expect("loads")
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/emoji-64")
}

/// A separate device, so that no other test's buffers count.
fn device() -> GpuDevice {
    let selector = std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into());
    let (_, adapter) = select_adapter(&selector).expect("names an adapter").expect("there is an adapter");
    GpuDevice::open(adapter, Checks::On).expect("the adapter opens")
}

fn options() -> SampleOptions {
    SampleOptions {
        prompts: vec!["a red apple".into()],
        sampling: Sampling::steps(2),
        guidance_scale: vec![3.0],
        ..SampleOptions::default()
    }
}

fn load_options(max_memory_bytes: Option<u64>) -> LoadOptions {
    LoadOptions { plan: PlanOptions { max_memory_bytes, ..PlanOptions::default() }, ..LoadOptions::default() }
}

fn total(plan: &PipelinePlan, component: &str) -> u64 {
    let stage = plan.stages.iter().find(|s| s.component == component).expect("the pipeline has this stage");
    stage.memory.as_ref().expect("fits").total
}

#[test]
fn stages_take_what_was_planned_and_are_freed_in_turn() {
    let gpu = device();
    let Some(before) = gpu.allocated_bytes() else {
        // Metal does not count its memory, so there this test proves nothing about freeing, and says so. Vulkan and
        // DX12 count theirs.
        assert_eq!(std::env::consts::OS, "macos", "{} does not count its memory", gpu.describe());
        eprintln!("{} does not count its memory: nothing to compare the plan with", gpu.describe());
        return;
    };
    let device = Device::Gpu(gpu.clone());
    let pipeline = load(&shipped());
    let load = LoadOptions { forget_parameters: true, ..load_options(None) };
    let runtime = Runtime::new(&device, &load, DType::F32);
    let plan = pipeline.plan(&runtime, &options()).expect("plans");
    let names: Vec<_> = plan.stages.iter().map(|s| s.component.as_str()).collect();
    assert_eq!(names, ["text_encoder", "unet", "vae.decoder"]);
    assert_eq!(plan.peak(), plan.stages.iter().map(|s| s.memory.as_ref().expect("fits").total).max().expect("stages"));

    // While the U-Net runs, nothing else is in memory: the text encoder would exceed the slack, which is for rounding
    // and for staging what is read.
    let slack = 1 << 20;
    let stage = plan.stages.iter().find(|s| s.component == "unet").expect("the pipeline has this stage");
    let unet = stage.memory.as_ref().map(|memory| memory.total - memory.loading).expect("fits");
    assert!(total(&plan, "text_encoder") > 2 * slack, "the text encoder is too small to be noticed");
    let mut seen = Vec::new();
    let latents = pipeline
        .sample_latents(&runtime, &options(), &mut [TorchCpu::new(1)], &mut |_| {
            gpu.free_dropped();
            seen.push(gpu.allocated_bytes().expect("counted before").saturating_sub(before));
            Ok(())
        })
        .expect("samples");
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|bytes| (unet - 4096..unet + slack).contains(bytes)), "planned {unet}, found {seen:?}");
    pipeline.decode(&runtime, &latents).expect("decodes");
    gpu.store().evict_unused();
    gpu.free_dropped();
    let left = gpu.allocated_bytes().expect("counted before").saturating_sub(before);
    assert!(left < slack, "{left} bytes are still there after the run");
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_step() {
    for device in [Device::Gpu(device()), Device::Reference] {
        let mut pipeline = load(&shipped());
        // The least it can run with: where memory is short, smaller kernels are preferred to faster ones.
        let plan = {
            let load = load_options(Some(1));
            pipeline.plan(&Runtime::new(&device, &load, DType::F32), &options()).expect("plans")
        };
        let (unet, decoder) = (total(&plan, "unet"), total(&plan, "vae.decoder"));
        let mut refusal = |limit: u64, tiling: Tiling| -> Option<String> {
            pipeline.set_tiling(tiling);
            let load = load_options(Some(limit));
            let runtime = Runtime::new(&device, &load, DType::F32);
            let mut steps = 0;
            let result = pipeline.sample_latents(&runtime, &options(), &mut [TorchCpu::new(1)], &mut |_| {
                steps += 1;
                Ok(())
            });
            match result {
                Ok(_) => None,
                Err(Error::Limits(why)) => {
                    assert_eq!(steps, 0);
                    Some(why.to_string())
                }
                Err(other) => panic!("{other}"),
            }
        };
        assert!(unet > decoder, "the case below needs the U-Net to be the largest");
        let why = refusal(unet - 1, Tiling::Auto).expect("the U-Net does not fit");
        for part in ["unet needs", "the limit that was set is", "a larger `max_memory`", "`width`"] {
            assert!(why.contains(part), "no «{part}» in: {why}");
        }
        // The reference computes in f32 whatever is asked.
        assert_eq!(why.contains("`precision` f16"), !matches!(device, Device::Reference), "{why}");
        assert!(!why.contains("vae_tiling"), "{why}");
        assert_eq!(refusal(unet, Tiling::Auto), None, "{}", device.describe());
    }
}

#[test]
fn a_decoder_that_does_not_fit_is_refused_unless_it_may_run_in_tiles() {
    let options = SampleOptions { height: Some(256), width: Some(192), ..options() };
    let device = Device::Reference;
    let mut pipeline = load(&stable_diffusion("sd1"));
    // The decoder alone: the U-Net of this tiny model takes more.
    let mut plan = |limit, tiling| {
        pipeline.set_tiling(tiling);
        let load = load_options(limit);
        let runtime = Runtime::new(&device, &load, DType::F32);
        let mut plan = pipeline.plan(&runtime, &options).expect("plans");
        plan.stages.retain(|stage| stage.component == "vae.decoder");
        plan
    };
    let limit = Some(plan(None, Tiling::Off).peak() - 1);
    let refused = plan(limit, Tiling::Off).check();
    let named = |m: &Advised| {
        m.why.contains("vae.decoder needs") && m.instead.contains(&Remedy::Set("vae_tiling", "on".into()))
    };
    assert!(matches!(&refused, Err(Error::Limits(m)) if named(m)), "{refused:?}");

    let tiled = plan(limit, Tiling::Auto);
    tiled.check().expect("tiles fit");
    assert!(tiled.stages.last().expect("the decoder").tiles.is_some(), "{tiled}");
    assert!(tiled.to_string().contains("in tiles of"), "{tiled}");
}

#[test]
fn a_unet_that_overflows_f16_goes_on_with_f32_where_it_does() {
    let folder = scaled_copy("unet", "conv_in.weight", 5e4);
    for component in ["text_encoder", "vae", "scheduler", "tokenizer"] {
        crate::commands::usage::copy(&stable_diffusion("sd1").join(component), &folder.path().join(component));
    }
    let pipeline = load(folder.path());
    let device = Device::Gpu(crate::device::gpu().clone());
    let options = SampleOptions { height: Some(32), width: Some(48), ..options() };
    let mut steps = 0;
    let mut sample = |dtype| -> Result<HostTensor> {
        let load = load_options(None);
        let runtime = Runtime::new(&device, &load, dtype);
        pipeline.sample_latents(&runtime, &options, &mut [TorchCpu::new(1)], &mut |_| {
            steps += 1;
            Ok(())
        })
    };
    let full = sample(DType::F32).expect("f32 holds it");
    assert!(pipeline.take_notes().is_empty());
    let half = sample(DType::F16).expect("f16 with some f32 holds it");
    assert_eq!(steps, 6, "both run all the steps that PNDM takes for 2");
    compare(&half, &full, Tolerance::l2(2e-2)).expect("the same latents, up to f16's rounding in every layer");
    let notes = pipeline.take_notes();
    assert!(notes.len() == 1 && notes[0].contains("U-Net overflows f16") && notes[0].contains("conv_in"), "{notes:?}");
}

#[test]
fn inspect_prints_every_stage() {
    let model = shipped();
    let model = model.to_str().expect("UTF-8");
    let printed = succeeds(&["inspect", "--model", model]);
    for part in ["text_encoder", "unet", "vae.decoder", "peak", "64 x 64 pixels"] {
        assert!(printed.contains(part), "no «{part}» in: {printed}");
    }
    let printed = succeeds(&["inspect", "--model", model, "--max-memory", "0.001"]);
    assert!(printed.contains("too little"), "{printed}");
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&["inspect", "--model", model, "--json", "--batch-size", "3"])).expect("JSON");
    // Of the vocabulary (2.1 of the text encoder's 4.4 MiB), a run loads only the tokens it needs.
    let text = json["stages"][0]["memory"]["parameters"].as_u64().expect("a number");
    assert!(text < 5 << 19, "{json}");
    let unet = &json["stages"][1];
    assert_eq!(unet["component"], "unet");
    let bytes = |key: &str| unet["memory"][key].as_u64().expect("a number");
    assert!(bytes("total") >= bytes("parameters") + bytes("inputs") + bytes("values"), "{unet}");
    assert!(json["peak"].as_u64() >= Some(bytes("total")), "{json}");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.png");
    let out = out.to_str().expect("UTF-8");
    let little = ["sample", "a red apple", "--model", model, "--output", out, "--max-memory", "0.001"];
    fails(&little, &["limits", "needs", "MiB", "a larger --max-memory"], folder.path());
    fails(&["inspect", "--model", model, "--max-memory", "0"], &["--max-memory"], folder.path());
}
