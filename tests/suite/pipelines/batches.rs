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

#[test]
fn what_has_no_room_is_not_made_at_once() {
    let pipeline = emoji();
    let device = Device::Gpu(gpu().clone());
    let mut options = pipeline.defaults();
    options.prompts = vec!["a dog".into(); 2];
    options.batch_size = 2;
    let mut load = LoadOptions::default();
    let plan = pipeline.plan(&Runtime::new(&device, &load, DType::F32), &options).expect("can be planned");
    let of_unet = plan.stages.iter().find(|stage| stage.component == "unet").expect("a stage");
    let peak = of_unet.memory.as_ref().expect("it runs here").total;
    load.plan.max_memory_bytes = Some(peak / 2);
    let as_alone = pipeline.as_alone(&Runtime::new(&device, &load, DType::F32), &options).expect("can be planned");
    assert!(as_alone.is_none());
}
