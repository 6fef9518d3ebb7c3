//! Schedulers against diffusers: tables, timesteps and steps, option by option.

use serde_json::{Map, Value};
use unmist::schedulers::{
    AlgorithmType, Combination, NoiseSchedule, PredictionType, Sampling, Schedule, Scheduler, SchedulerClass,
    SchedulerConfig, SigmaSpacing, SolverType, TimestepSpacing, sampler_of, scheduler_by_name,
};
use unmist::{Error, HostTensor};

use crate::common::{Fixture, check_close};

/// A config object of a fixture as the text of a `scheduler_config.json`.
pub fn config(class: &str, fields: &Value) -> SchedulerConfig {
    let mut fields = fields.as_object().expect("a config is an object").clone();
    fields.insert("_class_name".into(), class.into());
    SchedulerConfig::from_json(&Value::Object(fields).to_string()).expect("fixtures have valid configs")
}

fn as_f32(values: impl IntoIterator<Item = f64>) -> Vec<f32> {
    values.into_iter().map(|value| value as f32).collect()
}

/// The sampling that a fixture's case asks for.
fn sampling(case: &Map<String, Value>) -> Sampling {
    let mut sampling = Sampling::steps(case["steps"].as_u64().expect("steps is a whole number") as usize);
    sampling.eta = case.get("eta").and_then(Value::as_f64).unwrap_or(0.0);
    sampling.use_clipped_model_output = case.get("use_clipped_model_output") == Some(&Value::Bool(true));
    sampling
}

/// Two tensors joined along the channel axis.
fn concat_channels(a: &HostTensor, b: &HostTensor) -> HostTensor {
    let element = a.len() / a.shape[0];
    let mut shape = a.shape.clone();
    shape[1] *= 2;
    let data = a.data.chunks(element).zip(b.data.chunks(element)).flat_map(|(a, b)| [a, b].concat()).collect();
    HostTensor { shape, data }
}

/// β and ᾱ of every schedule, as stored in float32. Equal to the last bit, except where torch's vectorised square root
/// (zero SNR) or logistic function does not return the nearest float32: that moves 1 − β by a few units in its last
/// place (6e-8 each), and more near the end of a zero-SNR schedule, where √ᾱ_t − √ᾱ_T cancels.
#[test]
fn tables() {
    for (class, name) in [("DDPMScheduler", "ddpm"), ("DDIMScheduler", "ddim")] {
        let fixture = Fixture::read(&format!("schedulers/{name}"));
        for (key, fields) in fixture.object("betas") {
            let schedule = NoiseSchedule::new(&config(class, &fields)).expect("fixtures have valid betas");
            for (table, found) in [("betas", schedule.betas), ("alphas_cumprod", schedule.alphas_cumprod)] {
                let what = format!("{name} {table}/{key}");
                let (found, expected) = (as_f32(found), &fixture.tensor(&format!("{table}/{key}")).data);
                if key.contains("zero_snr") || key.contains("sigmoid") {
                    check_close(&what, &found, expected, 1e-5);
                } else {
                    assert_eq!(&found, expected, "{what}");
                }
            }
        }
    }
}

/// The forward process at two timesteps, one for each batch entry.
#[test]
fn add_noise() {
    let fixture = Fixture::read("schedulers/ddpm");
    let (sample, noise) = (fixture.tensor("inputs/sample"), fixture.tensor("inputs/noise"));
    let half = sample.len() / 2;
    for (key, fields) in fixture.object("betas") {
        let schedule = NoiseSchedule::new(&config("DDPMScheduler", &fields)).expect("fixtures have valid betas");
        let last = schedule.alphas_cumprod.len() - 1;
        let found = HostTensor::from_fn(sample.shape.as_slice(), |i| {
            let timestep = if i < half { 3 } else { last.min(700) };
            let noising = schedule.noising(timestep).expect("trained timesteps");
            (noising.signal * f64::from(sample.data[i]) + noising.noise * f64::from(noise.data[i])) as f32
        });
        check_close(&format!("add_noise/{key}"), &found.data, &fixture.tensor(&format!("add_noise/{key}")).data, 1e-6);
    }
}

/// The first, the middle and the last step of every case, each from the same fixed tensors.
fn check_steps(class: &str, name: &str) {
    let fixture = Fixture::read(&format!("schedulers/{name}"));
    let (sample, noise) = (fixture.tensor("inputs/sample"), fixture.tensor("inputs/noise"));
    let model_output = fixture.tensor("inputs/model_output");
    let with_variance = concat_channels(model_output, fixture.tensor("inputs/variance_output"));
    let cases = fixture.object("cases");
    assert!(cases.len() > 60, "{name}: only {} cases", cases.len());
    for (key, case) in cases {
        let case = case.as_object().expect("a case is an object");
        let config = config(class, &case["config"]);
        let schedule = Scheduler::new(config)
            .and_then(|s| s.schedule(&sampling(case)))
            .unwrap_or_else(|e| panic!("{name} {key}: {e}"));

        let timesteps = as_f32(schedule.steps.iter().map(|step| step.timestep));
        assert_eq!(timesteps, fixture.tensor(&format!("{key}/timesteps")).data, "{name} {key}: timesteps");
        let last = timesteps.len() - 1;
        let mut checked = vec![0, timesteps.len() / 2, last];
        checked.dedup();
        for (entry, index) in checked.into_iter().enumerate() {
            let learned = case["config"]
                .get("variance_type")
                .is_some_and(|v| v.as_str().is_some_and(|v| v.starts_with("learned")));
            let model_output = if learned { &with_variance } else { model_output };
            let (prev_sample, pred_original_sample) = schedule.steps[index]
                .apply(sample, model_output, Some(noise), &mut vec![])
                .unwrap_or_else(|e| panic!("{name} {key}: {e}"));
            let expected = fixture.entry(&format!("{key}/pred_original_sample"), entry);
            // 1/√ᾱ is 157 at the last timestep: rounding of the inputs grows with it.
            check_close(
                &format!("{name} {key}[{index}] pred_original_sample"),
                &pred_original_sample.data,
                &expected.data,
                1e-5,
            );
            let expected = fixture.entry(&format!("{key}/prev_sample"), entry);
            check_close(&format!("{name} {key}[{index}] prev_sample"), &prev_sample.data, &expected.data, 1e-5);
        }
    }
}

#[test]
fn ddpm() {
    check_steps("DDPMScheduler", "ddpm");
}

#[test]
fn ddim() {
    check_steps("DDIMScheduler", "ddim");
}

/// Glide's name for β_t; diffusers computes NaN for it, so it is compared with `fixed_large`.
#[test]
fn fixed_large_log_is_fixed_large() {
    let steps = |variance_type: &str| {
        let fields = serde_json::json!({ "variance_type": variance_type });
        let scheduler = Scheduler::new(config("DDPMScheduler", &fields)).expect("valid");
        scheduler.schedule(&Sampling::steps(7)).expect("valid").steps
    };
    assert_eq!(steps("fixed_large_log"), steps("fixed_large"));
    assert_ne!(steps("fixed_large_log"), steps("fixed_small"));
}

/// Image-to-image runs only the end of the same schedule.
#[test]
fn strength_cuts_the_beginning() {
    let scheduler = Scheduler::new(config("DDIMScheduler", &serde_json::json!({}))).expect("valid");
    let whole = scheduler.schedule(&Sampling::steps(10)).expect("valid").steps;
    let cut = scheduler.schedule(&Sampling { strength: 0.35, ..Sampling::steps(10) }).expect("valid").steps;
    assert_eq!(cut, whole[7..]);
}

/// Every refusal names the field.
#[test]
fn bad_configs_are_refused_by_name() {
    let cases = [
        (r#"{"beta_schedule": "linaer"}"#, "linaer"),
        (r#"{"prediction_type": "flow_prediction"}"#, "flow_prediction"),
        (r#"{"variance_type": "fixed_medium"}"#, "fixed_medium"),
        (r#"{"timestep_spacing": "random"}"#, "timestep_spacing"),
        (r#"{"timestep_spacing": 3}"#, "timestep_spacing"),
        (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps"),
        (r#"{"num_train_timesteps": 1e300}"#, "num_train_timesteps"),
        (r#"{"num_train_timesteps": -5}"#, "num_train_timesteps"),
        (r#"{"beta_start": -0.1}"#, "beta_start"),
        (r#"{"beta_end": "big"}"#, "beta_end"),
        (r#"{"beta_start": 0, "beta_end": 0}"#, "beta_start"),
        (r#"{"trained_betas": [0.1, 0.2]}"#, "trained_betas"),
        (r#"{"num_train_timesteps": 2, "trained_betas": [0.1, null]}"#, "trained_betas[1]"),
        (r#"{"num_train_timesteps": 2, "trained_betas": [0.1, 1.5]}"#, "trained_betas"),
        (r#"{"clip_sample": 1}"#, "clip_sample"),
        (r#"{"clip_sample_range": 0}"#, "clip_sample_range"),
        (r#"{"thresholding": true, "dynamic_thresholding_ratio": 1.5}"#, "dynamic_thresholding_ratio"),
        (r#"{"thresholding": true, "sample_max_value": -1}"#, "sample_max_value"),
        (r#"{"steps_offset": -1}"#, "steps_offset"),
        (r#"{"predict_epsilon": false}"#, "predict_epsilon"),
        (r#"{"noise_colour": "pink"}"#, "noise_colour"),
    ];
    for (fields, name) in cases {
        let mut fields: Map<String, Value> = serde_json::from_str(fields).expect("valid JSON");
        fields.insert("_class_name".into(), "DDPMScheduler".into());
        let result = SchedulerConfig::from_json(&Value::Object(fields.clone()).to_string()).and_then(Scheduler::new);
        match result.map(|_| ()) {
            Err(error @ (Error::Config(_) | Error::Unsupported(_) | Error::Unused(_))) => {
                assert!(error.to_string().contains(name), "{fields:?}: {error} does not name {name}");
            }
            other => panic!("{fields:?}: {other:?}"),
        }
    }
    for text in
        ["", "[]", "{", r#"{"clip_sample": true}"#, r#"{"_class_name": "NoSuchScheduler"}"#, r#"{"_class_name": 3}"#]
    {
        assert!(SchedulerConfig::from_json(text).is_err(), "{text}");
    }
}

/// Keys of other classes and private keys are ignored; keys that diffusers marked as its own defaults give way to the
/// new class's defaults.
#[test]
fn configs_of_other_classes() {
    let text = r#"{"_class_name": "DDIMScheduler", "_diffusers_version": "0.6.0",
        "_use_default_values": ["clip_sample_range"], "clip_sample_range": 3.0, "skip_prk_steps": true,
        "variance_type": "nonsense for DDPM", "timestep_values": null}"#;
    let config = SchedulerConfig::from_json(text).expect("valid");
    assert_eq!(config.clip, unmist::schedulers::Clip::Range(1.0));
    let ddpm = unmist::schedulers::SchedulerClass::Ddpm;
    assert!(config.with_class(ddpm, &[]).is_err(), "DDPM does read variance_type");
    assert!(config.with_class(ddpm, &[("variance_type", "learned".into())]).is_ok());
}

/// What cannot be sampled is refused, with the field to change.
#[test]
fn impossible_runs_are_refused() {
    let ddim = |fields: Value| Scheduler::new(config("DDIMScheduler", &fields)).expect("valid");
    let refused = |scheduler: &Scheduler, sampling: Sampling, word: &str| {
        let error = scheduler.schedule(&sampling).expect_err("cannot be sampled").to_string();
        assert!(error.contains(word), "{error} does not say {word}");
    };
    let plain = ddim(serde_json::json!({}));
    refused(&plain, Sampling::steps(0), "`steps` 0");
    refused(&plain, Sampling::steps(1001), "`steps` 1001");
    refused(&plain, Sampling { eta: f64::NAN, ..Sampling::steps(5) }, "`eta`");
    refused(&plain, Sampling { eta: -1.0, ..Sampling::steps(5) }, "`eta`");
    refused(&plain, Sampling { eta: 10.0, ..Sampling::steps(5) }, "`eta`");
    refused(&plain, Sampling { strength: 0.0, ..Sampling::steps(5) }, "`strength`");
    refused(&plain, Sampling { strength: 1.1, ..Sampling::steps(5) }, "`strength`");
    refused(&plain, Sampling { strength: 0.1, ..Sampling::steps(5) }, "`strength`");
    refused(&plain, Sampling { timesteps: Some(vec![5, 3]), ..Sampling::steps(5) }, "custom");
    refused(&ddim(serde_json::json!({"steps_offset": 1})), Sampling::steps(1000), "steps_offset");
    let pure_noise = serde_json::json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"});
    refused(&ddim(pure_noise), Sampling::steps(5), "prediction_type");
    let stretched = config("FlowMatchEulerDiscreteScheduler", &serde_json::json!({"shift_terminal": 0.1}));
    refused(&Scheduler::new(stretched).expect("valid"), Sampling::steps(1), "\"shift_terminal\" 0.1");
}

/// Scheduler names of other programs, as they spell them, and the config that each gives.
#[test]
fn names_of_other_programs() {
    let text = r#"{"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true,
        "steps_offset": 1, "trained_betas": null, "clip_sample": false, "prediction_type": "v_prediction"}"#;
    let base = SchedulerConfig::from_json(text).expect("valid");
    let config = |name: &str| scheduler_by_name(name, &base).unwrap_or_else(|e| panic!("{name}: {e}"));

    for name in ["DPM++ 2M Karras", "dpmpp_2m_karras", "dpmpp_2m karras", "dpm++ 2m karras"] {
        let config = config(name);
        assert_eq!(config.class, SchedulerClass::DpmSolverMultistep, "{name}");
        assert_eq!(config.sigma_spacing, SigmaSpacing::Karras, "{name}");
        assert_eq!(config.algorithm_type, AlgorithmType::DpmSolverPlusPlus, "{name}");
        // The model's own keys stay.
        assert_eq!((config.beta_start, config.steps_offset), (0.00085, 1), "{name}");
        assert_eq!(config.prediction_type, PredictionType::VPrediction, "{name}");
    }
    for (name, class) in [
        ("ddpm", SchedulerClass::Ddpm),
        ("ddim", SchedulerClass::Ddim),
        ("PLMS", SchedulerClass::Pndm),
        ("euler", SchedulerClass::EulerDiscrete),
        ("Euler a", SchedulerClass::EulerAncestralDiscrete),
        ("euler_ancestral", SchedulerClass::EulerAncestralDiscrete),
        ("EulerDiscreteScheduler", SchedulerClass::EulerDiscrete),
        ("DPM2 a Karras", SchedulerClass::Kdpm2AncestralDiscrete),
        ("DPM++ 3M SDE Exponential", SchedulerClass::DpmSolverMultistep),
        ("uni_pc", SchedulerClass::UniPcMultistep),
        ("lcm", SchedulerClass::Lcm),
        ("DPM++ SDE", SchedulerClass::DpmSolverSde),
        ("dpmpp_sde_karras", SchedulerClass::DpmSolverSde),
        ("SASolverScheduler", SchedulerClass::SaSolver),
        ("sa_solver", SchedulerClass::SaSolver),
        ("SA-Solver Karras", SchedulerClass::SaSolver),
    ] {
        assert_eq!(config(name).class, class, "{name}");
    }
    // And back: the names by which the web UI knows them, with a schedule where its sampler has one.
    for (name, schedule) in [
        ("DDPM", None),
        ("DDIM", None),
        ("PLMS", None),
        ("LMS", Some("Karras")),
        ("Euler", Some("Beta")),
        ("Euler a", Some("Uniform")),
        ("Heun", Some("Exponential")),
        ("DPM2", Some("Karras")),
        ("DPM2 a", Some("SGM Uniform")),
        ("DPM++ 2M", Some("Karras")),
        ("DPM++ 2M SDE", Some("Exponential")),
        ("DPM++ 2M SDE Heun", Some("DDIM")),
        ("DPM++ 3M", Some("Uniform")),
        ("DPM++ 3M SDE", Some("Exponential")),
        ("DPM++ 2S", Some("Karras")),
        ("DPM++ SDE", Some("Karras")),
        ("UniPC", Some("Karras")),
        ("UniPC", None),
        ("DEIS", Some("Uniform")),
        ("LCM", None),
        ("TCD", None),
    ] {
        let both = schedule.map_or(name.to_owned(), |schedule| format!("{name} {schedule}"));
        assert_eq!(sampler_of(&config(&both)), (name, schedule), "{both}");
    }
    assert_eq!(config("DPM++ 2M SDE Heun").solver_type, SolverType::Heun);
    assert_eq!(config("DPM++ 3M SDE").solver_order, 3);
    assert_eq!(config("Euler SGM Uniform").timestep_spacing, TimestepSpacing::Trailing);

    // A schedule in the name replaces the one in the file.
    let karras = base.with_class(SchedulerClass::EulerDiscrete, &[("use_karras_sigmas", true.into())]).expect("valid");
    assert_eq!(scheduler_by_name("heun", &karras).expect("valid").sigma_spacing, SigmaSpacing::Karras);
    assert_eq!(scheduler_by_name("heun beta", &karras).expect("valid").sigma_spacing, SigmaSpacing::Beta);

    let refusal = |name: &str| scheduler_by_name(name, &base).expect_err(name).to_string();
    assert!(refusal("DPM adaptive").contains("DPM++ 2M, "), "{}", refusal("DPM adaptive"));
    assert!(refusal("").contains("DPM++ 2M, "));
    assert!(refusal("Euler a Karras").contains("EulerAncestralDiscreteScheduler has no schedule Karras"));
}

/// Python writes infinity without quotes, a picture's record with them, or as ∞ if an earlier version wrote it.
#[test]
fn infinity_in_configs() {
    let read = |value: &str| {
        SchedulerConfig::from_json(&format!(
            r#"{{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": {value}, "solver_p": null}}"#
        ))
    };
    for good in ["-Infinity", r#""-Infinity""#, r#""-∞""#] {
        let config = read(good).expect("valid");
        assert_eq!(config.lambda_min_clipped, f64::NEG_INFINITY);
        let again = SchedulerConfig::from_json(&config.to_json().to_string()).expect("reads what it wrote");
        assert_eq!(again.lambda_min_clipped, f64::NEG_INFINITY);
    }
    for bad in ["Infinity", "NaN", r#""∞""#] {
        let error = read(bad).expect_err(bad).to_string();
        assert!(error.contains("lambda_min_clipped"), "{error}");
    }
    // Within a string nothing is replaced.
    let text = r#"{"_class_name": "DDIMScheduler", "_note": "a \"-Infinity\" or NaN", "beta_schedule": "NaN\\"}"#;
    let error = SchedulerConfig::from_json(text).expect_err("no such schedule").to_string();
    assert!(error.contains(r#""NaN\""#), "{error}");
}

/// Options that only some classes have.
#[test]
fn bad_solver_configs_are_refused_by_name() {
    let cases = [
        ("DPMSolverMultistepScheduler", r#"{"solver_order": 4}"#, "solver_order"),
        ("DPMSolverMultistepScheduler", r#"{"algorithm_type": "dpmsolver"}"#, "final_sigmas_type"),
        ("DPMSolverMultistepScheduler", r#"{"algorithm_type": "heun"}"#, "algorithm_type"),
        ("DPMSolverMultistepScheduler", r#"{"use_karras_sigmas": true, "use_lu_lambdas": true}"#, "use_lu_lambdas"),
        ("DPMSolverMultistepScheduler", r#"{"use_flow_sigmas": true}"#, "use_flow_sigmas"),
        ("DPMSolverMultistepScheduler", r#"{"lambda_min_clipped": 100}"#, "lambda_min_clipped"),
        (
            "DPMSolverSinglestepScheduler",
            r#"{"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}"#,
            "sde-dpmsolver",
        ),
        ("UniPCMultistepScheduler", r#"{"solver_p": {"_class_name": "DDIMScheduler"}}"#, "solver_p"),
        ("UniPCMultistepScheduler", r#"{"disable_corrector": [1, -1]}"#, "disable_corrector"),
        ("DEISMultistepScheduler", r#"{"algorithm_type": "sde-dpmsolver++"}"#, "algorithm_type"),
        ("DPMSolverSDEScheduler", r#"{"prediction_type": "sample"}"#, "prediction_type"),
        ("DPMSolverSDEScheduler", r#"{"noise_sampler_seed": -1}"#, "noise_sampler_seed"),
        ("DPMSolverSDEScheduler", r#"{"use_karras_sigmas": true, "use_beta_sigmas": true}"#, "use_beta_sigmas"),
        ("SASolverScheduler", r#"{"tau_func": "lambda t: 1"}"#, "tau_func"),
        ("SASolverScheduler", r#"{"predictor_order": 0}"#, "predictor_order"),
        ("SASolverScheduler", r#"{"corrector_order": 5}"#, "corrector_order"),
        ("SASolverScheduler", r#"{"algorithm_type": "dpmsolver++"}"#, "data_prediction"),
        ("SASolverScheduler", r#"{"use_flow_sigmas": true}"#, "use_flow_sigmas"),
        ("DPMSolverMultistepScheduler", r#"{"algorithm_type": "data_prediction"}"#, "data_prediction"),
        ("IPNDMScheduler", r#"{"num_train_timesteps": 2, "trained_betas": [0.5, 0.1]}"#, "trained_betas"),
        ("IPNDMScheduler", r#"{"prediction_type": "epsilon"}"#, "prediction_type"),
        ("EDMEulerScheduler", r#"{"sigma_min": 100}"#, "sigma_min"),
        ("CMStochasticIterativeScheduler", r#"{"sigma_min": 100}"#, "sigma_min"),
        ("CMStochasticIterativeScheduler", r#"{"s_noise": -1}"#, "s_noise"),
        ("FlowMatchEulerDiscreteScheduler", r#"{"shift": 0}"#, "shift"),
        ("FlowMatchEulerDiscreteScheduler", r#"{"use_dynamic_shifting": true}"#, "set it to false, and \"shift\""),
        (
            "FlowMatchEulerDiscreteScheduler",
            r#"{"invert_sigmas": true, "stochastic_sampling": true}"#,
            "\"invert_sigmas\" and \"stochastic_sampling\"",
        ),
        ("FlowMatchEulerDiscreteScheduler", r#"{"shift_terminal": 1}"#, "shift_terminal"),
        ("UniPCMultistepScheduler", r#"{"shift_terminal": 0.1}"#, "shift_terminal"),
        ("EulerDiscreteScheduler", r#"{"interpolation_type": "cubic"}"#, "cubic"),
        ("EulerDiscreteScheduler", r#"{"sigma_min": 0}"#, "sigma_min"),
        ("EulerDiscreteScheduler", r#"{"sigma_max": -1}"#, "sigma_max"),
        ("EulerAncestralDiscreteScheduler", r#"{"prediction_type": "sample"}"#, "prediction_type"),
        ("PNDMScheduler", r#"{"prediction_type": "sample"}"#, "prediction_type"),
        ("LCMScheduler", r#"{"original_inference_steps": 0}"#, "original_inference_steps"),
        ("LCMScheduler", r#"{"num_train_timesteps": 44}"#, "original_inference_steps"),
        ("LCMScheduler", r#"{"timestep_scaling": -1}"#, "timestep_scaling"),
    ];
    for (class, fields, name) in cases {
        let mut fields: Map<String, Value> = serde_json::from_str(fields).expect("valid JSON");
        fields.insert("_class_name".into(), class.into());
        let config = SchedulerConfig::from_json(&Value::Object(fields.clone()).to_string());
        let result = config.and_then(Scheduler::new).and_then(|scheduler| scheduler.schedule(&Sampling::steps(5)));
        match result {
            Err(error @ (Error::Config(_) | Error::Unsupported(_))) => {
                assert!(error.to_string().contains(name), "{fields:?}: {error} does not name {name}");
            }
            other => panic!("{fields:?}: {other:?}"),
        }
    }
}

/// Every class, any number of steps, with and without image-to-image: finite numbers or an error that says why, never a
/// panic.
#[test]
fn every_number_of_steps() {
    for class in SCHEDULERS.into_iter().chain(OWN_LEVELS) {
        let scheduler = Scheduler::new(config(class, &serde_json::json!({}))).expect("valid");
        for steps in (0..=60).chain([99, 250, 999, 1000, 1001, usize::MAX]) {
            for strength in [1.0, 0.7, 0.05] {
                match scheduler.schedule(&Sampling { strength, ..Sampling::steps(steps) }) {
                    Ok(schedule) => assert!(!schedule.steps.is_empty(), "{class} {steps} {strength}"),
                    Err(Error::Refused(refusal)) => {
                        let few = steps == 0 || (steps < 4 && class == "PNDMScheduler");
                        // Integrators need one more timestep than steps, for the end.
                        let distilled = class == "LCMScheduler" || class == "TCDScheduler";
                        let jumps = class == "CMStochasticIterativeScheduler";
                        let many = steps > 999 || (steps > 50 && distilled) || (steps > 40 && jumps);
                        let none_left = (steps as f64 * strength) < 1.0;
                        assert!(few || many || none_left, "{class} {steps} {strength}: {refusal}");
                    }
                    Err(error) => panic!("{class} {steps} {strength}: {error}"),
                }
            }
        }
    }
}

/// Every member of diffusers' `KarrasDiffusionSchedulers` (0.42.1), whose configs its pipelines take for each other's.
#[test]
fn the_karras_schedulers_of_diffusers() {
    for class in [
        "DDIMScheduler",
        "DDPMScheduler",
        "PNDMScheduler",
        "LMSDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DEISMultistepScheduler",
        "UniPCMultistepScheduler",
        "DPMSolverSDEScheduler",
        "EDMEulerScheduler",
    ] {
        let config = config(class, &serde_json::json!({}));
        assert_eq!(config.class.name(), class);
        let schedule = Scheduler::new(config).and_then(|scheduler| scheduler.schedule(&Sampling::steps(5)));
        assert!(schedule.expect(class).steps.len() >= 5, "{class}");
    }
}

const SCHEDULERS: [&str; 18] = [
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSDEScheduler",
    "SASolverScheduler",
    "IPNDMScheduler",
    "LCMScheduler",
    "TCDScheduler",
];

/// Those of models that count no timesteps.
const OWN_LEVELS: [&str; 5] = [
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "CMStochasticIterativeScheduler",
];

/// The user's own timesteps and noise levels.
#[test]
fn custom_timesteps_and_sigmas() {
    let scheduler = |class: &str| Scheduler::new(config(class, &serde_json::json!({}))).expect("valid");
    let custom = |timesteps: &[usize]| Sampling { timesteps: Some(timesteps.to_vec()), ..Sampling::steps(0) };
    let visited = |schedule: Schedule| -> Vec<f64> { schedule.steps.iter().map(|step| step.timestep).collect() };
    for class in SCHEDULERS {
        let result = scheduler(class).schedule(&custom(&[999, 500, 20]));
        match class {
            "HeunDiscreteScheduler" => assert_eq!(visited(result.expect(class)), [999.0, 500.0, 500.0, 20.0, 20.0]),
            "DDPMScheduler" | "EulerDiscreteScheduler" | "LCMScheduler" | "TCDScheduler" => {
                assert_eq!(visited(result.expect(class)), [999.0, 500.0, 20.0]);
            }
            "DPMSolverMultistepScheduler" | "DPMSolverSinglestepScheduler" => {
                assert_eq!(visited(result.expect(class)), [999.0, 500.0, 20.0]);
            }
            // Timesteps mean nothing to its models.
            "IPNDMScheduler" => {
                assert!(result.expect_err(class).to_string().contains("`timesteps`"));
                continue;
            }
            _ => assert!(matches!(result, Err(Error::Usage(_))), "{class}: {result:?}"),
        }
        for bad in [&[500, 999][..], &[5, 5], &[1000, 3], &[]] {
            assert!(matches!(scheduler(class).schedule(&custom(bad)), Err(Error::Usage(_))), "{class} {bad:?}");
        }
    }
    let euler = scheduler("EulerDiscreteScheduler");
    let sigmas = |sigmas: &[f64]| euler.schedule(&Sampling { sigmas: Some(sigmas.to_vec()), ..Sampling::steps(0) });
    let schedule = sigmas(&[14.0, 3.0, 0.5, 0.0]).expect("valid");
    assert_eq!(schedule.steps.len(), 3);
    assert_eq!(schedule.init_noise_sigma, 14.0);
    assert_eq!(schedule.steps[1].prev_sample.sample + schedule.steps[1].prev_sample.x0, 1.0);
    for bad in [&[][..], &[1.0], &[1.0, 2.0], &[1.0, -1.0], &[f64::NAN, 0.0], &[f64::INFINITY, 0.0]] {
        assert!(matches!(sigmas(bad), Err(Error::Usage(_))), "{bad:?}");
    }
}

/// Noise levels that reach their end early: the last step has no length and changes nothing.
#[test]
fn steps_of_no_length() {
    for class in ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"] {
        for solver_type in ["midpoint", "heun"] {
            let fields = serde_json::json!({"use_karras_sigmas": true, "final_sigmas_type": "sigma_min",
                "solver_order": 2, "solver_type": solver_type, "lower_order_final": false});
            let schedule =
                Scheduler::new(config(class, &fields)).and_then(|s| s.schedule(&Sampling::steps(6))).expect(class);
            let last = &schedule.steps[5];
            let sample = match class {
                "UniPCMultistepScheduler" => last.memory[0].clone(),
                _ => Combination::sample(),
            };
            assert_eq!(last.prev_sample.coefficients(4), sample.coefficients(4), "{class} {solver_type}");
        }
    }
}
