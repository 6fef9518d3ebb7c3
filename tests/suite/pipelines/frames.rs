//! Models on pixels that count no timesteps (EDM, flow matching, the SDE that preserves the variance), against loops in
//! diffusers and against the paper's algorithm where it has none: folders loaded as a user does, whole runs, call by
//! call.

use std::path::{Path, PathBuf};

use unmist::DType;
use unmist::backend::{Device, LoadOptions};
use unmist::generate::{Models, Notes};
use unmist::pipelines::Runtime;
use unmist::request::{Asked, Request};
use unmist::verify::{Difference, Tolerance, compare};

use crate::common::Fixture;
use crate::device::gpu;

/// Of the sample after each call. Measured: 5e-6 at most, for EDM's few large steps from σ = 80 by Heun, where float32
/// itself is as far from float64.
const RELATIVE_L2: f64 = 1e-4;

/// How a run's scheduler is asked for.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// Not at all: it is the folder's.
    Folder,
    /// `--scheduler` with this name.
    Name(&'static str),
    /// `--scheduler-config`.
    File,
}

const RUNS: [(&str, By); 12] = [
    ("edm_euler", By::Folder),
    ("edm_euler_churn", By::File),
    ("edm_euler_v", By::File),
    ("edm_heun", By::Name("heun")),
    ("edm_heun_churn", By::File),
    ("edm_heun_churn_between", By::File),
    ("flow_euler", By::Folder),
    ("flow_euler_shift", By::File),
    ("flow_heun", By::Name("Heun")),
    ("flow_heun_shift", By::File),
    ("vp", By::Folder),
    ("vp_gentle", By::File),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/frames").join(name)
}

/// Makes the pictures of a run and compares each call of the model: the last one's difference.
fn check(name: &str, by: By, device: &Device, change: Option<(&str, f64)>) -> unmist::Result<Difference> {
    let fixture = Fixture::read(&format!("frames/{name}"));
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("scheduler_config.json");
    let mut config = fixture.object("scheduler");
    change.into_iter().for_each(|(key, value)| drop(config.insert(key.into(), value.into())));
    std::fs::write(&file, serde_json::Value::Object(config).to_string()).expect("writes");
    let seed = match fixture.find_text("seeds") {
        Some(seeds) => serde_json::from_str(seeds).expect("a list"),
        None => vec![fixture.text("seed").parse().expect("a number")],
    };
    let request = Request {
        model: Some(folder(fixture.text("model"))),
        scheduler: if let By::Name(name) = by { Some(name.into()) } else { None },
        scheduler_config: (by == By::File).then_some(file),
        steps: Some(fixture.text("num_inference_steps").parse().expect("a number")),
        batch_size: Some(fixture.text("batch_size").parse().expect("a number")),
        seed,
        ..Request::default()
    };
    let mut models = Models::open(&request, &mut Notes::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let resolved = models.resolve(&Asked::from(request), None).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(
        models.model.pipeline.scheduler.config.class.name(),
        fixture.object("scheduler")["_class_name"],
        "{name}"
    );

    let load = LoadOptions::default();
    let (runtime, mut kept) = (Runtime::new(device, &load, DType::F32), vec![]);
    let mut sources = resolved.noise_sources();
    let images = models.model.pipeline.sample(&runtime, &resolved.options, &mut sources, &mut |mut progress| {
        kept.push(progress.sample()?);
        Ok(())
    });
    let images = images.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(kept.len(), fixture.tensor("trajectory").shape[0], "{name}: every call of the model is compared");
    let mut last = Difference { relative_l2: 0.0, max_abs: 0.0, worst: 0 };
    for (call, found) in kept.iter().enumerate() {
        last = compare(found, &fixture.entry("trajectory", call), Tolerance::l2(RELATIVE_L2))?;
    }
    compare(&images, fixture.tensor("images"), Tolerance::largest(1e-4))?;
    Ok(last)
}

#[test]
fn the_list_of_runs_is_complete() {
    let files = std::fs::read_dir(folder("")).expect("fixtures are there").flatten();
    let names = files.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".safetensors")?.to_owned()));
    let mut found: Vec<_> = names.collect();
    found.sort();
    assert_eq!(found, RUNS.map(|(name, _)| name));
}

#[test]
fn device_makes_the_samples_that_diffusers_makes() {
    let device = Device::Gpu(gpu().clone());
    for (name, by) in RUNS {
        check(name, by, &device, None).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn reference_makes_the_samples_that_diffusers_makes() {
    for (name, by) in RUNS {
        check(name, by, &Device::Reference, None).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// The control: each number of the schedulers' configs shows.
#[test]
fn a_wrong_number_shows() {
    for (name, key, value) in [
        ("edm_euler_churn", "s_churn", 1.01),
        ("edm_heun_churn", "s_churn", 1.01),
        ("edm_heun_churn_between", "s_noise", 1.0),
        ("edm_heun_churn_between", "s_tmin", 0.0),
        ("flow_euler_shift", "shift", 2.99),
        ("flow_heun_shift", "shift", 2.99),
        ("vp_gentle", "beta_max", 9.01),
    ] {
        let found = check(name, By::File, &Device::Reference, Some((key, value)));
        assert!(found.is_err(), "{name}: {key} has no effect");
    }
}
