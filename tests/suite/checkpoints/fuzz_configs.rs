//! Randomly changed configs, from JSON to a graph: the result is a model or a clear error, never a panic.

use serde_json::{Value, json};
use unmist::checkpoint::Json;
use unmist::models::{AutoencoderKL, AutoencoderTiny, CLIPTextModel, UNet2DConditionModel, UNet2DModel};
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};

const MUTATIONS: u64 = 20_000;

/// A reproducible stream of numbers below `bound`.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Values that configs should not hold, and some that they may.
fn strange(random: &mut Random) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(7),
        json!(64),
        json!(16_777_216),
        json!(u64::MAX),
        json!(0.5),
        json!(-1e300),
        json!(1e-320),
        json!("silu"),
        json!("Infinity"),
        json!(""),
        json!("\u{0}é"),
        json!([]),
        json!([1, 2, 3]),
        json!([0, 0]),
        json!(["DownBlock2D", "AttnDownBlock2D"]),
        json!({}),
        json!(vec![1; 100]),
        json!(vec![8; 40]),
    ];
    values[random.below(values.len())].clone()
}

/// Changes one to three fields: sets another value, removes the field, or adds a new one.
fn mutate(config: &Value, random: &mut Random) -> String {
    let mut changed = config.as_object().expect("configs are objects").clone();
    for _ in 0..1 + random.below(3) {
        let keys: Vec<String> = changed.keys().cloned().collect();
        let key = keys[random.below(keys.len())].clone();
        match random.below(8) {
            0 => drop(changed.remove(&key)),
            1 => drop(changed.insert(format!("{key}_2"), strange(random))),
            _ => drop(changed.insert(key, strange(random))),
        }
    }
    let mut text = Value::Object(changed).to_string();
    if random.below(20) == 0 {
        text = text.chars().take(random.below(text.len())).collect(); // not JSON any more
    }
    text
}

/// Builds a model from its config and lists its parameters.
type Build = fn(&Json) -> unmist::Result<Vec<(String, Vec<usize>)>>;

/// Builds models from `mutations` randomly changed configs, taken in turn from `tests/fixtures/PATH/config.json`.
fn change_model_configs(mutations: u64, models: &[(&str, Build)]) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let read = |path: &str| Json::read(root.join(path).join("config.json")).expect("the fixture is there").value;
    let configs: Vec<(Value, Build)> = models.iter().map(|(path, build)| (read(path), *build)).collect();
    let (mut models, mut errors) = (0, 0);
    for i in 0..mutations {
        let mut random = Random(i);
        let (config, build) = &configs[i as usize % configs.len()];
        let text = mutate(config, &mut random);
        let built = Json::parse("config.json", text.clone()).and_then(|json| build(&json));
        match built {
            Ok(parameters) => {
                assert!(!parameters.is_empty());
                models += 1;
            }
            Err(error) => {
                let message = error.to_string();
                assert!(message.len() > 20 && message.len() < 4000, "{text}: {message}");
                errors += 1;
            }
        }
    }
    assert!(models > 1000 && errors > 1000, "{models} models, {errors} errors: the mutations test only one outcome");
}

#[test]
fn changed_unet_configs_never_panic() {
    let unet: Build = |json| UNet2DModel::from_json(json)?.parameters();
    let names = [
        "unet2d/pipeline/unet",
        "unet2d/resnet_resampling/unet",
        "unet2d/odd_channels/unet",
        "unet2d/sharded_mixed/unet",
    ];
    change_model_configs(MUTATIONS, &names.map(|name| (name, unet)));
}

#[test]
fn changed_stable_diffusion_configs_never_panic() {
    use unmist::models::Model;
    change_model_configs(
        MUTATIONS,
        &[
            ("stable_diffusion/lists/unet", |json| UNet2DConditionModel::from_json(json)?.parameters()),
            ("stable_diffusion/sdxl/vae", |json| AutoencoderKL::from_json(json)?.parameters()),
            ("stable_diffusion/sdxl/unet", |json| UNet2DConditionModel::from_json(json)?.parameters()),
            ("stable_diffusion/taesd/vae", |json| AutoencoderTiny::from_json(json)?.parameters()),
            ("stable_diffusion/sdxl/text_encoder_2", |json| CLIPTextModel::from_json(json, None)?.parameters()),
            ("stable_diffusion/unusual/unet", |json| UNet2DConditionModel::from_json(json)?.parameters()),
        ],
    );
}

#[test]
fn changed_scheduler_configs_never_panic() {
    let ddpm = json!({
        "_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
        "clip_sample": true, "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.995, "num_train_timesteps": 100,
        "prediction_type": "epsilon", "rescale_betas_zero_snr": false, "sample_max_value": 1.0, "steps_offset": 0,
        "thresholding": false, "timestep_spacing": "leading", "trained_betas": null, "variance_type": "fixed_small",
    });
    let (mut runs, mut errors) = (0, 0);
    for i in 0..MUTATIONS {
        let mut random = Random(i);
        let mut base = ddpm.clone();
        base["_class_name"] = json!(
            [
                "DDPMScheduler",
                "DDIMScheduler",
                "PNDMScheduler",
                "EulerDiscreteScheduler",
                "DPMSolverMultistepScheduler"
            ][i as usize % 5]
        );
        let text = mutate(&base, &mut random);
        let made = SchedulerConfig::from_json(&text)
            .and_then(Scheduler::new)
            .and_then(|s| s.schedule(&Sampling::steps(1 + random.below(20))));
        match made {
            Ok(schedule) => {
                let finite = schedule.steps.iter().all(|s| s.timestep.is_finite() && s.x0.sample.is_finite());
                assert!(finite && !schedule.steps.is_empty(), "{text}");
                runs += 1;
            }
            Err(error) => {
                assert!(error.to_string().len() > 20, "{text}: {error}");
                errors += 1;
            }
        }
    }
    assert!(runs > 1000 && errors > 1000, "{runs} runs, {errors} errors: the mutations test only one outcome");
}
