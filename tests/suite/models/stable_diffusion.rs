//! The models of Stable Diffusion against diffusers and transformers in float32: random weights for every family, on
//! the device and on the reference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Json, Tensors, Weights};
use unmist::graph::{WeightPart, WeightSource};
use unmist::models::{
    AutoencoderKL, CLIPTextModel, EncoderKL, LoadedModel, Model, NamedTensors, Sizes, TextOutput, UNet2DConditionModel,
    prepare,
};
use unmist::ops::Family;
use unmist::plan::{Choice, PlanOptions};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// Every folder, with the models whose outputs it holds.
const FOLDERS: [(&str, &[&str]); 16] = [
    ("distilled", &["unet"]),
    ("identity_class", &["unet"]),
    ("inpaint", &["text_encoder", "unet", "vae"]),
    ("instruct_pix2pix", &["text_encoder", "unet", "vae"]),
    ("lcm", &["text_encoder", "unet", "vae"]),
    ("lists", &["unet"]),
    ("resnet_blocks", &["unet"]),
    ("sd1", &["text_encoder", "unet", "vae"]),
    ("sd2", &["text_encoder", "unet", "vae"]),
    ("sdxl", &["text_encoder", "text_encoder_2", "unet", "vae"]),
    ("sdxl_refiner", &["text_encoder_2", "unet", "vae"]),
    ("taesd", &["vae"]),
    ("unusual", &["unet"]),
    ("vae_odd", &["vae"]),
    ("vae_plain", &["vae"]),
    ("x4_upscaler", &["text_encoder", "unet", "vae"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stable_diffusion")
}

/// One model with its inputs and expected outputs, under the names that [`LoadedModel`] has for them.
struct Case {
    name: String,
    loaded: LoadedModel,
    inputs: NamedTensors,
    expected: NamedTensors,
}

impl Case {
    /// All cases of `FOLDER/PART_io.safetensors`: one, or both halves of an autoencoder.
    fn load(folder: &str, part: &str) -> Vec<Self> {
        let checkpoint = Checkpoint::open(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let io =
            Tensors::open(root().join(folder).join(format!("{part}_io.safetensors"))).expect("the fixture is there");
        let case = |component: &str, half: &str, inputs: &[&str]| {
            let name = format!("{folder}/{component}");
            let loaded = LoadedModel::open(&checkpoint, component).unwrap_or_else(|e| panic!("{name}: {e}"));
            let mut case = Self { name, loaded, inputs: NamedTensors::new(), expected: NamedTensors::new() };
            for (key, tensor) in io.names().filter_map(|n| Some((n.strip_prefix(half)?, n))) {
                let tensor = io.read_f32(tensor).expect("the fixture is sound");
                let to = if inputs.contains(&key) { &mut case.inputs } else { &mut case.expected };
                to.insert(if key == "out" { "sample".to_owned() } else { key.to_owned() }, tensor);
            }
            assert!(!case.inputs.is_empty() && !case.expected.is_empty(), "{}: nothing to compare", case.name);
            case
        };
        match part {
            "vae" => vec![case("vae.encoder", "encoder/", &["sample"]), case("vae.decoder", "decoder/", &["latent"])],
            "unet" => {
                let inputs: Vec<_> = io.names().filter(|n| *n != "out").collect();
                vec![case(part, "", &inputs)]
            }
            _ => vec![case(part, "", &["input_ids"])],
        }
    }

    fn all() -> Vec<Self> {
        FOLDERS.iter().flat_map(|(folder, parts)| parts.iter().flat_map(|part| Self::load(folder, part))).collect()
    }

    /// The outputs, with pictures as `[N, C, H, W]`.
    fn run(&self, device: &Device, weights: &dyn WeightSource, dtype: DType, options: &LoadOptions) -> NamedTensors {
        let model = self.loaded.model.as_ref();
        let (graph, inputs) =
            prepare(model, self.inputs.clone(), dtype).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let names: Vec<_> = graph.outputs().iter().map(|(name, _)| name.clone()).collect();
        let mut session = device.load(graph, weights, options).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        inputs.iter().for_each(|(name, tensor)| session.write(name, tensor).expect("fits"));
        session.run().expect("runs");
        let read = |name: String| {
            let tensor = session.read(&name).expect("is read");
            (name, if tensor.shape.len() == 4 { tensor.channels_first() } else { tensor })
        };
        names.into_iter().map(read).collect()
    }

    fn check(&self, device: &Device, dtype: DType, options: &LoadOptions, bound: f64) {
        let found = self.run(device, &self.loaded.weights, dtype, options);
        for (name, expected) in &self.expected {
            let found = found.get(name).unwrap_or_else(|| panic!("{}: no output {name}", self.name));
            let difference = compare(found, expected, Tolerance::l2(bound));
            difference.unwrap_or_else(|e| panic!("{} in {}, {name}: {e}", self.name, dtype.name()));
        }
    }
}

#[test]
fn the_list_of_models_is_complete() {
    let mut found = BTreeMap::new();
    for folder in std::fs::read_dir(root()).expect("fixtures are there").flatten() {
        let files = std::fs::read_dir(folder.path()).expect("a folder").flatten();
        let mut parts: Vec<_> = files
            .filter_map(|f| Some(f.file_name().to_str()?.strip_suffix("_io.safetensors")?.to_owned()))
            .filter(|part| part != "vae_tiled") // the same autoencoder, run in tiles
            .collect();
        parts.sort();
        if !parts.is_empty() {
            found.insert(folder.file_name().into_string().expect("UTF-8"), parts);
        }
    }
    let listed = FOLDERS.iter().map(|(f, parts)| (f.to_string(), parts.iter().map(|p| p.to_string()).collect()));
    assert_eq!(found, listed.collect());
}

#[test]
fn reference_agrees_with_diffusers() {
    Case::all().iter().for_each(|c| c.check(&Device::Reference, DType::F32, &LoadOptions::default(), 1e-5));
}

#[test]
fn device_agrees_with_diffusers_in_f32_and_f16() {
    let device = Device::Gpu(gpu().clone());
    for case in Case::all() {
        for (dtype, bound) in [(DType::F32, 1e-4), (DType::F16, 1e-2)] {
            case.check(&device, dtype, &LoadOptions::default(), bound);
        }
    }
}

#[test]
fn both_kernel_families_agree_with_diffusers() {
    let device = Device::Gpu(gpu().clone());
    for family in [Family::Gpu, Family::Cpu] {
        let choice = Choice::of_family(family);
        let options = LoadOptions { plan: PlanOptions { choice, ..PlanOptions::default() }, ..LoadOptions::default() };
        for (folder, part) in [("sd1", "unet"), ("sdxl", "unet"), ("sdxl", "text_encoder_2"), ("vae_odd", "vae")] {
            Case::load(folder, part).iter().for_each(|c| c.check(&device, DType::F32, &options, 1e-4));
        }
    }
}

/// Replaces one parameter with zeros.
struct Damaged<'a>(&'a Weights, &'a str);

impl WeightSource for Damaged<'_> {
    fn read(&self, part: &WeightPart) -> unmist::Result<HostTensor> {
        let tensor = self.0.tensor(&part.name)?;
        Ok(if part.name == self.1 { HostTensor::zeros(tensor.shape) } else { tensor })
    }
}

#[test]
fn a_wrong_weight_shows() {
    let damages = [
        ("sdxl", "unet", "add_embedding.linear_1.weight"),
        ("sdxl", "unet", "down_blocks.2.attentions.0.transformer_blocks.2.norm3.bias"),
        ("sd1", "unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
        ("lcm", "unet", "time_embedding.cond_proj.weight"),
        ("lists", "unet", "class_embedding.linear_2.bias"),
        ("unusual", "unet", "encoder_hid_proj.bias"),
        ("resnet_blocks", "unet", "up_blocks.1.upsamplers.0.time_emb_proj.weight"),
        ("x4_upscaler", "unet", "class_embedding.weight"),
        ("sdxl", "text_encoder_2", "text_model.embeddings.position_embedding.weight"),
        ("taesd", "vae", "decoder.layers.3.conv.4.bias"),
    ];
    for (folder, part, weight) in damages {
        let differs = |case: &Case| {
            let source = Damaged(&case.loaded.weights, weight);
            let found = case.run(&Device::Reference, &source, DType::F32, &LoadOptions::default());
            case.expected.iter().any(|(name, expected)| compare(&found[name], expected, Tolerance::l2(1e-4)).is_err())
        };
        assert!(Case::load(folder, part).iter().any(differs), "{folder}/{part} without {weight}");
    }
}

/// Names and shapes of a part of a full-size checkpoint; a squeezed or transposed tensor has no shape.
fn full_size(file: &str, part: &str) -> BTreeMap<String, Option<Vec<usize>>> {
    let path = root().join(format!("../single_file/{file}.tsv"));
    let text = std::fs::read_to_string(path).expect("the fixture is there");
    let mut tensors = BTreeMap::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("# ") {
            inside = heading.split(' ').next() == Some(part);
            continue;
        }
        let columns: Vec<_> = line.split('\t').collect();
        if let (true, [_, shape, name, operation @ ..]) = (inside, columns.as_slice()) {
            let shape = shape.split('x').map(|d| d.parse().expect("a number")).collect();
            tensors.insert((*name).to_owned(), operation.is_empty().then_some(shape));
        }
    }
    assert!(tensors.len() > 100, "{file} has no part {part}");
    tensors
}

#[test]
fn full_size_models_have_the_parameters_of_their_checkpoints() {
    let path = root().join("../single_file/configs.json");
    let configs = Json::read(&path).expect("the fixture is there");
    let mut compared = 0;
    for (file, parts) in configs.value.as_object().expect("an object").iter().filter(|(f, _)| *f != "sd1") {
        for (part, config) in parts.as_object().expect("an object") {
            let expected = full_size(file, part);
            let json = Json { value: config.clone(), ..configs.clone() };
            let class = if expected.contains_key("text_projection.weight") {
                "CLIPTextModelWithProjection"
            } else {
                "CLIPTextModel"
            };
            let model: Box<dyn Model> = match part.as_str() {
                "unet" => Box::new(UNet2DConditionModel::from_json(&json).unwrap_or_else(|e| panic!("{file}: {e}"))),
                "vae" => Box::new(EncoderKL(AutoencoderKL::from_json(&json).unwrap_or_else(|e| panic!("{file}: {e}")))),
                _ => Box::new(CLIPTextModel::from_json(&json, Some(class)).unwrap_or_else(|e| panic!("{file}: {e}"))),
            };
            let found: BTreeMap<_, _> = model.parameters().expect("sound").into_iter().collect();
            let names = |missing: &str| panic!("{file}/{part}: {missing} is on one side only");
            expected.keys().filter(|n| !found.contains_key(*n)).for_each(|n| names(n));
            found.keys().filter(|n| !expected.contains_key(*n)).for_each(|n| names(n));
            for (name, shape) in expected.iter().filter_map(|(n, s)| Some((n, s.as_ref()?))) {
                assert_eq!(&found[name], shape, "{file}/{part}: {name}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 13, "models in configs.json");
}

#[test]
fn text_encoders_compute_what_is_asked_for_and_no_more() {
    let case = &Case::load("sdxl", "text_encoder_2")[0];
    let checkpoint = Checkpoint::open(root().join("sdxl")).expect("the fixture is there");
    let config = checkpoint.component_config("text_encoder_2").expect("there");
    let model = CLIPTextModel::from_json(&config, None).expect("sound");
    let ids = &case.inputs["input_ids"];
    let (batch, tokens) = (ids.shape[0], ids.shape[1]);

    // Clip skip: the second-to-last layer's output, normed; the last layer's weights are not even loaded.
    let graph = model.graph_of(batch, tokens, &[TextOutput::NormedHiddenState(1)], DType::F32).expect("fits");
    assert!(graph.weight_parts().iter().all(|p| !p.name.contains("layers.1.")));
    assert!(graph.find_input("pooled_rows").is_none());
    let mut session = Device::Reference.load(graph, &case.loaded.weights, &LoadOptions::default()).expect("loads");
    session.write("input_ids", ids).expect("fits");
    session.run().expect("runs");
    let found = session.read("final_layer_norm.1").expect("is read");
    let state = &case.expected["hidden_states.1"];
    let [gamma, beta] = ["weight", "bias"]
        .map(|n| case.loaded.weights.tensor(&format!("text_model.final_layer_norm.{n}")).expect("there"));
    let normed = unmist::reference::layer_norm(state, Some(&gamma), Some(&beta), model.config.layer_norm_eps);
    compare(&found, &normed, Tolerance::l2(1e-5)).expect("the final norm of the second-to-last state");

    let error =
        model.graph_of(1, 78, &[TextOutput::LastHiddenState], DType::F32).expect_err("77 positions").to_string();
    assert!(error.contains("78") && error.contains("77"), "{error}");
    let error = model.graph_of(1, 7, &[TextOutput::HiddenState(3)], DType::F32).expect_err("2 layers").to_string();
    assert!(error.contains("3") && error.contains("2 layers"), "{error}");
    let mut plain = model.clone();
    plain.config.projection_dim = None;
    let error = plain.graph_of(1, 7, &[TextOutput::TextEmbeds], DType::F32).expect_err("no projection").to_string();
    assert!(error.contains("CLIPTextModelWithProjection"), "{error}");
}

#[test]
fn texts_are_pooled_where_they_end() {
    let config = |eos: &str| {
        let text = format!(r#"{{"eos_token_id": {eos}, "vocab_size": 50}}"#);
        CLIPTextModel::from_json(&Json::parse("config.json", text).expect("JSON"), None)
    };
    let ids = HostTensor::new([2, 5], vec![48., 7., 49., 49., 2., 48., 3., 9., 7., 9.]).expect("10 ids");
    let rows = |eos: &str| config(eos).and_then(|m| m.pooled_rows(&ids)).expect("sound").data;
    assert_eq!(rows("2"), [2., 5.], "the first largest id");
    assert_eq!(rows("9"), [0., 7.], "the first 9, or the first token");
    assert_eq!(rows("49"), [2., 5.]);
    let error = config("[49, 2]").expect_err("a list").to_string();
    assert!(error.contains("eos_token_id"), "{error}");
}

#[test]
fn a_whole_clip_models_config_is_read_by_its_text_config() {
    let text = r#"{"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 7, "vision_config": {},
        "text_config": {"model_type": "clip_text_model", "hidden_size": 64, "projection_dim": 24, "top_k": 50}}"#;
    let json = Json::parse("config.json", text.to_owned()).expect("JSON");
    let model = CLIPTextModel::from_json(&json, Some("CLIPTextModelWithProjection")).expect("sound");
    assert_eq!((model.config.hidden_size, model.config.projection_dim), (64, Some(24)));
    let error = CLIPTextModel::from_json(&json, None).expect_err("CLIPModel is no text encoder").to_string();
    assert!(error.contains("CLIPModel"), "{error}");
}

#[test]
fn configs_are_honoured_or_refused_by_name() {
    type Read = fn(&Json) -> unmist::Result<()>;
    let unet: Read = |json| UNet2DConditionModel::from_json(json).map(drop);
    let vae: Read = |json| AutoencoderKL::from_json(json).map(drop);
    let tiny: Read = |json| unmist::models::AutoencoderTiny::from_json(json).map(drop);
    let text: Read = |json| CLIPTextModel::from_json(json, None).map(drop);
    let refused: &[(Read, &str, &[&str])] = &[
        (unet, r#""dual_cross_attention": true"#, &["unsupported", "dual_cross_attention"]),
        (unet, r#""attention_type": "gated""#, &["unsupported", "attention_type", "gated"]),
        (unet, r#""time_embedding_type": "fourier""#, &["unsupported", "time_embedding_type"]),
        (unet, r#""cross_attention_norm": "group_norm""#, &["unsupported", "cross_attention_norm"]),
        (unet, r#""num_attention_heads": 8"#, &["unsupported", "num_attention_heads"]),
        (unet, r#""norm_num_groups": null"#, &["unsupported", "norm_num_groups"]),
        (unet, r#""addition_embed_type": "image""#, &["unsupported", "addition_embed_type", "image"]),
        (unet, r#""addition_embed_type": "text_time""#, &["config", "addition_time_embed_dim"]),
        (unet, r#""class_embed_type": "projection""#, &["config", "projection_class_embeddings_input_dim"]),
        (unet, r#""class_embed_type": "magic""#, &["unsupported", "class_embed_type"]),
        (
            unet,
            r#""encoder_hid_dim": 8, "encoder_hid_dim_type": "image_proj""#,
            &["unsupported", "encoder_hid_dim_type"],
        ),
        (unet, r#""mid_block_type": "UNetMidBlock2DSimpleCrossAttn""#, &["unsupported", "mid_block_type"]),
        (unet, r#""down_block_types": ["K","K","K","K"]"#, &["unsupported", "down_block_types"]),
        (unet, r#""down_block_types": ["DownBlock2D"]"#, &["config", "down_block_types"]),
        (unet, r#""attention_head_dim": [5, 10]"#, &["config", "attention_head_dim", "list of 4"]),
        (unet, r#""cross_attention_dim": [8, 8, 16, 8]"#, &["unsupported", "cross_attention_dim"]),
        (
            unet,
            r#""transformer_layers_per_block": [1, [1, 2], 1, 1]"#,
            &["config", "reverse_transformer_layers_per_block"],
        ),
        (
            unet,
            r#""transformer_layers_per_block": [[1], 1, 1, 1], "reverse_transformer_layers_per_block": [1, 1, 1, 1]"#,
            &["config", "transformer_layers_per_block"],
        ),
        (unet, r#""conv_in_kernel": 4"#, &["unsupported", "conv_in_kernel"]),
        (unet, r#""act_fn": "snake""#, &["unsupported", "act_fn", "snake"]),
        (unet, r#""resnet_time_scale_shift": "spatial""#, &["unsupported", "resnet_time_scale_shift"]),
        (unet, r#""quantum_mode": true"#, &["unknown fields", "quantum_mode"]),
        (
            vae,
            r#""down_block_types": ["AttnDownBlock2D"]"#,
            &["unsupported", "down_block_types", "DownEncoderBlock2D and AttnDownEncoderBlock2D"],
        ),
        (
            vae,
            r#""up_block_types": ["UpBlock2D"]"#,
            &["unsupported", "up_block_types", "UpDecoderBlock2D and AttnUpDecoderBlock2D"],
        ),
        (vae, r#""up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]"#, &["config", "block_out_channels (1)"]),
        (vae, r#""latents_mean": [1, 2], "latents_std": [1, 2]"#, &["config", "latents_mean", "4 numbers"]),
        (vae, r#""latents_mean": [1, 2, 3, 4]"#, &["config", "latents_std"]),
        (vae, r#""scaling_factor": 0"#, &["config", "scaling_factor"]),
        (tiny, r#""upsample_fn": "bilinear""#, &["unsupported", "upsample_fn"]),
        (tiny, r#""num_decoder_blocks": [1, 1]"#, &["config", "num_decoder_blocks"]),
        (text, r#""hidden_act": "gelu_10""#, &["unsupported", "hidden_act", "gelu_10"]),
        (text, r#""num_attention_heads": 7"#, &["config", "num_attention_heads"]),
        (text, r#""rope_theta": 1"#, &["unknown fields", "rope_theta"]),
    ];
    for (read, fields, parts) in refused {
        let json = Json::parse("config.json", format!("{{{fields}}}")).expect("JSON");
        let message = read(&json).expect_err(fields).to_string();
        assert!(parts.iter().all(|p| message.contains(p)), "{fields}: {message}");
    }
    // Fields that trainers add, and fields that only other kinds of blocks would use, change nothing.
    let notes = r#"{"decay": 0.9999, "use_ema_warmup": false, "upcast_attention": null, "dropout": 0.1,
        "mid_block_type": null}"#;
    let json = Json::parse("config.json", notes.to_owned()).expect("JSON");
    assert!(UNet2DConditionModel::from_json(&json).expect("harmless").config.mid_block.is_none());
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let case = &Case::load("sdxl", "unet")[0];
    let refuse = |change: &dyn Fn(&mut NamedTensors), parts: &[&str]| {
        let mut inputs = case.inputs.clone();
        change(&mut inputs);
        let message = prepare(case.loaded.model.as_ref(), inputs, DType::F32).expect_err("does not fit").to_string();
        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
    };
    let set = |name: &'static str, shape: &'static [usize]| {
        move |inputs: &mut NamedTensors| drop(inputs.insert(name.into(), HostTensor::zeros(shape)))
    };
    refuse(&|i| drop(i.remove("sample")), &["`sample` is missing"]);
    refuse(&|i| drop(i.remove("time_ids")), &["`time_ids` is missing"]);
    refuse(&set("class_labels", &[2]), &["`class_labels` is not an input", "text_embeds"]);
    refuse(&set("sample", &[2, 3, 8, 12]), &["sample", "[2, 4, 8, 12]", "[2, 3, 8, 12]"]);
    refuse(&set("sample", &[4, 8, 12]), &["sample", "[N, C, H, W]"]);
    refuse(&set("sample", &[2, 4, 0, 12]), &["sample", "elements"]);
    refuse(&set("encoder_hidden_states", &[2, 9, 71]), &["encoder_hidden_states", "[2, 9, 72]"]);
    refuse(&set("encoder_hidden_states", &[1, 9, 72]), &["encoder_hidden_states", "[2, 9, 72]"]);
    refuse(&set("time_ids", &[2, 5]), &["text_embeds", "[2, 32]"]);
    refuse(&set("time_ids", &[2, 9]), &["time_ids"]);
    refuse(&set("timestep", &[3]), &["timestep", "[2]"]);

    let upscaler = &Case::load("x4_upscaler", "unet")[0];
    let mut inputs = upscaler.inputs.clone();
    inputs.insert("class_labels".into(), HostTensor::new([2], vec![3.0, 40.0]).expect("two"));
    let message = prepare(upscaler.loaded.model.as_ref(), inputs, DType::F32).expect_err("40 rows").to_string();
    assert!(message.contains("class_labels holds 40") && message.contains("0 to 39"), "{message}");
}

#[test]
fn a_missing_guidance_embedding_counts_as_zeros() {
    let case = &Case::load("lcm", "unet")[0];
    let run = |inputs: NamedTensors| {
        let (graph, inputs) = prepare(case.loaded.model.as_ref(), inputs, DType::F32).expect("fits");
        let mut session = Device::Reference.load(graph, &case.loaded.weights, &LoadOptions::default()).expect("loads");
        inputs.iter().for_each(|(name, tensor)| session.write(name, tensor).expect("fits"));
        session.run().expect("runs");
        session.read("sample").expect("is read")
    };
    let (mut without, mut zeros) = (case.inputs.clone(), case.inputs.clone());
    without.remove("timestep_cond");
    let shape = zeros["timestep_cond"].shape.clone();
    zeros.insert("timestep_cond".into(), HostTensor::zeros(shape));
    assert_eq!(run(without), run(zeros));
}

#[test]
fn sizes_that_cannot_be_halved_evenly_come_back_as_they_were() {
    let case = &Case::load("distilled", "unet")[0];
    for (height, width) in [(1, 1), (1, 7), (2, 3), (5, 6), (13, 4)] {
        let sizes = Sizes { batch: 2, height, width, tokens: 3, time_ids: 0 };
        let graph = case.loaded.model.graph(&sizes, DType::F32).expect("any size");
        assert_eq!(graph.shape(graph.find_output("sample").expect("there")), [2, height, width, 4]);
    }
}
