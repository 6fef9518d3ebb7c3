//! The graph of one denoise step, on the reference and on the device, against [`Step::apply`], for the schedule of
//! every scheduler fixture.

use std::collections::HashMap;

use unmist::backend::Session;
use unmist::gpu::GpuSession;
use unmist::ops::activation::ActivationKind;
use unmist::ops::{Axis, Fill};
use unmist::pipelines::{DenoiseSpec, coefficients, step_graph};
use unmist::plan::{Plan, PlanOptions};
use unmist::reference::ReferenceSession;
use unmist::schedulers::{NoiseScale, Sampling, Schedule, Scheduler, Step};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::Fixture;
use crate::device::gpu;
use crate::schedulers::tables::config;

/// Of the sample, [N, C, H, W].
const SHAPE: [usize; 4] = [2, 3, 5, 7];

/// Whether the model returns a second half of channels.
fn learned(schedule: &Schedule) -> bool {
    schedule.steps.iter().any(|step| step.noise_scale != NoiseScale::One)
}

/// What stands in for the model, channels-last: x/2 + 0.1, and for a learned variance relu(x)/4 + 0.1 behind it.
fn model(x: &HostTensor, learned: bool) -> HostTensor {
    let map = |f: fn(f32) -> f32| HostTensor::from_fn(x.shape.as_slice(), |i| f(x.data[i]));
    let mean = map(|x| x / 2.0 + 0.1);
    if learned { unmist::reference::concat(&mean, &map(|x| x.max(0.0) / 4.0 + 0.1), Axis::Channels) } else { mean }
}

/// The graph of a step of `schedule` with that model in it.
fn graph(schedule: &Schedule) -> unmist::graph::Graph {
    let [batch, channels, height, width] = SHAPE;
    let spec = DenoiseSpec { schedule, batch, height, width, channels, branches: 1, rescale: None, masked: false };
    step_graph(&spec, DType::F32, |layers, call| {
        let mean = layers.graph.scale("mean", call.sample, 0.5, 0.1)?;
        if !learned(schedule) {
            return Ok(mean);
        }
        let positive = layers.graph.activation("positive", call.sample, ActivationKind::Relu)?;
        let variance = layers.graph.scale("variance", positive, 0.25, 0.1)?;
        layers.graph.concat("model_output", mean, variance, Axis::Channels)
    })
    .expect("the model returns what the schedule needs")
}

fn nhwc(tensor: &HostTensor) -> HostTensor {
    tensor.nchw_to_nhwc().expect("four dimensions")
}

/// One step by [`Step::apply`], from `sample` and `memory` to the next ones and x_0.
fn apply(
    step: &Step,
    sample: &mut HostTensor,
    memory: &mut Vec<HostTensor>,
    noise: &HostTensor,
    learned: bool,
) -> HostTensor {
    let scaled = HostTensor::from_fn(SHAPE, |i| (f64::from(sample.data[i]) * step.input_scale) as f32);
    let output = model(&nhwc(&scaled), learned).nhwc_to_nchw().expect("four dimensions");
    let (prev_sample, x0) = step.apply(sample, &output, Some(noise), memory).expect("shapes agree");
    *sample = prev_sample;
    x0
}

/// Every step of `schedule` through `sessions`, each from the state that the steps before left on the host.
fn check(what: &str, schedule: &Schedule, sessions: &mut [Box<dyn Session>]) {
    let mut sample = Fill::Normal.tensor(&SHAPE, 1);
    sample.data.iter_mut().for_each(|x| *x *= schedule.init_noise_sigma as f32);
    let mut memory = vec![HostTensor::zeros(SHAPE); schedule.memory_slots];
    for (i, step) in schedule.steps.iter().enumerate() {
        let noise = Fill::Normal.tensor(&SHAPE, 2 + i as u64);
        let before = state(&sample, &memory);
        let x0 = nhwc(&apply(step, &mut sample, &mut memory, &noise, learned(schedule)));
        let after = state(&sample, &memory);
        for session in sessions.iter_mut() {
            let mut write = |name: &str, tensor: &HostTensor| session.write(name, tensor).expect("the graph has it");
            write("state", &before);
            write("timestep", &HostTensor { shape: vec![SHAPE[0]], data: vec![step.timestep as f32; SHAPE[0]] });
            write("coefficients", &coefficients(step, schedule.memory_slots));
            if schedule.steps.iter().any(|step| step.draws_noise) {
                write("noise", &nhwc(&noise));
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

/// [1 + slots, N, H, W, C]
fn state(sample: &HostTensor, memory: &[HostTensor]) -> HostTensor {
    let [n, c, h, w] = SHAPE;
    let data = std::iter::once(sample).chain(memory).flat_map(|tensor| nhwc(tensor).data).collect();
    HostTensor { shape: vec![1 + memory.len(), n, h, w, c], data }
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
            let (graph, no_weights) = (graph(&schedule), HashMap::new());
            let mut sessions: Vec<Box<dyn Session>> = Vec::new();
            // The reference takes every case; the device takes some of every class, which between them use every
            // operation.
            if i % 8 == 0 || learned(&schedule) {
                let plan =
                    Plan::new(&graph, gpu().caps(), &PlanOptions::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
                sessions.push(Box::new(
                    GpuSession::new(gpu(), plan, &no_weights).unwrap_or_else(|e| panic!("{what}: {e}")),
                ));
                on_device += 1;
            }
            sessions.push(Box::new(ReferenceSession::new(graph, &no_weights).expect("there are no weights")));
            check(&what, &schedule, &mut sessions);
            compared += 1;
        }
    }
    assert!(compared > 500 && on_device > 60, "only {compared} schedules, {on_device} of them on the device");
}
