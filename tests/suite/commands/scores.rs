//! Folders of models of the score, from the command line.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unmist::checkpoint::Tensors;
use unmist::verify::{Tolerance, compare};

use super::usage::{copy, fails, fixture, succeeds};
use crate::common::Fixture;

fn miniature() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/score/ve")
}

/// A folder as `class` of diffusers saves it, with a U-Net and a scheduler's config.
fn folder_of(class: &str, unet: &Path, scheduler: &Value, to: &Path) {
    copy(&unet.join("unet"), &to.join("unet"));
    std::fs::create_dir_all(to.join("scheduler")).expect("a temporary folder");
    let write = |name: &str, value: &Value| std::fs::write(to.join(name), value.to_string()).expect("writable");
    write("scheduler/scheduler_config.json", scheduler);
    let name = scheduler["_class_name"].as_str().expect("a class");
    write(
        "model_index.json",
        &json!({
            "_class_name": class, "_diffusers_version": "0.42.1",
            "scheduler": ["diffusers", name], "unet": ["diffusers", "UNet2DModel"]
        }),
    );
}

#[test]
fn folders_of_scores_make_the_pictures_that_diffusers_makes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (run, class, seeds) in [
        ("ve_two_corrections", "ScoreSdeVePipeline", "5,8589934592,6"),
        ("ve_predictor_alone", "ScoreSdeVePipeline", "1"),
        ("karras_ve_calm", "KarrasVePipeline", "3"),
        ("vp_gentle", "ScoreSdeVpPipeline", "6"),
    ] {
        let truth = Fixture::read(&format!("score/{run}"));
        let unet = if truth.text("model") == "ve" { miniature() } else { fixture(truth.text("model")) };
        let (model, out) = (folder.path().join(run), folder.path().join(format!("{run}.safetensors")));
        folder_of(class, &unet, &Value::Object(truth.object("scheduler")), &model);
        let [model, out] = [&model, &out].map(|path| path.to_str().expect("a name in UTF-8"));
        let steps = truth.text("num_inference_steps");
        succeeds(&["sample", "--model", model, "--steps", steps, "--seed", seeds, "--output", out]);
        let found = Tensors::open(out).and_then(|file| file.read_f32("images")).expect("written");
        compare(&found, truth.tensor("images"), Tolerance::largest(2e-3)).unwrap_or_else(|e| panic!("{run}: {e}"));
    }
}

#[test]
fn what_a_model_of_scores_cannot_do_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.png");
    let model = miniature();
    let [model, out] = [&model, &out].map(|path| path.to_str().expect("a name in UTF-8"));
    let refused = |command: &str, args: &[&str], parts: &[&str]| {
        let all = [&[command, "--model", model, "--output", out], args].concat();
        fails(&all, parts, folder.path());
    };
    refused("sample", &["--scheduler", "ddim"], &["--scheduler", "it returns the score", "Heun", "Langevin"]);
    refused("sample", &["--steps", "0"], &["steps"]);
    refused("sample", &["--width", "9"], &["--width", "multiples of 2"]);
    refused("sample", &["--class", "1"], &["--class"]);
    let between = ["--seed", "1,2", "--steps", "3"];
    refused("interpolate", &between, &["--scheduler", "fresh noise", "Heun and RK45 draw none"]);
    let truth = Fixture::read("score/vp_gentle");
    let vp = tempfile::tempdir().expect("a temporary folder");
    let scheduler = Value::Object(truth.object("scheduler"));
    folder_of("ScoreSdeVpPipeline", &fixture(truth.text("model")), &scheduler, vp.path());
    let line = ["interpolate", "--model", vp.path().to_str().expect("a name in UTF-8"), "--output", out];
    fails(&[&line[..], &between].concat(), &["--scheduler", "RK45 draws none"], folder.path());
}

/// The probability flow draws nothing, so that there is a way between two noises.
#[test]
fn the_probability_flow_has_pictures_between_pictures() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (miniature(), folder.path().join("out.png"));
    let [model, out] = [&model, &out].map(|path| path.to_str().expect("a name in UTF-8"));
    let run = ["--scheduler", "heun", "--steps", "4", "--output", out];
    succeeds(&[&["interpolate", "--model", model, "--seed", "1,2", "--frames", "3"], &run[..]].concat());
    // Steps that RK45 chooses itself, as exactly as a config says.
    let config = folder.path().join("rk45.json");
    let keys = r#"{"_class_name": "ProbabilityFlowRK45Scheduler", "sigma_max": 3, "rtol": 0.01, "atol": 0.01}"#;
    std::fs::write(&config, keys).expect("writes");
    let run = ["--scheduler-config", config.to_str().expect("UTF-8"), "--output", out];
    succeeds(&[&["interpolate", "--model", model, "--seed", "1,2", "--frames", "3"], &run[..]].concat());
    succeeds(&[&["sample", "--model", model, "--steps", "7"], &run[..]].concat());
}
