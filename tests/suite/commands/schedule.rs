//! `unmist schedule` against diffusers' tables.

use serde_json::Value;

use crate::commands::sample::Folder;
use crate::commands::usage::{fails, succeeds};
use crate::common::Fixture;

fn shown(args: &[&str]) -> Value {
    let text = succeeds(&[&["schedule", "--json"], args].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn numbers(list: &Value, field: &str) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|item| item[field].as_f64().expect("a number")).collect()
}

#[test]
fn its_numbers_are_diffusers() {
    let fixture = Fixture::read("schedulers/ddpm");
    let all = shown(&["--scheduler", "DDPMScheduler", "--steps", "25"]);
    for (field, table) in [("beta", "betas/linear"), ("alpha_bar", "alphas_cumprod/linear")] {
        let expected = &fixture.tensor(table).data;
        let found = numbers(&all["trained"], field);
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - f64::from(*expected)).abs() < 1e-7, "{field} {i}: {found}, diffusers has {expected}");
        }
    }
    let expected: Vec<_> = fixture.tensor("leading/25/timesteps").data.iter().map(|t| f64::from(*t)).collect();
    assert_eq!(numbers(&all["run"], "timestep"), expected);
    assert_eq!(numbers(&all["run"], "step"), (1..=25).map(f64::from).collect::<Vec<_>>());
    for call in all["run"].as_array().expect("a list") {
        let at = |field: &str| call[field].as_f64().expect("a number");
        let trained = &all["trained"][at("timestep") as usize];
        assert!((at("alpha_bar") - trained["alpha_bar"].as_f64().unwrap()).abs() < 1e-12, "{call}");
        assert!((at("snr") * at("sigma").powi(2) - 1.0).abs() < 1e-12, "SNR = 1 / σ²: {call}");
        assert!((at("snr") - at("alpha_bar") / (1.0 - at("alpha_bar"))).abs() <= 1e-9 * at("snr"), "{call}");
    }

    // A sampler over a model's own schedule, levels of other frames, and two calls a step.
    let fixture = Fixture::read("schedulers/FlowMatchHeunDiscreteScheduler");
    let flow = shown(&["--scheduler", "FlowMatchHeunDiscreteScheduler", "--steps", "5"]);
    assert_eq!(flow["trained"], Value::Array(vec![]));
    let expected = &fixture.tensor("default/5/timesteps").data;
    let found = numbers(&flow["run"], "timestep");
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(expected).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-3), "{found:?}");
    assert_eq!(numbers(&flow["run"], "step"), [1, 1, 2, 2, 3, 3, 4, 4, 5].map(f64::from));
    let karras = shown(&["--scheduler", "DPM++ 2M Karras", "--steps", "3"]);
    assert_eq!(karras["scheduler"]["_class_name"], "DPMSolverMultistepScheduler");
    // A config of its own; the betas of a model under another scheduler.
    let file = tempfile::Builder::new().suffix(".json").tempfile().expect("a file");
    std::fs::write(file.path(), r#"{"_class_name": "FlowMatchHeunDiscreteScheduler"}"#).expect("writes");
    assert_eq!(shown(&["--scheduler-config", file.path().to_str().expect("UTF-8"), "--steps", "5"]), flow);
    let [own, other] = [&["--steps", "4"][..], &["--scheduler", "LCM", "--steps", "4"]]
        .map(|more| shown(&[&["--model", "emoji-64"], more].concat()));
    assert_eq!(own["trained"], other["trained"]);
    assert_ne!(own["trained"], all["trained"], "not the default's");
    assert_ne!(own["run"], other["run"]);
}

#[test]
fn it_is_drawn_and_told() {
    let folder = Folder::new();
    let file = folder.path("noise.svg");
    for (args, panels, dots) in [
        // It begins with noise alone, whose SNR of 0 no logarithmic axis holds.
        (vec!["--model", "emoji-64", "--steps", "7"], 4, 19),
        (vec!["--scheduler", "CMStochasticIterativeScheduler", "--steps", "2"], 3, 6),
        (vec!["--scheduler", "DDIMScheduler", "--steps", "1"], 4, 3),
    ] {
        let text = succeeds(&[&["schedule", "--output", &file][..], &args].concat());
        assert!(text.contains("log SNR"), "{text}");
        let svg = String::from_utf8(folder.bytes("noise.svg")).expect("UTF-8");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), panels, "{args:?}");
        assert_eq!(svg.matches("<circle").count(), dots, "{args:?}");
        // Every dot lies within the drawing.
        for circle in svg.split("<circle ").skip(1) {
            let of = |name: &str| -> f64 {
                let value = circle.split(&format!("{name}=\"")).nth(1).expect("it is there");
                value.split('"').next().unwrap().parse().expect("a number")
            };
            assert!((0.0..=840.0).contains(&of("cx")) && (0.0..=510.0).contains(&of("cy")), "{circle}");
        }
    }
    let text = succeeds(&["schedule", "--scheduler", "LCM", "--steps", "2"]);
    assert!(text.contains("LCMScheduler") && text.contains("then fresh noise"), "{text}");

    let empty = tempfile::tempdir().expect("a folder");
    let fails = |args: &[&str], parts: &[&str]| fails(&[&["schedule"], args].concat(), parts, empty.path());
    fails(&["--output", "noise.png"], &["--output noise.png", ".svg"]);
    fails(&["--scheduler", "no such"], &["--scheduler", "no such scheduler"]);
    fails(&["--model", "emoji-64", "--scheduler", "IPNDMScheduler"], &["--scheduler", "counts timesteps"]);
    fails(&["--steps", "0"], &["--steps"]);
    fails(&["--scheduler-config", "nowhere.json"], &["nowhere.json"]);
}
