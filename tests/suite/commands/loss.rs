//! `unmist loss`: what it writes, and what it refuses.

use std::path::Path;

use serde_json::Value;
use unmist::checkpoint::{Tensors, safetensors};
use unmist::image_io::{Picture, write_png};

use crate::commands::usage::{copy, fails, fixture, shipped, stable_diffusion, succeeds, unmist};

fn images(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/loss").join(name);
    path.to_str().expect("UTF-8").to_owned()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn table_json_and_plot_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let [json, plot] = ["loss.json", "loss.svg"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let fashion = shipped();
    let fashion = ["loss", "--model", fashion.to_str().unwrap(), "--images", &images("fashion")];
    let more = ["--timesteps", "7", "--seed", "3", "--json", &json, "--plot", &plot];
    let table = succeeds(&[&fashion[..], &more].concat());

    // The means of what the fixture has picture by picture.
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(images("loss.json")).unwrap()).unwrap();
    let case = &fixture["cases"]["fashion"];
    let expected = case["pictures"].as_array().unwrap();
    let mean = |of: &dyn Fn(&Value) -> f64| expected.iter().map(of).sum::<f64>() / expected.len() as f64;
    let same = |what: &str, found: &Value, expected: f64| {
        assert!((number(found) / expected - 1.0).abs() < 1e-4, "{what}: {found}, expected {expected}");
    };
    let found: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    for (i, at) in found["timesteps"].as_array().unwrap().iter().enumerate() {
        assert_eq!(at["timestep"], case["timesteps"][i]);
        for (field, theirs) in
            [("mse", "mse"), ("simple", "simple"), ("vlb", "vlb"), ("min_snr", "min_snr"), ("bound", "terms")]
        {
            same(&format!("{field} {i}"), &at[field], mean(&|picture| number(&picture[theirs][i])));
        }
        same("weight", &at["vlb"], number(&at["weights"]["vlb"]) * number(&at["mse"]));
        assert!(table.contains(&format!("\n{:>8} ", number(&at["timestep"]))), "{table}");
    }
    assert_eq!(found["timesteps"].as_array().unwrap().len(), 7);
    same("total", &found["bound"]["total"], mean(&|picture| number(&picture["total"])));
    same("prior", &found["bound"]["prior"], mean(&|picture| number(&picture["prior"])));
    same("decoder", &found["bound"]["decoder"], mean(&|picture| number(&picture["terms"][0])));
    let sum: f64 = ["prior", "transitions", "decoder"].map(|part| number(&found["bound"][part])).iter().sum();
    same("sum", &found["bound"]["total"], sum);
    let files: Vec<_> = found["pictures"].as_array().unwrap().iter().map(|picture| &picture["file"]).collect();
    assert_eq!(files, ["0/shirt.png", "7/sneaker.png", "7/sneaker_2.png", "bag.png"]);
    let classes: Vec<_> =
        found["pictures"].as_array().unwrap().iter().map(|picture| picture["class"].as_u64()).collect();
    assert_eq!(classes, [Some(0), Some(7), Some(7), None]);
    for (picture, theirs) in found["pictures"].as_array().unwrap().iter().zip(expected) {
        same("picture", &picture["bound"]["total"], number(&theirs["total"]));
        let all: Vec<f64> = theirs["min_snr"].as_array().unwrap().iter().map(number).collect();
        same("picture", &picture["min_snr"], all.iter().sum::<f64>() / 7.0);
    }
    assert_eq!((&found["prediction_type"], &found["size"]), (&"epsilon".into(), &vec![32, 32, 1].into()));

    for part in ["min-SNR-5", "L_simple", "VLB", "bits/dim", "(L_T)", "--timesteps all", "7 of 1000 timesteps"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (5, 5 * 7));

    // γ counts for clean pictures alone.
    let other = succeeds(&[&fashion[..], &["--timesteps", "2", "--snr-gamma", "1"]].concat());
    assert!(other.contains("min-SNR-1"), "{other}");
}

#[test]
fn models_by_text_have_no_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let [json, plot] = ["loss.json", "loss.svg"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let emoji = ["loss", "--model", "emoji-64", "--images", &images("emoji")];
    let table = succeeds(&[&emoji[..], &["--timesteps", "3", "--json", &json, "--plot", &plot]].concat());
    assert!(table.contains("no bound") && table.contains("v_prediction") && !table.contains("bits/dim"), "{table}");
    let found: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(found["bound"], Value::Null);
    assert_eq!(found["pictures"][0]["caption"], "flat fox, green background");
    assert_eq!(std::fs::read_to_string(&plot).unwrap().matches("<polyline").count(), 4);
}

#[test]
fn stable_diffusion_of_all_sizes_is_measured_and_other_tasks_are_refused() {
    let empty = tempfile::tempdir().expect("a folder");
    let images = images("emoji");
    let asked = |model: &str| {
        let model = stable_diffusion(model).to_str().expect("UTF-8").to_owned();
        ["loss", "--model", &model, "--images", &images, "--resize", "--timesteps", "2"].map(str::to_owned).to_vec()
    };
    for model in ["sd1", "sdxl"] {
        let asked = asked(model);
        let table = succeeds(&asked.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(table.contains("2 of 1000 timesteps, 2 pictures") && table.contains("no bound"), "{table}");
    }
    for (model, part) in [("inpaint", "`inpaint`"), ("lcm", "distilled")] {
        let asked = asked(model);
        fails(&asked.iter().map(String::as_str).collect::<Vec<_>>(), &["training loss", part], empty.path());
    }
}

fn picture(path: &Path, width: usize, height: usize) {
    let data = (0..width * height).map(|i| (i * 7 % 256) as u8).collect();
    std::fs::create_dir_all(path.parent().unwrap()).expect("a folder");
    write_png(path, &Picture { width, height, channels: 1, data }, &[]).expect("writes");
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    let (folder, empty) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let model = shipped();
    let refused = |name: &str, more: &[&str], parts: &[&str]| {
        let images = folder.path().join(name);
        let out = empty.path().join("loss.json");
        let asked = ["loss", "--model", model.to_str().unwrap(), "--images", images.to_str().unwrap()];
        fails(&[&asked[..], &["--json", out.to_str().unwrap()], more].concat(), parts, empty.path());
    };
    let at = |name: &str| folder.path().join(name);
    refused("nowhere", &[], &["--images", "nowhere", "no such folder"]);
    std::fs::create_dir(at("empty")).expect("a folder");
    std::fs::write(at("empty/notes.txt"), "no picture").expect("writes");
    refused("empty", &[], &["--images", "empty", "no picture", ".png"]);
    std::fs::create_dir(at("broken")).expect("a folder");
    picture(&at("broken/a.png"), 32, 32);
    std::fs::write(at("broken/b.png"), "no picture").expect("writes");
    refused("broken", &[], &["b.png", "expected a PNG, JPEG or WebP"]);
    picture(&at("mixed/a.png"), 32, 32);
    picture(&at("mixed/b.png"), 40, 32);
    refused("mixed", &[], &["b.png", "40 x 32", "expected 32 x 32", "--resize"]);
    picture(&at("deep/1/more/a.png"), 32, 32);
    refused("deep", &[], &["more", "folder within a subfolder"]);
    picture(&at("unknown/11/a.png"), 32, 32);
    refused("unknown", &[], &["--images", "11", "classes 0 to 10"]);
    picture(&at("named/coat/a.png"), 32, 32);
    picture(&at("named/dress/a.png"), 32, 32);
    refused("named", &[], &["2 subfolders (coat, dress)", "10 or 11 classes"]);
    picture(&at("one/a.png"), 32, 32);
    for (more, parts) in [
        (["--timesteps", "1001"], &["--timesteps 1001", "this model has 1000"][..]),
        (["--timesteps", "1"], &["--timesteps 1", "2 to 1000"]),
        (["--timesteps", "many"], &["--timesteps many", "all"]),
        (["--snr-gamma", "0"], &["--snr-gamma 0", "above 0"]),
        (["--batch-size", "0"], &["--batch-size 0"]),
        (["--plot", "plot.png"], &["--plot plot.png", ".svg"]),
        (["--max-memory", "0.0001"], &["memory"]),
    ] {
        refused("one", &more, parts);
    }
    let asked = ["loss", "--model", "emoji-64", "--images", at("one").to_str().unwrap(), "--resize"].map(str::to_owned);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    fails(&asked, &["a.png", "takes a text", "a.txt"], empty.path());
    std::fs::write(at("one/a.txt"), "a fox ".repeat(40)).expect("writes");
    fails(&asked, &["a.png", "4 windows", "shorter text"], empty.path());

    // With --resize the other size is scaled and cropped; pictures without a class are of "no class".
    let done = succeeds(&[
        "loss",
        "--model",
        model.to_str().unwrap(),
        "--images",
        at("mixed").to_str().unwrap(),
        "--resize",
        "--timesteps",
        "2",
    ]);
    assert!(done.contains("2 pictures of 32 x 32"), "{done}");
}

#[test]
fn damaged_models_are_refused() {
    let (folder, empty) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let refused = |model: &Path, parts: &[&str]| {
        let out = empty.path().join("loss.svg");
        let name = if model.ends_with("learned") { "smaller" } else { "small" };
        let asked = ["loss", "--model", model.to_str().unwrap(), "--images", &images(name), "--timesteps", "4"];
        fails(&[&asked[..], &["--plot", out.to_str().unwrap()]].concat(), parts, empty.path());
    };
    // Weights so large that the prediction has no end.
    let damaged = folder.path().join("damaged");
    copy(&fixture("pipeline"), &damaged);
    let weights = damaged.join("unet/diffusion_pytorch_model.safetensors");
    let tensors = Tensors::open(&weights).expect("the weights are there");
    let mut all: Vec<_> = tensors.names().map(|name| (name, tensors.read_f32(name).expect("sound"))).collect();
    all.iter_mut().filter(|(name, _)| *name == "conv_out.weight").for_each(|(_, tensor)| tensor.data.fill(3e38));
    let listed: Vec<_> = all.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut bytes = Vec::new();
    safetensors::write(&mut bytes, &listed, &Default::default()).expect("writes");
    std::fs::write(&weights, bytes).expect("writes");
    refused(&damaged, &["a.png", "loss at timestep 0 is", "damaged"]);
    // Variances that are negative, as those of random weights are.
    let learned = folder.path().join("learned");
    copy(&fixture("bfloat16"), &learned);
    refused(&learned, &["a.png", "bound at timestep", "NaN"]);
    // A variance that the model does not return; noise that says nothing of the picture; another frame.
    let config = |text: &str| std::fs::write(damaged.join("scheduler/scheduler_config.json"), text).expect("writes");
    std::fs::copy(fixture("pipeline").join("unet/diffusion_pytorch_model.safetensors"), &weights).expect("copies");
    config(r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#);
    refused(&damaged, &["variance_type", "3 channels"]);
    config(r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true}"#);
    refused(&damaged, &["timestep 999", "v_prediction"]);
    config(r#"{"_class_name": "EDMEulerScheduler"}"#);
    refused(&damaged, &["EDMEulerScheduler", "no numbered timesteps"]);
    let help = unmist(&["loss", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("--timesteps <N|all>"));
}

#[test]
fn likelihood_is_written_or_refused() {
    let (folder, empty) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let json = folder.path().join("likelihood.json").to_str().unwrap().to_owned();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let model = folder.path().join("ve");
    copy(&fixtures.join("score/ve"), &model);
    let config = model.join("scheduler/scheduler_config.json");
    let known: Value =
        serde_json::from_str(&std::fs::read_to_string(fixtures.join("flow/likelihood.json")).unwrap()).unwrap();
    let case = &known["cases"]["karras_ve"];
    std::fs::write(&config, case["scheduler"].to_string()).expect("writes");
    let pictures = fixtures.join("flow/pictures").to_str().unwrap().to_owned();
    let asked = ["loss", "--model", model.to_str().unwrap(), "--images", &pictures, "--likelihood"];
    let more = ["--seed", "5", "--rtol", "1e-4", "--json", &json];
    let table = succeeds(&[&asked[..], &more].concat());
    let found: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    for (found, case) in found["pictures"].as_array().unwrap().iter().zip(case["pictures"].as_array().unwrap()) {
        let (found, expected) = (number(&found["bits_per_dim"]), number(&case[0]["bits_per_dim"]));
        assert!((found / expected - 1.0).abs() < 2e-3, "{found}, expected {expected}");
        assert!(table.contains(&format!("{found:.4}")), "{table}");
    }
    assert_eq!((number(&found["levels"]), number(&found["draws"])), (8.0, 1.0));
    assert!(table.contains("a.png") && table.contains("evaluations"), "{table}");

    let refused = |more: &[&str], parts: &[&str]| fails(&[&asked[..], more].concat(), parts, empty.path());
    refused(&["--timesteps", "5"], &["--timesteps", "--likelihood"]);
    refused(&["--draws", "0"], &["--draws 0"]);
    refused(&["--rtol", "0"], &["--rtol 0"]);
    refused(&["--atol", "-1"], &["--atol"]);
    // What a config cannot say, and what a model cannot.
    std::fs::write(&config, r#"{"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}"#).unwrap();
    refused(&[], &["beta_schedule", "scaled_linear"]);
    let latents = ["loss", "--model", "emoji-64", "--images", &images("emoji"), "--likelihood"];
    fails(&latents, &["probability flow", "rescale_betas_zero_snr"], empty.path());
}
