//! Several pictures at once, each with the bits that it has by itself.

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::Scheduler;
use unmist::{DType, HostTensor};

use crate::device::gpu;

fn emoji() -> DiffusionPipeline {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/emoji-64");
    let checkpoint = Checkpoint::open(&folder).expect("opens");
    let config = DiffusionPipeline::scheduler_config(&checkpoint).expect("a config");
    DiffusionPipeline::load(&checkpoint, Scheduler::new(config).expect("a scheduler")).expect("loads")
}

fn sample(pipeline: &DiffusionPipeline, runtime: &Runtime<'_>, options: &SampleOptions, seeds: &[u64]) -> HostTensor {
    let mut generators: Vec<_> = seeds.iter().map(|seed| TorchCpu::new(*seed)).collect();
    let latents = pipeline.sample_latents(runtime, options, &mut generators, &mut |_| Ok(())).expect("the loop runs");
    pipeline.decode(runtime, &latents).expect("decodes")
}

#[test]
fn pictures_of_a_batch_are_those_of_single_runs() {
    let pipeline = emoji();
    let device = Device::Gpu(gpu().clone());
    let load = LoadOptions::default();
    let prompts = ["a red apple", "a dog", "a house on a hill"];
    for (dtype, guidance_scale) in [(DType::F32, 4.0), (DType::F16, 4.0), (DType::F32, 1.0)] {
        let runtime = Runtime::new(&device, &load, dtype);
        let options = |prompts: &[&str]| {
            let mut options = pipeline.defaults();
            options.prompts = prompts.iter().map(|prompt| (*prompt).to_owned()).collect();
            options.batch_size = prompts.len();
            options.guidance_scale = vec![guidance_scale];
            options.sampling.num_inference_steps = 2;
            options
        };
        for count in 2..=prompts.len() {
            let together = options(&prompts[..count]);
            let as_alone = pipeline.as_alone(&runtime, &together).expect("can be planned");
            let as_alone = as_alone.unwrap_or_else(|| panic!("{count} in {dtype:?} can be made as one"));
            let runtime_of_all = Runtime { load: &as_alone, ..runtime };
            let seeds: Vec<_> = (7..7 + count as u64).collect();
            let all = sample(&pipeline, &runtime_of_all, &together, &seeds);
            let each = all.len() / count;
            for (i, prompt) in prompts[..count].iter().enumerate() {
                let alone = sample(&pipeline, &runtime, &options(&[prompt]), &seeds[i..=i]);
                assert!(all.data[i * each..(i + 1) * each] == alone.data, "{prompt}, one of {count} in {dtype:?}");
            }
        }
    }
}

/// Room for one picture, not for two at once.
#[test]
fn what_has_no_room_is_not_made_at_once() {
    let pipeline = emoji();
    let device = Device::Gpu(gpu().clone());
    let options = |batch_size: usize| {
        let mut options = pipeline.defaults();
        options.prompts = vec!["a dog".into(); batch_size];
        options.batch_size = batch_size;
        options
    };
    let mut load = LoadOptions::default();
    let peak = |load: &LoadOptions, batch_size| {
        let runtime = Runtime::new(&device, load, DType::F32);
        let as_alone = pipeline.as_alone(&runtime, &options(batch_size)).expect("can be planned").expect("has room");
        let runtime = Runtime { load: &as_alone, ..runtime };
        pipeline.plan(&runtime, &options(batch_size)).expect("can be planned").peak()
    };
    let (one, two) = (peak(&load, 1), peak(&load, 2));
    assert!(one < two, "{one} bytes for one, {two} for two");
    load.plan.max_memory_bytes = Some(two - 1);
    let runtime = Runtime::new(&device, &load, DType::F32);
    pipeline.plan(&runtime, &options(1)).and_then(|plan| plan.check()).expect("one has room");
    assert!(pipeline.as_alone(&runtime, &options(2)).expect("can be planned").is_none());
}
