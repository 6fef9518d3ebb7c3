//! The graph of one denoise step, on the reference and on the device, against [`Step::apply`], for the schedule of
//! every scheduler fixture.

use std::collections::HashMap;

use unmist::backend::Session;
use unmist::gpu::GpuSession;
use unmist::ops::Fill;
use unmist::ops::activation::ActivationKind;
use unmist::pipelines::{DenoiseSpec, coefficients, step_graph};
use unmist::plan::{PlanOptions, Program};
use unmist::reference::ReferenceSession;
use unmist::schedulers::{NoiseScale, Sampling, Schedule, Scheduler, Step};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::Fixture;
use crate::device::gpu;
use crate::schedulers::tables::config;

/// Shapes of the sample, [N, C, ..]: images, audio, video. The cases take them in turn.
const SHAPES: [&[usize]; 3] = [&[2, 3, 5, 7], &[2, 3, 11], &[1, 3, 2, 5, 4]];

/// Whether the model returns a learned variance as a second half of its channels.
fn learned(schedule: &Schedule) -> bool {
    let learned = |scale| !matches!(scale, NoiseScale::One | NoiseScale::Langevin { .. });
    schedule.steps.iter().any(|step| learned(step.noise_scale))
}

/// Stands in for the model, channels-last: x/2 + 0.1, followed by relu(x)/4 + 0.1 if the variance is learned.
fn model(x: &HostTensor, learned: bool) -> HostTensor {
    let map = |f: fn(f32) -> f32| HostTensor::from_fn(x.shape.as_slice(), |i| f(x.data[i]));
    let mean = map(|x| x / 2.0 + 0.1);
    let last = x.shape.len() - 1;
    if learned { unmist::reference::concat(&mean, &map(|x| x.max(0.0) / 4.0 + 0.1), last) } else { mean }
}

/// The graph of a step of `schedule` with that model in it, for samples of `shape` [N, C, ..].
fn graph(schedule: &Schedule, shape: &[usize]) -> unmist::graph::Graph {
    let shape = [&shape[..1], &shape[2..], &shape[1..2]].concat();
    let spec = DenoiseSpec {
        schedule,
        shape,
        branches: 1,
        rescale: None,
        masked: false,
        lends_self_attention: false,
        classifier: None,
    };
    step_graph(&spec, DType::F32, |layers, call| {
        let mean = layers.graph.scale("mean", call.sample, 0.5, 0.1)?;
        if !learned(schedule) {
            return Ok(mean);
        }
        let positive = layers.graph.activation("positive", call.sample, ActivationKind::Relu)?;
        let variance = layers.graph.scale("variance", positive, 0.25, 0.1)?;
        layers.graph.concat("model_output", mean, variance, -1)
    })
    .expect("the model returns what the schedule needs")
}

fn channels_last(tensor: &HostTensor) -> HostTensor {
    tensor.channels_last()
}

/// One step by [`Step::apply`], which advances `sample` and `memory`. Returns x_0.
fn apply(
    step: &Step,
    sample: &mut HostTensor,
    memory: &mut Vec<HostTensor>,
    noise: &HostTensor,
    learned: bool,
) -> HostTensor {
    let scaled = HostTensor::from_fn(sample.shape.clone(), |i| (f64::from(sample.data[i]) * step.input_scale) as f32);
    let output = model(&channels_last(&scaled), learned).channels_first();
    let (prev_sample, x0) = step.apply(sample, &output, Some(noise), memory).expect("shapes agree");
    *sample = prev_sample;
    x0
}

/// Runs every step of `schedule` in `sessions`, each from the state that the previous steps left on the host.
fn check(what: &str, schedule: &Schedule, shape: &[usize], sessions: &mut [Box<dyn Session>]) {
    let mut sample = Fill::Normal.tensor(shape, 1);
    sample.data.iter_mut().for_each(|x| *x *= schedule.init_noise_sigma as f32);
    let mut memory = vec![HostTensor::zeros(shape); schedule.memory_slots];
    for (i, step) in schedule.steps.iter().enumerate() {
        let noise = Fill::Normal.tensor(shape, 2 + i as u64);
        let before = state(&sample, &memory);
        let x0 = channels_last(&apply(step, &mut sample, &mut memory, &noise, learned(schedule)));
        let after = state(&sample, &memory);
        for session in sessions.iter_mut() {
            let mut write = |name: &str, tensor: &HostTensor| session.write(name, tensor).expect("the graph has it");
            write("state", &before);
            write("timestep", &HostTensor { shape: vec![shape[0]], data: vec![step.timestep as f32; shape[0]] });
            write("coefficients", &coefficients(step, schedule.memory_slots));
            if schedule.steps.iter().any(Step::draws_noise) {
                write("noise", &channels_last(&noise));
            }
            session.run().expect("it runs");
            for (name, expected) in [("pred_original_sample", &x0), ("state", &after)] {
                let found = session.read(name).expect("the graph has it");
                // Coefficients are f32 here; where large terms cancel (σ = 4096 with zero terminal SNR) their rounding
                // shows.
                compare(&found, expected, Tolerance::l2(2e-6))
                    .unwrap_or_else(|e| panic!("{what}: step {i}: {name}: {e}"));
            }
        }
    }
}

/// [1 + slots, N, .., C]
fn state(sample: &HostTensor, memory: &[HostTensor]) -> HostTensor {
    let data = std::iter::once(sample).chain(memory).flat_map(|tensor| channels_last(tensor).data).collect();
    HostTensor { shape: [&[1 + memory.len()], &channels_last(sample).shape[..]].concat(), data }
}

#[test]
fn step_graph_agrees_with_step_apply() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schedulers");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("fixtures are there").map(|f| f.expect("readable").path()).collect();
    files.sort();
    let (mut compared, mut on_device) = (0, 0);
    for file in files {
        let stem = file.file_stem().and_then(|s| s.to_str()).expect("fixtures have names");
        let class = match stem {
            "ddim" => "DDIMScheduler",
            "ddpm" => "DDPMScheduler",
            class => class,
        };
        let cases = Fixture::read(&format!("schedulers/{stem}")).object("cases");
        for (i, (key, case)) in cases.iter().enumerate() {
            let what = format!("{class} {key}");
            let mut sampling = Sampling::steps(case["steps"].as_u64().expect("a whole number") as usize);
            sampling.eta = case.get("eta").and_then(serde_json::Value::as_f64).unwrap_or(0.3);
            let scheduler = Scheduler::new(config(class, &case["config"])).unwrap_or_else(|e| panic!("{what}: {e}"));
            let schedule = scheduler.schedule(&sampling).unwrap_or_else(|e| panic!("{what}: {e}"));
            let shape = SHAPES[i / 8 % SHAPES.len()];
            let (graph, no_weights) = (graph(&schedule, shape), HashMap::new());
            let mut sessions: Vec<Box<dyn Session>> = Vec::new();
            // The reference runs every case; the device runs some of each class, which together use every operation.
            if i % 8 == 0 || learned(&schedule) {
                let plan = Program::new(&graph, gpu().caps(), &PlanOptions::default())
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                sessions.push(Box::new(
                    GpuSession::new(gpu(), plan, &no_weights).unwrap_or_else(|e| panic!("{what}: {e}")),
                ));
                on_device += 1;
            }
            sessions.push(Box::new(ReferenceSession::new(graph, &no_weights).expect("there are no weights")));
            check(&what, &schedule, shape, &mut sessions);
            compared += 1;
        }
    }
    // Schedulers of scores have no fixtures of this kind.
    for (class, shape) in
        ["ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "KarrasVeScheduler", "AnnealedLangevinScheduler"]
            .into_iter()
            .zip(SHAPES.into_iter().cycle())
    {
        let fields = serde_json::json!({"sigma_min": 0.1, "sigma_max": 5.0, "langevin_steps": 2});
        let schedule = Scheduler::new(config(class, &fields)).and_then(|s| s.schedule(&Sampling::steps(3)));
        let schedule = schedule.unwrap_or_else(|e| panic!("{class}: {e}"));
        let (graph, no_weights) = (graph(&schedule, shape), HashMap::new());
        let plan =
            Program::new(&graph, gpu().caps(), &PlanOptions::default()).unwrap_or_else(|e| panic!("{class}: {e}"));
        let device = GpuSession::new(gpu(), plan, &no_weights).unwrap_or_else(|e| panic!("{class}: {e}"));
        let oracle = ReferenceSession::new(graph, &no_weights).expect("there are no weights");
        check(class, &schedule, shape, &mut [Box::new(device), Box::new(oracle)]);
    }
    assert!(compared > 500 && on_device > 60, "only {compared} schedules, {on_device} of them on the device");
}
