//! What a recorded job says of its run is what the library computes.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use serde_json::{Value, json};
use unmist::backend::{Device, LoadOptions};
use unmist::generate::{Event, Models, Notes, places};
use unmist::gpu::Checks;
use unmist::image_io::{Picture, decode};
use unmist::pipelines::Runtime;
use unmist::request::{Asked, Request};
use unmist::rng::{TorchCpu, randn_tensor};
use unmist::{DType, HostTensor};

use super::{PROMPT, Running, events, from_base64, options, pixels};
use crate::device::gpu;

/// A process has one recording, of which kernels' times are read: tests that want them take turns.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs a job to its end; its name.
fn run(server: &Running, path: &str, body: &Value) -> String {
    let job = server.post(path, body).good().json();
    let id = job["id"].as_str().expect("a name").to_owned();
    let all = events(&server.get(&format!("/v1/jobs/{id}/events")).good());
    assert_eq!(all.last().expect("an end").0, "finished", "{all:?}");
    id
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// The picture of a `data:` URL.
fn picture(url: &Value) -> Picture {
    let (kind, data) = url.as_str().expect("text").split_once(',').expect("data");
    assert_eq!(kind, "data:image/png;base64", "small pictures are kept as they are");
    decode(Path::new("a view"), &from_base64(data), 3).expect("a picture")
}

fn rms(of: &[f32]) -> f64 {
    (of.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / of.len() as f64).sqrt()
}

/// The sample and the estimate of x_0 after each step of a run, their pictures, and the noise levels before each step.
struct Run {
    samples: Vec<HostTensor>,
    x0: Vec<HostTensor>,
    pictures: Vec<[Picture; 2]>,
    /// Timestep and ᾱ, which the scheduler reads from its table.
    levels: Vec<(f64, f64)>,
}

fn by_library(request: Request) -> Run {
    let device = Device::Gpu(gpu().with_checks(Checks::Off));
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let mut notes = Notes::default();
    let mut models = Models::open(&request, &mut notes).expect("opens");
    let resolved = models.resolve(&Asked::from(request), None).expect("resolves");
    let mut run = Run { samples: vec![], x0: vec![], pictures: vec![], levels: vec![] };
    models
        .run(&runtime, &resolved, &mut |event| {
            let Event::Step(mut step) = event else { return Ok(()) };
            let (sample, x0) = (step.progress.sample()?, step.progress.pred_original_sample()?);
            let views = [&sample, &x0].map(|x| {
                // √(ᾱ + 1 − ᾱ) is 1: nothing has to be scaled in these runs.
                Picture::from_tensor(&step.pipeline.decode(&runtime, x).expect("decodes")).expect("a picture")[0]
                    .clone()
            });
            run.samples.push(sample);
            run.x0.push(x0);
            run.pictures.push(views);
            let table = &step.pipeline.scheduler.noise_schedule.alphas_cumprod;
            run.levels.push((step.progress.timestep, table[step.progress.timestep as usize]));
            Ok(())
        })
        .expect("runs");
    run
}

#[test]
fn a_recorded_run_is_the_librarys() {
    let _turn = turn();
    let server = Running::new(options());
    let body = json!({"model": "ddpm-fashion-32", "class": [7], "steps": 4, "seed": [5]});
    let id = run(&server, "/v1/jobs?inside=true", &body);
    let inside = server.get(&format!("/v1/jobs/{id}/inside")).good().json();
    let request = Request {
        model: Some(places::weights_folder().expect("it is there").join("ddpm-fashion-32")),
        class: vec![7],
        steps: Some(4),
        seed: vec![5],
        ..Request::default()
    };
    let expected = by_library(request);
    assert_eq!(inside["steps"], 4);
    let schedule = list(&inside["schedule"]);
    assert_eq!(schedule.len(), 4);
    for (found, (timestep, alpha_bar)) in schedule.iter().zip(&expected.levels) {
        assert_eq!(number(&found["timestep"]), *timestep);
        let close = |field: &str, expected: f64| {
            let found = number(&found[field]);
            // The table is rounded to f32, as diffusers' is.
            assert!((found / expected - 1.0).abs() < 1e-5, "{field} at {timestep}: {found}, expected {expected}");
        };
        close("alpha_bar", *alpha_bar);
        close("sigma", ((1.0 - alpha_bar) / alpha_bar).sqrt());
        close("snr", alpha_bar / (1.0 - alpha_bar));
    }
    let frames = list(&inside["frames"]);
    assert_eq!(frames.iter().map(|frame| number(&frame["step"])).collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0, 4.0]);
    let noise = randn_tensor(&mut [TorchCpu::new(5)], &expected.samples[0].shape);
    assert!((number(&frames[0]["sample_rms"]) - rms(&noise.data)).abs() < 1e-9, "the run begins with this noise");
    assert_eq!(
        (&frames[0]["pred_original_sample"], &frames[0]["pred_original_sample_rms"]),
        (&Value::Null, &Value::Null)
    );
    for (i, frame) in frames[1..].iter().enumerate() {
        let [sample, x0] = &expected.pictures[i];
        assert!((number(&frame["sample_rms"]) - rms(&expected.samples[i].data)).abs() < 1e-9, "{frame}");
        assert!((number(&frame["pred_original_sample_rms"]) - rms(&expected.x0[i].data)).abs() < 1e-9, "{frame}");
        let gray = |picture: &Picture| Picture {
            channels: 3,
            data: picture.data.iter().flat_map(|v| [*v; 3]).collect(),
            ..picture.clone()
        };
        assert!(picture(&frame["sample"]) == gray(sample), "x_t after step {}", i + 1);
        assert!(picture(&frame["pred_original_sample"]) == gray(x0), "x_0 after step {}", i + 1);
    }
    // Every kernel by its name, the longest first.
    let kernels = list(&inside["kernels"]);
    assert!(kernels.len() > 3 && inside["untimed"].is_null(), "{inside}");
    let times: Vec<f64> = kernels.iter().map(|kernel| number(&kernel["seconds"])).collect();
    assert!(times.windows(2).all(|pair| pair[0] >= pair[1]) && times[0] > 0.0, "{times:?}");
    for name in ["scheduler_step/", "contraction/"] {
        let found = kernels.iter().find(|kernel| kernel["kernel"].as_str().is_some_and(|one| one.starts_with(name)));
        assert!(found.is_some_and(|kernel| number(&kernel["launches"]) >= 4.0), "{name}: {kernels:?}");
    }
    // Looking changes nothing.
    let plain = run(&server, "/v1/jobs", &body);
    let [seen, unseen] = [&id, &plain].map(|id| pixels(&server.get(&format!("/v1/jobs/{id}/pictures/0")).good().body));
    assert!(seen == unseen, "a recorded run makes another picture");
    let answer = server.get(&format!("/v1/jobs/{plain}/inside"));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("not_recorded")));
}

#[test]
fn noise_of_other_scales_is_shown_and_long_runs_are_thinned() {
    let _turn = turn();
    let server = Running::new(options());
    let body = json!({"prompt": [PROMPT], "scheduler": "Euler", "steps": 3, "seed": [5], "batch_size": 2});
    let id = run(&server, "/v1/jobs?inside=true", &body);
    let inside = server.get(&format!("/v1/jobs/{id}/inside")).good().json();
    let frames = list(&inside["frames"]);
    // Euler's samples have the noise's own scale: σ times N(0, 1), which is divided out of what is shown.
    let sigma = number(&inside["schedule"][0]["sigma"]);
    assert!(sigma > 5.0, "{sigma}");
    let start = number(&frames[0]["sample_rms"]);
    assert!((start / sigma.hypot(1.0) - 1.0).abs() < 0.2, "{start} for σ {sigma}");
    let spread = |url: &Value| {
        let data = picture(url).data;
        let mean = data.iter().map(|v| f64::from(*v)).sum::<f64>() / data.len() as f64;
        (data.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / data.len() as f64).sqrt()
    };
    // Latents of 14 times the scale would be decoded to black and white.
    assert!((10.0..90.0).contains(&spread(&frames[0]["sample"])), "{}", spread(&frames[0]["sample"]));
    assert_eq!(picture(&frames[3]["sample"]), picture(&frames[3]["pred_original_sample"]), "the end is x_0");

    // Of a prompt's words, where the picture looks at each.
    assert_eq!(inside["words"], json!(["a", "3d", "red", "apple", "blue", "background"]));
    assert_eq!(list(&frames[0]["attention"]).len(), 0);
    for frame in &frames[1..] {
        let maps = list(&frame["attention"]);
        assert_eq!(maps.len(), 6);
        for map in maps {
            let (peak, map) = (number(&map["peak"]), picture(&map["map"]));
            assert!(peak > 0.0 && peak < 1.0, "{peak}");
            assert_eq!((map.width, map.height, map.data.iter().max()), (8, 8, Some(&255)));
        }
        assert_ne!(maps[3], maps[5], "the apple is not everywhere where the background is");
    }

    let long = run(&server, "/v1/jobs?inside=true", &json!({"model": "ddpm-fashion-32", "steps": 65, "seed": [1]}));
    let inside = server.get(&format!("/v1/jobs/{long}/inside")).good().json();
    let steps: Vec<f64> = list(&inside["frames"]).iter().map(|frame| number(&frame["step"])).collect();
    let expected: Vec<f64> = (0..=64).step_by(2).chain([65]).map(f64::from).collect();
    assert_eq!(steps, expected);
    assert_eq!(list(&inside["schedule"]).len(), 65);
}
