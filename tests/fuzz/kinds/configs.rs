//! Configurations: of whole folders, of models as far as their graphs, of schedulers as far as their steps.

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::{Value, json};
use unmist::caps::Caps;
use unmist::checkpoint::{Checkpoint, Component, Folder, Json};
use unmist::files::Memory;
use unmist::graph::{Graph, TensorDesc};
use unmist::models::{AutoencoderKL, AutoencoderTiny, CLIPTextModel, Model, UNet2DConditionModel, UNet2DModel};
use unmist::pipelines::DiffusionPipeline;
use unmist::plan::{Choice, Table, Tuned, explain};
use unmist::schedulers::{Sampling, Scheduler, SchedulerConfig};
use unmist::{Error, Result};

use super::{Kind, json_of, safetensors};
use crate::json;

pub fn kinds() -> Vec<Kind> {
    let python = json!({"_class_name": "PNDMScheduler", "beta_end": 0.012, "trained_betas": null,
        "lambda_min_clipped": "Infinity", "block_out_channels": [320, 640],
        "name": "a \"quoted\" \u{e9} \\ text", "nested": {"a": [1, [2, [3]]]}});
    let mut kinds = vec![Kind::new(
        "json",
        8,
        move |random| json::mutated(&python, random),
        |bytes| {
            let json = Json::parse("x.json", String::from_utf8_lossy(&bytes).into_owned())?;
            let numbers =
                json.value.as_object().into_iter().flatten().filter_map(|(_, value)| Json::number(value)).count();
            assert!(numbers <= json.text.len());
            Ok(())
        },
    )];
    kinds.extend(folders());
    kinds.push(tuned());
    for (name, path) in [
        ("unet2d", "unet2d/pipeline/unet"),
        ("unet2d-resampling", "unet2d/resnet_resampling/unet"),
        ("unet2d-odd", "unet2d/odd_channels/unet"),
        ("unet2d-mixed", "unet2d/sharded_mixed/unet"),
        ("unet", "stable_diffusion/lists/unet"),
        ("unet-xl", "stable_diffusion/sdxl/unet"),
        ("unet-unusual", "stable_diffusion/unusual/unet"),
        ("vae", "stable_diffusion/sdxl/vae"),
        ("vae-tiny", "stable_diffusion/taesd/vae"),
        ("text-encoder", "stable_diffusion/sdxl/text_encoder_2"),
    ] {
        let seed = json_of(&format!("{path}/config.json"));
        let class = class_of(&seed).expect("fixtures name their class").to_owned();
        kinds.push(Kind::new(
            format!("config/{name}"),
            4,
            move |random| json::mutated(&seed, random),
            move |bytes| {
                let json = Json::parse("config.json", String::from_utf8_lossy(&bytes).into_owned())?;
                parameters_of(&class, &json)
            },
        ));
    }
    kinds.extend(CLASSES.iter().map(|class| {
        let mut seed = SCHEDULER.with(Value::clone);
        seed["_class_name"] = json!(class);
        Kind::new(format!("scheduler/{class}"), 2, move |random| json::mutated(&seed, random), read_scheduler)
    }));
    kinds
}

/// A table of tuned kernels, as far as the choice of one.
fn tuned() -> Kind {
    let trial = |variant: &str, kernel: &str| {
        let texts = unmist::kernel::texts_id(&[kernel.to_owned()]).expect("it ships");
        json!({"variant": variant, "kernels": [kernel], "texts": texts, "seconds": [1.5e-3, 0.25]})
    };
    let entry = |rows: usize| {
        let label = format!("f32 [1, {rows}, 8]");
        json!({"operation": "softmax", "inputs": [label], "output": label, "variant": "workgroup",
            "knobs": {"ROW_LANES": 8}, "trials": [trial("rows", "softmax/rows"), {"variant": "workgroup",
            "knobs": {"ROW_LANES": 8}, "kernels": ["softmax/workgroup"], "seconds": [1e-3],
            "texts": unmist::kernel::texts_id(&["softmax/workgroup".to_owned()]).expect("it ships")}]})
    };
    let seed = json!({"device": "a GPU (Vulkan)", "adapter": "a GPU", "entries": [entry(64), entry(100)]});
    Kind::new(
        "tuned",
        4,
        move |random| json::mutated(&seed, random),
        |bytes| {
            let table = Table::parse(&String::from_utf8_lossy(&bytes)).map_err(Error::Config)?;
            let choice = Choice { tuned: Tuned::new(table.usable()), ..Choice::default() };
            let mut graph = Graph::new();
            let x = graph.input("x", TensorDesc::f32([1, 90, 8]));
            let y = graph.softmax("y", x)?;
            graph.output("y", y);
            let chosen = explain(&graph, &Caps::webgpu_minimum(), &choice)?;
            assert!(["workgroup", "rows"].contains(&chosen[0].1.variant), "{}", chosen[0].1.variant);
            Ok(())
        },
    )
}

const CLASSES: &[&str] = &[
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
];

thread_local! {
    /// Fields of many schedulers: each class reads its own.
    static SCHEDULER: Value = json!({
        "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": false,
        "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.995, "num_train_timesteps": 100,
        "prediction_type": "epsilon", "rescale_betas_zero_snr": false, "sample_max_value": 1.0, "steps_offset": 0,
        "thresholding": false, "timestep_spacing": "leading", "trained_betas": null, "variance_type": "fixed_small",
        "solver_order": 2, "use_karras_sigmas": false, "final_sigmas_type": "zero", "lower_order_final": true,
        "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
    });
}

fn read_scheduler(bytes: Vec<u8>) -> Result<()> {
    let text = String::from_utf8_lossy(&bytes);
    let scheduler = Scheduler::new(SchedulerConfig::from_json(&text)?)?;
    let schedule = scheduler.schedule(&Sampling::steps(1 + bytes.len() % 20))?;
    assert!(!schedule.steps.is_empty());
    let finite = schedule.steps.iter().all(|step| step.timestep.is_finite() && step.x0.sample.is_finite());
    assert!(finite, "a step that is not finite");
    Ok(())
}

fn class_of(config: &Value) -> Option<&str> {
    config["_class_name"].as_str().or_else(|| config["architectures"][0].as_str())
}

/// Builds the model of a configuration and lists its parameters.
fn parameters_of(class: &str, config: &Json) -> Result<()> {
    let parameters = match class {
        "UNet2DModel" => UNet2DModel::from_json(config)?.parameters(),
        "UNet2DConditionModel" => UNet2DConditionModel::from_json(config)?.parameters(),
        "AutoencoderKL" => AutoencoderKL::from_json(config)?.parameters(),
        "AutoencoderTiny" => AutoencoderTiny::from_json(config)?.parameters(),
        "CLIPTextModel" | "CLIPTextModelWithProjection" => CLIPTextModel::from_json(config, None)?.parameters(),
        other => return Err(Error::Config(format!("there is no model of the class {other:?} here"))),
    }?;
    assert!(!parameters.is_empty());
    Ok(())
}

/// The same of a component, whose class its configuration names.
pub fn parameters(component: &Component) -> Result<()> {
    match component.class_name.as_deref() {
        Some(class) if component.config.value["num_train_timesteps"].is_null() => {
            parameters_of(class, &component.config)
        }
        _ => SchedulerConfig::from_json(&component.config.text).and_then(Scheduler::new).map(drop),
    }
}

/// A folder with one file changed.
fn folders() -> Vec<Kind> {
    let header = json!({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}});
    let weights = safetensors(header.to_string().as_bytes(), &[0; 8]);
    let files = [
        (
            "model_index.json",
            json!({"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"],
                "unet": ["diffusers", "UNet2DModel"], "vae": [null, null], "flag": false}),
        ),
        (
            "unet/config.json",
            json!({"_class_name": "UNet2DModel", "sample_size": 32, "in_channels": 3,
                "out_channels": 3, "block_out_channels": [32], "down_block_types": ["DownBlock2D"],
                "up_block_types": ["UpBlock2D"], "norm_num_groups": 8}),
        ),
        ("scheduler/scheduler_config.json", json!({"_class_name": "DDPMScheduler", "beta_start": 0.0001})),
    ];
    let folder = |changed: usize| {
        let (name, seed) = files[changed].clone();
        let all = files.iter().map(|(name, value)| (format!("m/{name}"), value.to_string().into_bytes()));
        let weights = ("m/unet/diffusion_pytorch_model.safetensors".to_owned(), weights.clone());
        let files = RefCell::new(all.chain([weights]).collect::<Memory>());
        Kind::new(
            format!("folder/{name}"),
            3,
            move |random| json::mutated(&seed, random),
            move |bytes| {
                files.borrow_mut().insert(format!("m/{name}"), bytes);
                let files = Arc::new(files.borrow().clone());
                let folder = Folder::open_in(files.clone(), "m")?;
                for name in
                    folder.component_names().iter().map(String::as_str).chain(["unet", "vae", "scheduler", "tokenizer"])
                {
                    let _ = (folder.component(name), folder.subfolder(name), folder.index_class(name));
                }
                let checkpoint = Checkpoint::open_in(files, "m")?;
                checkpoint.files()?;
                DiffusionPipeline::check_class(&checkpoint)?;
                let scheduler = Scheduler::new(DiffusionPipeline::scheduler_config(&checkpoint)?)?;
                let refused =
                    DiffusionPipeline::load(&checkpoint, scheduler).err().expect("the weights are no model's");
                // Where only the weights are wrong, the folder was read.
                if refused.to_string().contains("unet/diffusion_pytorch_model.safetensors") {
                    Ok(())
                } else {
                    Err(refused)
                }
            },
        )
    };
    (0..3).map(folder).collect()
}
