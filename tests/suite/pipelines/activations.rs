//! How large the numbers inside the U-Net are, against diffusers.

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::pipelines::{DiffusionPipeline, Runtime};
use unmist::rng::TorchCpu;
use unmist::schedulers::Scheduler;
use unmist::{DType, HostTensor};

use crate::common::{Fixture, check_close};
use crate::device::gpu;

#[test]
fn blocks_return_numbers_as_large_as_in_diffusers() {
    let fixture = Fixture::read("activations");
    let call = fixture.object("call");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/emoji-64");
    let checkpoint = Checkpoint::open(&folder).expect("opens");
    let config = DiffusionPipeline::scheduler_config(&checkpoint).expect("a config");
    let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(config).expect("a scheduler")).expect("loads");
    let mut options = pipeline.defaults();
    options.prompts = vec![call["prompt"].as_str().expect("text").to_owned()];
    options.guidance_scale = vec![call["guidance_scale"].as_f64().expect("a number")];
    options.sampling.num_inference_steps = call["num_inference_steps"].as_u64().expect("a number") as usize;
    let (device, load) = (Device::Gpu(gpu().clone()), LoadOptions::default());
    let runtime = Runtime::new(&device, &load, DType::F32);
    let run = |runtime: &Runtime<'_>| -> (HostTensor, Vec<_>) {
        let mut steps = Vec::new();
        let latents = pipeline.sample_latents(runtime, &options, &mut [TorchCpu::new(0)], &mut |mut progress| {
            steps.push((progress.activations()?, progress.prediction_rms()?));
            Ok(())
        });
        (latents.expect("runs"), steps)
    };
    let (latents, nothing) = run(&runtime);
    assert!(nothing.iter().all(|(blocks, prediction)| blocks.is_empty() && prediction.is_none()), "nobody asked");
    let (shown, steps) = run(&runtime.with_activations());
    check_close("what is shown changes nothing", &shown.data, &latents.data, 1e-4);

    let names: Vec<String> = serde_json::from_str(fixture.text("blocks")).expect("a list");
    assert_eq!(steps.len(), options.sampling.num_inference_steps);
    for (i, (blocks, prediction)) in steps.iter().enumerate() {
        assert_eq!(blocks.iter().map(|block| &block.block).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
        let expected = fixture.tensor(&format!("step.{i}"));
        for ((block, name), expected) in blocks.iter().zip(&names).zip(&expected.data) {
            check_close(&format!("step {i}, {name}"), &[block.rms as f32], &[*expected], 1e-4);
        }
        let prediction = prediction.expect("it is shown") as f32;
        check_close(&format!("prediction {i}"), &[prediction], &[fixture.tensor("predictions").data[i]], 1e-4);
    }
}
