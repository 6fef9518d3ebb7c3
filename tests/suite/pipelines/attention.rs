//! Where the picture looks at the words of its prompt, against diffusers.

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::pipelines::{DiffusionPipeline, Runtime};
use unmist::rng::TorchCpu;
use unmist::schedulers::Scheduler;
use unmist::{DType, HostTensor};

use crate::common::{Fixture, check_close};
use crate::device::gpu;

#[test]
fn words_are_looked_at_where_diffusers_does() {
    let fixture = Fixture::read("attention");
    let call = fixture.object("call");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/emoji-64");
    let checkpoint = Checkpoint::open(&folder).expect("opens");
    let config = DiffusionPipeline::scheduler_config(&checkpoint).expect("a config");
    let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(config).expect("a scheduler")).expect("loads");
    let prompt = call["prompt"].as_str().expect("text");
    let mut options = pipeline.defaults();
    options.prompts = vec![prompt.to_owned()];
    options.guidance_scale = vec![call["guidance_scale"].as_f64().expect("a number")];
    options.sampling.num_inference_steps = call["num_inference_steps"].as_u64().expect("a number") as usize;
    let load = LoadOptions::default();
    let maps = |runtime: &Runtime<'_>| -> Vec<Option<HostTensor>> {
        let mut maps = Vec::new();
        pipeline
            .sample_latents(runtime, &options, &mut [TorchCpu::new(0)], &mut |mut progress| {
                maps.push(progress.attention()?);
                Ok(())
            })
            .expect("runs");
        maps
    };
    let device = Device::Gpu(gpu().clone());
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F16, 1e-2)] {
        let runtime = Runtime::new(&device, &load, dtype);
        assert!(maps(&runtime).iter().all(Option::is_none), "nobody asked");
        let found = maps(&runtime.with_attention());
        assert_eq!(found.len(), options.sampling.num_inference_steps);
        for (step, map) in found.iter().enumerate() {
            let (map, expected) = (map.as_ref().expect("there is text"), fixture.tensor(&format!("step.{step}")));
            let places = map.shape[1] * map.shape[2];
            assert_eq!((map.shape[0], &map.shape[1..]), (32, &expected.shape[1..]));
            check_close(&format!("step {step}, {dtype:?}"), &map.data[..expected.len()], &expected.data, tolerance);
            for place in 0..places {
                let sum: f32 = (0..map.shape[0]).map(|token| map.data[token * places + place]).sum();
                assert!((sum - 1.0).abs() < 1e-4, "place {place} spends {sum} of its attention");
            }
        }
    }
    // The words' tokens, after the one that begins the window.
    let words = pipeline.words(prompt).expect("a prompt");
    let places: Vec<_> = words.iter().map(|(word, tokens)| (word.as_str(), tokens.clone())).collect();
    let expected = [("a", 1..2), ("3d", 2..4), ("red", 4..5), ("apple", 5..6), ("blue", 7..8), ("background", 8..10)];
    assert_eq!(places, expected);
    assert_eq!(pipeline.words(&"many ".repeat(76)).expect("a prompt"), [], "more than a window");
    assert_eq!(pipeline.words("").expect("a prompt"), []);
}
