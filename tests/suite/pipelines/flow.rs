//! The probability flow against scipy's RK45 around PyTorch: samples, and the likelihood of pictures.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unmist::DType;
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::image_io::{Range, read};
use unmist::pipelines::{DiffusionPipeline, Example, Likelihood, Runtime, SampleOptions};
use unmist::rng::TorchCpu;
use unmist::schedulers::{ProbabilityFlow, RungeKutta, Scheduler, SchedulerConfig};
use unmist::verify::{Tolerance, compare};

use crate::common::{Fixture, thorough};
use crate::device::gpu;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn pipeline(case: &Value) -> DiffusionPipeline {
    let folder = match case["model"].as_str().expect("a name") {
        "ve" => fixtures().join("score/ve"),
        model => fixtures().join("unet2d").join(model),
    };
    let scheduler = SchedulerConfig::from_json(&case["scheduler"].to_string()).and_then(Scheduler::new);
    DiffusionPipeline::load(&Checkpoint::open(folder).expect("sound"), scheduler.expect("sound")).expect("sound")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Evaluations lie within a step or two: a model that rounds otherwise may lengthen one.
fn same_evaluations(name: &str, found: usize, expected: f64) {
    let slack = (0.03 * expected).max(12.0);
    assert!((found as f64 - expected).abs() <= slack, "{name}: {found} evaluations, expected {expected}");
}

#[test]
fn samples_are_those_of_scipy() {
    let device = Device::Gpu(gpu().clone());
    let fixture = Fixture::read("flow/samples");
    for (name, case) in fixture.object("cases") {
        let pipeline = pipeline(&case);
        let batch_size = number(&case["batch_size"]) as usize;
        let options = SampleOptions { batch_size, ..SampleOptions::default() };
        let mut source = [TorchCpu::new(case["seed"].as_u64().expect("a seed"))];
        let load = LoadOptions::default();
        let (mut heard, mut parts) = (0, 0);
        let runtime = Runtime::new(&device, &load, DType::F32);
        let found = pipeline.sample_latents(&runtime, &options, &mut source, &mut |mut progress| {
            heard += 1;
            assert_eq!((progress.done, progress.total), (heard, 100), "{name}");
            if progress.done % 50 == 0 {
                parts += progress.sample()?.len() + progress.pred_original_sample()?.len();
            }
            Ok(())
        });
        let (found, truth) = (found.expect("samples"), fixture.tensor(&name));
        compare(&found, truth, Tolerance::l2(2e-3)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((heard, parts), (100, 4 * truth.len()), "{name}");

        // Differences that f16 rounds away say nothing of an error.
        let half = Runtime::new(&device, &load, DType::F16);
        let refused = pipeline.sample_latents(&half, &options, &mut source, &mut |_| Ok(()));
        assert!(refused.expect_err("f16").to_string().contains("precision"), "{name}");
    }
}

fn likelihoods(name: &str, case: &Value, device: &Device, pictures: usize) -> Vec<Vec<Likelihood>> {
    let pipeline = pipeline(case);
    let folder = fixtures().join(case["images"].as_str().expect("a folder"));
    let examples = ["a.png", "b.png"].iter().take(pictures).map(|file| Example {
        name: (*file).to_owned(),
        image: read(folder.join(file), 3).expect("reads").to_tensor(Range::MinusOneToOne),
        class: None,
        caption: None,
    });
    let flow = ProbabilityFlow::of_likelihood(&pipeline.scheduler.config).expect("it has one");
    let solver = RungeKutta { rtol: number(&case["rtol"]), atol: number(&case["atol"]) };
    let mut noise = TorchCpu::new(case["seed"].as_u64().expect("a seed"));
    let (load, draws) = (LoadOptions::default(), number(&case["draws"]) as usize);
    let runtime = Runtime::new(device, &load, DType::F32);
    let found = pipeline.likelihood(&runtime, &flow, solver, examples, draws, &mut noise, &mut |_, _| {});
    found.unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn check(name: &str, case: &Value, found: &[Vec<Likelihood>]) {
    for (picture, draws) in found.iter().enumerate() {
        for (draw, found) in draws.iter().enumerate() {
            let truth = &case["pictures"][picture][draw];
            let parts = [("bits_per_dim", found.bits()), ("prior", found.prior), ("volume", found.volume)];
            for (part, found) in parts {
                let expected = number(&truth[part]);
                // The solver's own error is about its tolerance.
                let off = (found - expected).abs() / number(&truth["bits_per_dim"]).abs();
                assert!(off < 2e-3, "{name}, {picture}, {draw}: {part} is {found}, expected {expected}");
            }
            same_evaluations(name, found.evaluations, number(&truth["evaluations"]));
        }
    }
}

#[test]
fn likelihoods_are_those_of_scipy_and_autograd() {
    let device = Device::Gpu(gpu().clone());
    let text = std::fs::read_to_string(fixtures().join("flow/likelihood.json")).expect("the fixture is there");
    let fixture: Value = serde_json::from_str(&text).expect("sound");
    for (name, case) in fixture["cases"].as_object().expect("cases") {
        check(name, case, &likelihoods(name, case, &device, if thorough() { 2 } else { 1 }));
    }
    // The reference says the same of one.
    let case = &fixture["cases"]["karras_ve"];
    check("karras_ve", case, &likelihoods("karras_ve", case, &Device::Reference, 1));
    // The control: other noise, another number.
    let mut other = case.clone();
    other["seed"] = 99.into();
    let found = likelihoods("control", &other, &device, 1)[0][0].bits();
    assert!((found / number(&case["pictures"][0][0]["bits_per_dim"]) - 1.0).abs() > 2e-3, "{found}");
}
