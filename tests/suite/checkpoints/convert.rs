//! `unmist convert`: folders and single files of every family go into each other and come back, tensor for tensor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unmist::HostTensor;
use unmist::checkpoint::{Checkpoint, Json, Tensors, safetensors};
use unmist::models::{AutoencoderKL, CLIPTextModel, LoadedModel, Model, UNet2DConditionModel};

use crate::checkpoints::single_file::folder_with_clip_vocabulary;
use crate::commands::sample::{Folder, lora};
use crate::commands::usage::{fails, stable_diffusion, succeeds, text, unmist};

/// A small model of each family, as a folder: what a single file can hold, with everything else that differs.
fn model(folder: &Path, family: &str) -> PathBuf {
    let xl = family.starts_with("xl");
    let heads = if family == "sd1" || family == "lcm" { json!(8) } else { json!([1, 2]) };
    let context = if xl { 128 } else { 64 };
    let mut unet = json!({
        "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
        "block_out_channels": [64, 128], "layers_per_block": 1, "cross_attention_dim": context,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": heads, "use_linear_projection": !matches!(family, "sd1" | "lcm"),
    });
    match family {
        "xl" | "xl_lcm" => {
            unet["down_block_types"] = json!(["DownBlock2D", "CrossAttnDownBlock2D"]);
            unet["up_block_types"] = json!(["CrossAttnUpBlock2D", "UpBlock2D"]);
            unet["transformer_layers_per_block"] = json!([1, 2]);
            unet["addition_embed_type"] = "text_time".into();
            unet["addition_time_embed_dim"] = 8.into();
            unet["projection_class_embeddings_input_dim"] = (64 + 6 * 8).into();
        }
        _ => {}
    }
    if family.ends_with("lcm") {
        unet["time_cond_proj_dim"] = 32.into();
    }
    let mut vae = json!({
        "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
        "block_out_channels": [32, 64], "layers_per_block": 1, "sample_size": 128,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
        "scaling_factor": if xl { 0.13025 } else { 0.18215 },
    });
    if family == "sd2" {
        // The original code's autoencoder may attend at its levels too, though no published one of this family does.
        vae["down_block_types"] = json!(["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]);
        vae["up_block_types"] = json!(["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]);
    }
    let open_clip = family == "sd2";
    let tower = |class: &str, act: &str| {
        json!({
            "architectures": [class], "model_type": "clip_text_model", "vocab_size": 49408,
            "max_position_embeddings": 77, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 1, "hidden_act": act, "projection_dim": 64, "layer_norm_eps": 1e-5,
            "eos_token_id": 2,
        })
    };
    let config = |value: &Value| Json::parse("config.json", value.to_string()).expect("JSON");
    let (pipeline, scheduler) = match family {
        "lcm" => ("LatentConsistencyModelPipeline", json!({"_class_name": "LCMScheduler"})),
        "xl_lcm" => ("StableDiffusionXLPipeline", json!({"_class_name": "LCMScheduler"})),
        "xl" => ("StableDiffusionXLPipeline", json!({"_class_name": "EulerDiscreteScheduler"})),
        "sd2" => ("StableDiffusionPipeline", json!({"_class_name": "DDIMScheduler"})),
        _ => ("StableDiffusionPipeline", json!({"_class_name": "PNDMScheduler", "skip_prk_steps": true})),
    };
    let mut scheduler = scheduler;
    for (key, value) in [
        ("beta_start", json!(0.00085)),
        ("beta_end", json!(0.012)),
        ("beta_schedule", json!("scaled_linear")),
        ("prediction_type", json!(if family == "sd2" { "v_prediction" } else { "epsilon" })),
    ] {
        scheduler[key] = value;
    }
    let mut index = json!({"_class_name": pipeline, "scheduler": ["diffusers", scheduler["_class_name"]]});
    let root = folder.join(family);
    let write = |name: &str, value: &Value, parameters: Vec<(String, Vec<usize>)>, file: &str| {
        let place = root.join(name);
        std::fs::create_dir_all(&place).expect("a folder");
        std::fs::write(place.join("config.json"), value.to_string()).expect("writes");
        let tensors: Vec<(String, HostTensor)> = parameters
            .into_iter()
            .map(|(tensor, shape)| {
                // Numbers of its own for each tensor, which no other has in the same order.
                let seed = tensor.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
                let value = |i: usize| {
                    let mixed = (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                    mixed as f32 / (1 << 24) as f32 - 0.5
                };
                (tensor, HostTensor::from_fn(shape, value))
            })
            .collect();
        let list: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut out = std::fs::File::create(place.join(file)).expect("writable");
        safetensors::write(&mut out, &list, &BTreeMap::new()).expect("writes");
    };
    let weights = "diffusion_pytorch_model.safetensors";
    let parameters = UNet2DConditionModel::from_json(&config(&unet)).and_then(|m| m.parameters()).expect("sound");
    write("unet", &unet, parameters, weights);
    let parameters = AutoencoderKL::from_json(&config(&vae)).map(|m| m.parameters()).expect("sound");
    write("vae", &vae, parameters.expect("sound"), weights);
    index["unet"] = json!(["diffusers", "UNet2DConditionModel"]);
    index["vae"] = json!(["diffusers", "AutoencoderKL"]);
    let act = if open_clip { "gelu" } else { "quick_gelu" };
    let towers = [("text_encoder", "CLIPTextModel", act), ("text_encoder_2", "CLIPTextModelWithProjection", "gelu")];
    for (name, class, act) in towers.into_iter().take(if xl { 2 } else { 1 }) {
        let value = tower(class, act);
        let model = CLIPTextModel::from_json(&config(&value), Some(class)).expect("sound");
        write(name, &value, model.parameters().expect("sound"), "model.safetensors");
        index[name] = json!(["transformers", class]);
    }
    std::fs::create_dir_all(root.join("scheduler")).expect("a folder");
    std::fs::write(root.join("scheduler/scheduler_config.json"), scheduler.to_string()).expect("writes");
    std::fs::write(root.join("model_index.json"), index.to_string()).expect("writes");
    root
}

/// Every tensor of every component, as its model asks for it, and the models themselves.
fn contents(path: &Path) -> BTreeMap<String, HostTensor> {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut all = BTreeMap::new();
    for name in checkpoint.component_names() {
        let model = match name.as_str() {
            "vae" => "vae.encoder",
            "unet" | "text_encoder" | "text_encoder_2" => name.as_str(),
            _ => continue,
        };
        let loaded = LoadedModel::open(&checkpoint, model).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for tensor in loaded.weights.names() {
            all.insert(format!("{name}/{tensor}"), loaded.weights.tensor(tensor).expect("finite"));
        }
    }
    all
}

#[test]
fn every_family_goes_into_either_layout_and_back() {
    let results = Folder::new();
    for family in ["sd1", "sd2", "lcm", "xl"] {
        let model = model(Path::new(&results.path("")), family);
        let expected = contents(&model);
        let file = results.path(&format!("{family}.safetensors"));
        let folder = results.path(&format!("{family}-again"));
        succeeds(&["convert", model.to_str().unwrap(), &file]);
        assert!(contents(Path::new(&file)) == expected, "{family}: the single file holds other tensors");
        succeeds(&["convert", &file, &folder]);
        assert!(contents(Path::new(&folder)) == expected, "{family}: the folder holds other tensors");
        let again = results.path(&format!("{family}-again.safetensors"));
        succeeds(&["convert", &folder, &again]);
        assert!(std::fs::read(&file).unwrap() == std::fs::read(&again).unwrap(), "{family}: another file");

        let of = |path: &str| Checkpoint::open(path).expect("sound");
        let config = |checkpoint: &Checkpoint, name: &str| checkpoint.component_config(name).expect("there").value;
        assert_eq!(of(&file).pipeline_class(), of(model.to_str().unwrap()).pipeline_class(), "{family}");
        let scheduler = of(&folder).scheduler_config("scheduler").expect("there").value;
        let own = of(model.to_str().unwrap()).scheduler_config("scheduler").expect("there").value;
        for key in ["_class_name", "prediction_type", "beta_schedule", "beta_start", "beta_end"] {
            assert_eq!(scheduler[key], own[key], "{family}: {key}");
        }
        assert_eq!(config(&of(&folder), "unet")["cross_attention_dim"], if family == "xl" { 128 } else { 64 });
        // Its tokenizer is CLIP's, as files, and encodes as CLIP's own does.
        let (written, own) = (of(&folder).tokenizer("tokenizer").unwrap(), of(&file).tokenizer("tokenizer").unwrap());
        assert!(Path::new(&folder).join("tokenizer/merges.txt").is_file());
        for prompt in ["a photo of a Füße 😀, <3 naïve (x:1.2)", "", "日本語 ﷺ \u{fffd}"] {
            assert_eq!(written.encode(prompt).unwrap(), own.encode(prompt).unwrap(), "{prompt}");
        }
    }
}

/// A latent consistency model in one file is known by its U-Net, and has its own scheduler, steps and guidance.
#[test]
fn a_latent_consistency_model_is_known_by_its_unet() {
    let results = Folder::new();
    let model = model(Path::new(&results.path("")), "lcm");
    let file = results.path("lcm.safetensors");
    succeeds(&["convert", model.to_str().unwrap(), &file]);
    let settings = |model: &str| succeeds(&["sample", "a fox", "--model", model, "--explain-settings"]);
    let (single, folder) = (settings(&file), settings(model.to_str().unwrap()));
    for line in ["steps", "guidance_scale", "scheduler"] {
        let of = |text: &str| {
            let line = text.lines().find(|l| l.starts_with(&format!("{line} "))).expect("a line").to_owned();
            line.split_whitespace().nth(1).expect("a value").to_owned()
        };
        assert_eq!(of(&single), of(&folder), "{line}");
    }
    assert!(single.contains("LCMScheduler"), "{single}");

    // The pipeline of XL is everybody's: a folder says what such a model wants, and so do the tensors of one file.
    let model = self::model(Path::new(&results.path("")), "xl_lcm");
    let file = results.path("xl_lcm.safetensors");
    succeeds(&["convert", model.to_str().unwrap(), &file]);
    let single = settings(&file);
    for line in ["steps  ", "guidance_scale  "] {
        let line = single.lines().find(|l| l.starts_with(line)).expect("a line");
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(["4", "[8.0]"].contains(&words[1]) && line.ends_with("the model's own files"), "{line}");
    }
}

/// What a file says of itself in its metadata is obeyed and said.
#[test]
fn what_a_file_says_of_itself_is_obeyed() {
    let results = Folder::new();
    let model = model(Path::new(&results.path("")), "xl");
    let file = results.path("xl.safetensors");
    succeeds(&["convert", model.to_str().unwrap(), &file]);
    let tensors = Tensors::open(&file).expect("sound");
    let list: Vec<_> = tensors.names().map(|name| (name, tensors.read_f32(name).expect("sound"))).collect();
    let list: Vec<_> = list.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let stated = results.path("stated.safetensors");
    let said = [("prediction_type", "v"), ("resolution", "192x128"), ("timestep_range", "300,1000")];
    let metadata = said.map(|(name, text)| (format!("modelspec.{name}"), text.to_owned())).into();
    safetensors::write(&mut std::fs::File::create(&stated).unwrap(), &list, &metadata).expect("writes");

    let refiner = stable_diffusion("sdxl_refiner");
    let run = ["sample", "a fox", "--model", &stated, "--explain-settings", "--refiner", refiner.to_str().unwrap()];
    let output = unmist(&run);
    let (settings, notes) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{notes}");
    for (field, value) in [("width", "192"), ("height", "128"), ("denoising_end", "0.7")] {
        let line = settings.lines().find(|line| line.starts_with(&format!("{field} "))).unwrap_or_default();
        assert_eq!(line.split_whitespace().nth(1), Some(value), "{settings}");
    }
    assert!(notes.contains("predicts v_prediction, as the file says (`modelspec.prediction_type`)"), "{notes}");
    assert!(notes.contains("knows the timesteps 300 to 1000 only"), "{notes}");
    let scheduler = Checkpoint::open(&stated).and_then(|model| model.scheduler_config("scheduler")).expect("there");
    assert_eq!(scheduler.value["prediction_type"], "v_prediction");
}

/// The same picture from every form of one model, and with a LoRA that is merged in.
#[test]
fn a_converted_model_makes_the_same_picture() {
    let results = Folder::new();
    let sd1 = results.path("sd1");
    folder_with_clip_vocabulary(Path::new(&sd1));
    let sd1 = sd1.as_str();
    let out = results.path("out.safetensors");
    let picture = |model: &str, more: &[&str]| {
        let run = ["sample", "a fox", "--steps", "2", "--width", "24", "--height", "16", "--output", &out];
        let same = ["--scheduler", "Euler", "--model", model];
        succeeds(&[&run[..], &same, more].concat());
        Tensors::open(&out).and_then(|file| file.read_f32("images")).expect("pictures")
    };
    let plain = picture(sd1, &[]);
    let lora = format!("{}:0.7", lora("sd1_kohya.safetensors"));
    let changed = picture(sd1, &["--lora", &lora]);
    for (name, more, expected) in [
        ("a.safetensors", &[][..], &plain),
        ("folder", &[], &plain),
        ("f32.safetensors", &["--dtype", "f32"], &plain),
        ("merged.safetensors", &["--dtype", "f32", "--lora", &lora], &changed),
    ] {
        let path = results.path(name);
        succeeds(&[&["convert", sd1, &path], more].concat());
        assert!(picture(&path, &[]) == *expected, "{name}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let results = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| results.path().join(name).to_str().unwrap().to_owned();
    let of = |name: &str| stable_diffusion(name).to_str().unwrap().to_owned();
    // A single file cannot say how many channels these heads have.
    let other = tempfile::tempdir().expect("a temporary folder");
    let heads = model(other.path(), "sd2");
    let config = heads.join("unet/config.json");
    let before = std::fs::read_to_string(&config).expect("written");
    std::fs::write(&config, before.replace("\"attention_head_dim\":[1,2]", "\"attention_head_dim\":[2,4]")).unwrap();
    let heads = heads.to_str().unwrap();
    fails(&["convert", heads, &path("a.safetensors")], &["heads", "name of a folder"], results.path());
    fails(&["convert", &of("sd1"), &path("a.safetensors")], &["vocabulary", "name of a folder"], results.path());
    let pixels = crate::commands::usage::shipped();
    let pixels = pixels.to_str().unwrap();
    fails(&["convert", pixels, &path("a.safetensors")], &["only Stable Diffusion"], results.path());
    fails(&["convert", &path("none"), &path("b")], &["none"], results.path());
    fails(&["convert", &of("sd1"), &path("none/b.safetensors")], &["none"], results.path());

    // What is there stays.
    succeeds(&["convert", pixels, &path("copy")]);
    let before = std::fs::read(results.path().join("copy/model_index.json")).expect("written");
    let output = unmist(&["convert", &of("sd1"), &path("copy")]);
    assert!(!output.status.success() && text(&output.stderr).contains("something already"));
    assert_eq!(std::fs::read(results.path().join("copy/model_index.json")).expect("still there"), before);
    assert!(contents(&results.path().join("copy")) == contents(Path::new(pixels)));

    // A number that f16 cannot hold is named, never written as an infinity.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = model(folder.path(), "sd1");
    let file = model.join("unet/diffusion_pytorch_model.safetensors");
    let tensors = Tensors::open(&file).expect("sound");
    let mut list: Vec<_> = tensors.names().map(|name| (name.to_owned(), tensors.read_f32(name).unwrap())).collect();
    drop(tensors);
    list.iter_mut().find(|(name, _)| name == "conv_in.bias").expect("it has one").1.data[3] = 1e5;
    let list: Vec<_> = list.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    safetensors::write(&mut std::fs::File::create(&file).unwrap(), &list, &BTreeMap::new()).expect("writes");
    let empty = tempfile::tempdir().expect("a temporary folder");
    let out = empty.path().join("half");
    let run = ["convert", model.to_str().unwrap(), out.to_str().unwrap(), "--dtype", "f16"];
    fails(&run, &["`conv_in.bias`", "100000", "bf16"], empty.path());
}

#[test]
fn a_single_file_is_described_tensor_by_tensor() {
    let results = Folder::new();
    let model = model(Path::new(&results.path("")), "xl");
    let file = results.path("xl.safetensors");
    succeeds(&["convert", model.to_str().unwrap(), &file]);
    let account = succeeds(&["inspect", "--model", &file]);
    for part in [
        "Stable Diffusion XL (StableDiffusionXLPipeline)",
        "a U-Net in the original code's names behind `model.diffusion_model.`",
        "a text tower in OpenCLIP's names behind `conditioner.embedders.1.model.`",
        "in_channels 4: `model.diffusion_model.input_blocks.0.0.weight` [64, 4, 3, 3]",
        "cross_attention_dim 128: `model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight`",
        "projection_dim 64: `conditioner.embedders.1.model.text_projection` [64, 64]",
        "the U-Net predicts epsilon, as the file says (`modelspec.prediction_type`) (--prediction-type says otherwise)",
        "the scheduler is EulerDiscreteScheduler (--scheduler says otherwise)",
    ] {
        assert!(account.contains(part), "no «{part}» in {account}");
    }
    assert!(!account.contains("unused"), "{account}");

    // With tensors that no model asks for, inside and outside of the models.
    let tensors = Tensors::open(&file).expect("sound");
    let mut list: Vec<_> = tensors.names().map(|name| (name.to_owned(), tensors.read_f32(name).unwrap())).collect();
    for name in ["model.diffusion_model.control.weight", "model_ema.decay"] {
        list.push((name.to_owned(), HostTensor::from_fn([2], |i| i as f32)));
    }
    let list: Vec<_> = list.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let more = results.path("more.safetensors");
    safetensors::write(&mut std::fs::File::create(&more).unwrap(), &list, &BTreeMap::new()).expect("writes");
    let account = succeeds(&["inspect", "--model", &more]);
    let (_, unused) = account.split_once("unused, 2:").unwrap_or_else(|| panic!("{account}"));
    assert!(unused.contains("model_ema.decay") && unused.contains("model.diffusion_model.control.weight"), "{unused}");
    let json: Value = serde_json::from_str(&succeeds(&["inspect", "--model", &more, "--json"])).expect("JSON");
    assert_eq!(json["files"]["unused"].as_array().expect("a list").len(), 2, "{}", json["files"]);

    // A part alone is described too.
    let vae = results.path("vae.safetensors");
    let parts: Vec<(&str, &HostTensor)> =
        list.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("first_stage_model.")?, *tensor))).collect();
    safetensors::write(&mut std::fs::File::create(&vae).unwrap(), &parts, &BTreeMap::new()).expect("writes");
    let account = succeeds(&["inspect", "--model", &vae]);
    assert!(account.contains("a part of a model") && account.contains("vae: AutoencoderKL"), "{account}");
    // So is a decoder alone, which runs by itself.
    let decoder = results.path("decoder.safetensors");
    let half: Vec<_> = parts.iter().filter(|(name, _)| !name.starts_with("encoder.")).copied().collect();
    safetensors::write(&mut std::fs::File::create(&decoder).unwrap(), &half, &BTreeMap::new()).expect("writes");
    assert!(succeeds(&["inspect", "--model", &decoder]).contains("in_channels 3: `decoder.conv_out.weight`"));
    succeeds(&["inspect", "--model", &decoder, "--component", "vae.decoder"]);
    let encoder = unmist(&["inspect", "--model", &decoder, "--component", "vae.encoder"]);
    assert!(text(&encoder.stderr).contains("missing") && !encoder.status.success());
}

/// A refiner's LoRA, in the original code's names for the U-Net, changes the refiner alone: as one that is merged in.
#[test]
fn a_refiner_takes_loras_of_its_own() {
    let results = Folder::new();
    let (base, refiner) = (stable_diffusion("sdxl"), stable_diffusion("sdxl_refiner"));
    let (base, refiner) = (base.to_str().unwrap(), refiner.to_str().unwrap());
    let checkpoint = Checkpoint::open(refiner).expect("sound");
    let shape = |component: &str, name: &str| {
        let tensors = checkpoint.component(component).expect("there").tensors;
        tensors.shape(name).or_else(|| tensors.shape(&format!("text_model.{name}"))).unwrap_or_else(|| panic!("{name}"))
    };
    let mut tensors = Vec::new();
    let query = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    for (name, shape) in [
        ("lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q", shape("unet", query)),
        ("lora_unet_middle_block_0_in_layers_2", shape("unet", "mid_block.resnets.0.conv1.weight")),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", shape("text_encoder_2", "encoder.layers.0.mlp.fc1.weight")),
    ] {
        let (down, up) = match shape.as_slice() {
            [rows, columns] => (vec![2, *columns], vec![*rows, 2]),
            [rows, columns, h, w] => (vec![2, *columns, *h, *w], vec![*rows, 2, 1, 1]),
            _ => panic!("{shape:?}"),
        };
        let value = |seed: usize| move |i: usize| ((i * seed) % 17) as f32 / 17.0 - 0.5;
        tensors.push((format!("{name}.lora_down.weight"), HostTensor::from_fn(down, value(7))));
        tensors.push((format!("{name}.lora_up.weight"), HostTensor::from_fn(up, value(5))));
    }
    let list: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let lora = results.path("lora.safetensors");
    safetensors::write(&mut std::fs::File::create(&lora).unwrap(), &list, &BTreeMap::new()).expect("writes");
    let merged = results.path("merged");
    succeeds(&["convert", refiner, &merged, "--dtype", "f32", "--lora", &format!("{lora}:0.8")]);

    let out = results.path("out.safetensors");
    let picture = |more: &[&str]| {
        let run = ["sample", "a fox", "--model", base, "--steps", "4", "--width", "32", "--height", "32"];
        succeeds(&[&run[..], &["--denoising-end", "0.5", "--output", &out], more].concat());
        Tensors::open(&out).and_then(|file| file.read_f32("images")).expect("pictures")
    };
    let changed = picture(&["--refiner", refiner, "--refiner-lora", &format!("{lora}:0.8")]);
    assert!(changed == picture(&["--refiner", &merged]));
    assert!(crate::common::distance(&changed, &picture(&["--refiner", refiner])) > 1e-3);
    let empty = tempfile::tempdir().expect("a temporary folder");
    let out = empty.path().join("out.png");
    let run = ["sample", "a fox", "--model", base, "--refiner-lora", &lora, "--output", out.to_str().unwrap()];
    fails(&run, &["--refiner-lora", "give --refiner"], empty.path());
}
