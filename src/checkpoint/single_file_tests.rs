//! The key map and the inferred configurations against diffusers' own (`tests/fixtures/single_file`, made by
//! `tools/fixtures/single_file.py`), at the real sizes of the published models.

use std::fs;
use std::path::PathBuf;

use safetensors::tensor::Dtype;

use super::*;
use crate::checkpoint::{Component, Folder, Weights};

/// One line of a fixture: a tensor of diffusers' model, and where it lies in the single file.
struct Entry {
    component: String,
    name: String,
    /// Its name in the file behind the component's prefix.
    key: String,
    stored: String,
    stored_shape: Vec<usize>,
    part: Part,
}

struct Family {
    configs: BTreeMap<String, Value>,
    entries: Vec<Entry>,
    /// What such files hold besides.
    unused: Vec<(String, Vec<usize>)>,
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn family(name: &str) -> Family {
    let folder = fixtures().join("single_file");
    let configs: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_str(&fs::read_to_string(folder.join("configs.json")).unwrap()).unwrap();
    let mut family = Family { configs: configs[name].clone(), entries: vec![], unused: vec![] };
    let text = fs::read_to_string(folder.join(format!("{name}.tsv"))).unwrap();
    let (mut component, mut prefix) = ("", "");
    for line in text.lines() {
        if let Some(section) = line.strip_prefix("# ") {
            (component, prefix) = section.split_once(' ').unwrap_or((section, ""));
            continue;
        }
        let words: Vec<_> = line.split('\t').collect();
        let stored_shape = words[1].split('x').filter(|dim| !dim.is_empty()).map(|dim| dim.parse().unwrap()).collect();
        let (key, stored) = (words[0].to_owned(), format!("{prefix}{}", words[0]));
        if component == "unused" {
            family.unused.push((stored, stored_shape));
            continue;
        }
        let part = match words.get(3).copied() {
            None | Some("squeeze") => Part::Whole,
            Some("rows 0/3") => Part::Third(0),
            Some("rows 1/3") => Part::Third(1),
            Some("rows 2/3") => Part::Third(2),
            Some("transpose") => Part::Transposed,
            Some(other) => panic!("unknown operation {other}"),
        };
        let (component, name) = (component.into(), words[2].into());
        family.entries.push(Entry { component, name, key, stored, stored_shape, part });
    }
    family
}

impl Entry {
    /// The shape that diffusers' model has.
    fn shape(&self) -> Vec<usize> {
        match (self.part, self.stored_shape.as_slice()) {
            (Part::Third(_), [rows, rest @ ..]) => [&[rows / 3], rest].concat(),
            (Part::Transposed, &[rows, columns]) => vec![columns, rows],
            // The autoencoder's attention was made of 1×1 convolutions.
            (Part::Whole, &[rows, columns, 1, 1]) if self.stored.contains(".mid.attn_1.") => vec![rows, columns],
            _ => self.stored_shape.clone(),
        }
    }
}

impl Family {
    /// Names and shapes of a component's parameters.
    fn expected(&self, component: &str) -> Vec<(String, Vec<usize>)> {
        let entries = self.entries.iter().filter(|entry| entry.component == component);
        entries.map(|entry| (entry.name.clone(), entry.shape())).collect()
    }
}

/// A file of these tensors and `extra` ones, all zeros. Matrices are declared as 4-bit floats and never read: 3.5
/// billion parameters then are an allocation that the system need not fill.
fn file_of(family: &Family, extra: &[(&str, &[usize])]) -> Vec<u8> {
    let mut shapes: BTreeMap<&str, Vec<usize>> =
        family.unused.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
    shapes.extend(family.entries.iter().map(|entry| (entry.stored.as_str(), entry.stored_shape.clone())));
    shapes.extend(extra.iter().map(|&(name, shape)| (name, shape.to_vec())));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let elements: usize = shape.iter().product();
        let dtype = if shape.len() > 1 && elements.is_multiple_of(2) { Dtype::F4 } else { Dtype::F32 };
        let begin = end;
        end += elements * dtype.bitsize() / 8;
        header.insert(name.into(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = vec![0; 8 + header.len() + end];
    bytes[..8].copy_from_slice(&(header.len() as u64).to_le_bytes());
    bytes[8..8 + header.len()].copy_from_slice(&header);
    bytes
}

fn open(bytes: Vec<u8>) -> Result<SingleFile> {
    SingleFile::from_tensors(Tensors::from_bytes("model.safetensors", bytes)?)
}

const FAMILIES: [&str; 6] = ["sd1", "sd15", "sd21", "sd2_upscaler", "sdxl_base", "sdxl_refiner"];

#[test]
fn every_tensor_of_every_family_has_diffusers_name() {
    for (name, pipeline, tensors) in [
        ("sd1", "StableDiffusionPipeline", 362),
        ("sd15", "StableDiffusionPipeline", 1130),
        ("sd21", "StableDiffusionPipeline", 1058),
        ("sd2_upscaler", "StableDiffusionUpscalePipeline", 1263),
        ("sdxl_base", "StableDiffusionXLPipeline", 2393),
        ("sdxl_refiner", "StableDiffusionXLImg2ImgPipeline", 1737),
    ] {
        let family = family(name);
        assert_eq!(family.entries.len(), tensors, "{name}");
        let model = open(file_of(&family, &[("model_ema.diffusion_modelinput_blocks00weight", &[4])])).unwrap();
        assert_eq!(model.index().value["_class_name"], pipeline, "{name}");
        for component in family.configs.keys() {
            let entries = family.entries.iter().filter(|entry| entry.component == *component);
            let expected: BTreeMap<_, _> = entries.map(|entry| (&entry.name, (&entry.stored, entry.part))).collect();
            let mut found = model.inferred.pieces[component].clone();
            found.retain(|name, _| !name.ends_with("position_ids"));
            let found: BTreeMap<_, _> = found.iter().map(|(name, piece)| (name, (&piece.stored, piece.part))).collect();
            assert_eq!(found, expected, "{name} {component}");
            Weights::new(model.component(component).unwrap().tensors, &family.expected(component)).unwrap();
        }
    }
}

/// A field of a configuration with the value it has when it is not given.
fn field(config: &Value, name: &str) -> Value {
    let default = match name {
        "only_cross_attention" => Value::Bool(false),
        "transformer_layers_per_block" => 1.into(),
        "max_position_embeddings" => 77.into(),
        _ => Value::Null,
    };
    config.get(name).cloned().filter(|value| !value.is_null()).unwrap_or(default)
}

#[test]
fn configurations_are_those_of_the_published_folders() {
    let unet = [
        "in_channels",
        "out_channels",
        "block_out_channels",
        "down_block_types",
        "up_block_types",
        "mid_block_type",
        "layers_per_block",
        "cross_attention_dim",
        "attention_head_dim",
        "use_linear_projection",
        "num_class_embeds",
        "addition_embed_type",
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
        "class_embed_type",
        "time_cond_proj_dim",
        "norm_num_groups",
        "norm_eps",
        "act_fn",
        "flip_sin_to_cos",
        "freq_shift",
    ];
    let vae = [
        "in_channels",
        "out_channels",
        "latent_channels",
        "block_out_channels",
        "layers_per_block",
        "down_block_types",
        "up_block_types",
        "scaling_factor",
        "norm_num_groups",
        "mid_block_add_attention",
        "use_quant_conv",
        "use_post_quant_conv",
        "force_upcast",
    ];
    let text = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "eos_token_id",
        "max_position_embeddings",
        "projection_dim",
    ];
    for name in FAMILIES {
        let family = family(name);
        let model = open(file_of(&family, &[])).unwrap();
        for (component, expected) in &family.configs {
            let fields = if component == "unet" {
                &unet[..]
            } else if component == "vae" {
                &vae[..]
            } else {
                &text[..]
            };
            let found = model.config(component).unwrap().value;
            for key in fields {
                // The width of a projection that the model does not have is written in some folders.
                if *key == "projection_dim" && component == "text_encoder" {
                    continue;
                }
                assert_eq!(field(&found, key), field(expected, key), "{name} {component} {key}");
            }
        }
        // Of a level without attention, the number of its layers says nothing.
        let (found, expected) = (model.config("unet").unwrap().value, &family.configs["unet"]);
        for (i, block) in found["down_block_types"].as_array().unwrap().iter().enumerate() {
            if block == "CrossAttnDownBlock2D" {
                for key in ["transformer_layers_per_block", "only_cross_attention"] {
                    let at = |config| Some(field(config, key)).map(|v| v.get(i).cloned().unwrap_or(v)).unwrap();
                    assert_eq!(at(&found), at(expected), "{name} {key} of level {i}");
                }
            }
        }
    }
}

/// `sd1` as a folder and as a single file: the same tensors, bit for bit.
#[test]
fn a_folder_and_a_single_file_hold_the_same() {
    let family = family("sd1");
    let folder = Folder::open(fixtures().join("stable_diffusion/sd1")).unwrap();
    let weights_of = |component: Component| Weights::new(component.tensors, &family.expected(&component.name)).unwrap();
    let components = ["unet", "vae", "text_encoder"];
    let of_folder = components.map(|name| (name, weights_of(folder.component(name).unwrap())));
    let of_folder = BTreeMap::from(of_folder);
    let read = |entry: &Entry| of_folder[entry.component.as_str()].tensor(&entry.name).unwrap();

    let stored: Vec<_> = family
        .entries
        .iter()
        .map(|e| (e.stored.as_str(), HostTensor { shape: e.stored_shape.clone(), ..read(e) }))
        .collect();
    let list: Vec<_> = stored.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut bytes = Vec::new();
    crate::checkpoint::safetensors::write(&mut bytes, &list, &BTreeMap::new()).unwrap();
    let model = open(bytes).unwrap();
    let of_file = BTreeMap::from(components.map(|name| (name, weights_of(model.component(name).unwrap()))));
    for entry in &family.entries {
        assert_eq!(of_file[entry.component.as_str()].tensor(&entry.name).unwrap(), read(entry), "{}", entry.name);
    }
    let scheduler = model.config("scheduler").unwrap().value;
    let expected = folder.scheduler_config().unwrap().value;
    for key in [
        "_class_name",
        "beta_schedule",
        "beta_start",
        "beta_end",
        "skip_prk_steps",
        "set_alpha_to_one",
        "steps_offset",
        "prediction_type",
    ] {
        assert_eq!(scheduler[key], expected[key], "{key}");
    }
}

#[test]
fn query_key_value_are_cut_and_the_projection_turned() {
    let tensor = |shape: &[usize]| HostTensor::from_fn(shape.to_vec(), |i| i as f32);
    let stored = [
        ("x.transformer.resblocks.0.attn.in_proj_weight", tensor(&[6, 2])),
        ("x.text_projection", tensor(&[2, 3])),
        ("x.token_embedding.weight", tensor(&[5, 2])),
        ("x.positional_embedding", tensor(&[3, 2])),
    ];
    let list: Vec<_> = stored.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut bytes = Vec::new();
    crate::checkpoint::safetensors::write(&mut bytes, &list, &BTreeMap::new()).unwrap();
    let file = Arc::new(Tensors::from_bytes("x", bytes).unwrap());
    let (_, pieces) = models(&file, &layout::find(&file)).towers.remove(0);
    let tensors = Translated { file, pieces };
    let third = |kind| tensors.read_f32(&format!("text_model.encoder.layers.0.self_attn.{kind}_proj.weight")).unwrap();
    assert_eq!((third("q").shape, third("q").data), (vec![2, 2], vec![0.0, 1.0, 2.0, 3.0]));
    assert_eq!(third("k").data, [4.0, 5.0, 6.0, 7.0]);
    assert_eq!(third("v").data, [8.0, 9.0, 10.0, 11.0]);
    let projection = tensors.read_f32("text_projection.weight").unwrap();
    assert_eq!((projection.shape, projection.data), (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
}

/// stable-diffusion.cpp's own names: OpenCLIP's tower renamed, but fused as it was, and matrices round a transformer as
/// 1×1 convolutions.
#[test]
fn names_of_stable_diffusion_cpp() {
    for name in ["sd21", "sdxl_base"] {
        let (original, mut renamed) = (family(name), family(name));
        for (old, entry) in original.entries.iter().zip(&mut renamed.entries) {
            if let Some(tower) = ["text_encoder", "text_encoder_2"].iter().position(|c| *c == old.component) {
                let name = old.name.trim_start_matches("text_model.");
                let name = match old.part {
                    Part::Whole => name.to_owned(),
                    Part::Transposed => "text_projection".to_owned(),
                    Part::Third(_) => {
                        ["q_proj", "k_proj", "v_proj"].iter().fold(name.to_owned(), |n, p| n.replace(p, "in_proj"))
                    }
                };
                let place = ["cond_stage_model.transformer", "cond_stage_model.1.transformer"][tower];
                entry.stored = format!("{place}.text_model.{name}");
            }
            if old.name.ends_with("proj_in.weight") || old.name.ends_with("proj_out.weight") {
                entry.stored_shape.extend([1, 1]);
            }
        }
        renamed.unused.clear();
        let [expected, model] = [&original, &renamed].map(|family| open(file_of(family, &[])).unwrap());
        for component in original.configs.keys() {
            let [expected_config, config] = [&expected, &model].map(|file| file.config(component).unwrap().value);
            assert_eq!(config, expected_config, "{name} {component}");
            let weights = model.component(component).unwrap().tensors;
            let weights = Weights::new(weights, &original.expected(component)).unwrap();
            assert_eq!(weights.names().count(), original.expected(component).len());
            // The same part of the same tensor.
            let parts = |file: &SingleFile| -> Vec<_> {
                let pieces = file.inferred.pieces[component].iter();
                let pieces = pieces.filter(|(name, _)| !name.ends_with("position_ids"));
                pieces.map(|(name, piece)| (name.trim_start_matches("text_model.").to_owned(), piece.part)).collect()
            };
            assert_eq!(parts(&model), parts(&expected), "{name} {component}");
        }
    }
}

/// LoRA files name the same modules in the original way.
#[test]
fn original_beginnings_and_diffusers_are_the_same_modules() {
    for name in ["sd15", "sdxl_base", "sdxl_refiner"] {
        let family = family(name);
        let key = |entry: &Entry| entry.stored.strip_prefix("model.diffusion_model.").map(str::to_owned);
        let keys: Vec<String> = family.entries.iter().filter_map(key).collect();
        let aliases = ldm_keys::unet_aliases(&ldm_keys::Levels::of(keys.iter().map(String::as_str)));
        for entry in family.entries.iter().filter(|entry| entry.component == "unet") {
            let original = key(entry).unwrap();
            let translated =
                aliases.iter().filter_map(|(ours, theirs)| Some(format!("{theirs}{}", entry.name.strip_prefix(ours)?)));
            assert!(
                translated.into_iter().any(|alias| alias == original),
                "{name}: no alias of {} is {original}",
                entry.name
            );
        }
    }
}

#[test]
fn input_channels_tell_the_pipeline() {
    for (name, channels, pipeline) in [
        ("sd15", 9, "StableDiffusionInpaintPipeline"),
        ("sd15", 8, "StableDiffusionInstructPix2PixPipeline"),
        ("sd21", 9, "StableDiffusionInpaintPipeline"),
        ("sdxl_base", 9, "StableDiffusionXLInpaintPipeline"),
    ] {
        let conv_in: &[(&str, &[usize])] = &[("model.diffusion_model.input_blocks.0.0.weight", &[320, channels, 3, 3])];
        let model = open(file_of(&family(name), conv_in)).unwrap();
        assert_eq!(model.index().value["_class_name"], pipeline);
        assert_eq!(model.config("unet").unwrap().value["in_channels"], channels);
    }
}

#[test]
fn what_the_u_net_predicts_is_said() {
    let prediction = |name: &str, extra: &[(&str, &[usize])], spread: f32| {
        let family = family(name);
        let mut bytes = file_of(&family, extra);
        let last = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
        let header_len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        let begin = header[last]["data_offsets"][0].as_u64().unwrap() as usize + 8 + header_len;
        for (i, element) in bytes[begin..begin + 4 * 320].chunks_exact_mut(4).enumerate() {
            element.copy_from_slice(&(if i % 2 == 0 { spread } else { -spread }).to_le_bytes());
        }
        let model = open(bytes).unwrap();
        let scheduler = model.config("scheduler").unwrap().value;
        let text = model.assumptions().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let predicts = scheduler["prediction_type"].as_str().unwrap().to_owned();
        assert!(text.contains(&predicts) && text.contains("`prediction_type`"), "{text}");
        (
            predicts,
            model.config("unet").unwrap().value["sample_size"].as_u64().unwrap(),
            scheduler["rescale_betas_zero_snr"] == true,
        )
    };
    assert_eq!(prediction("sd15", &[], 1.0), ("epsilon".into(), 64, false));
    assert_eq!(prediction("sd21", &[], 0.2), ("v_prediction".into(), 96, false));
    assert_eq!(prediction("sd21", &[], 0.05), ("epsilon".into(), 64, false));
    assert_eq!(prediction("sd15", &[("v_pred", &[0]), ("ztsnr", &[0])], 0.0), ("v_prediction".into(), 64, true));
}

#[test]
fn other_files_are_refused() {
    let says = |names: &[(&str, &[usize])], parts: &[&str]| {
        let empty = Family { configs: BTreeMap::new(), entries: vec![], unused: vec![] };
        let message = open(file_of(&empty, names)).unwrap_err().to_string();
        for part in ["model.safetensors"].iter().chain(parts) {
            assert!(message.contains(part), "no {part:?} in: {message}");
        }
    };
    says(&[], &["expected a Stable Diffusion checkpoint"]);
    says(&[("lora_unet_mid.lora_up.weight", &[2, 2])], &["LoRA", "`lora`"]);
    says(&[("double_blocks.0.img_attn.qkv.weight", &[2, 2])], &["diffusion transformer"]);
    says(&[("down_blocks.0.resnets.0.conv1.weight", &[2, 2])], &["`down`"]);
    says(&[("blip.x", &[2]), ("qformer.y", &[2])], &["`blip`, `qformer`"]);
    // The right first name and nothing else, or nonsense behind it.
    let conv_in = ("model.diffusion_model.input_blocks.0.0.weight", &[4, 4, 3, 3][..]);
    says(&[conv_in], &["`model`"]);
    let out = ("model.diffusion_model.out.2.weight", &[4, 4, 3, 3][..]);
    says(&[conv_in, out], &["no attention over a text"]);
    let attention = ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", &[8, 8][..]);
    says(&[conv_in, out, attention], &["`down_blocks.0.resnets.0.conv2.weight`", "found none"]);
    let hint = ("control_model.input_hint_block.0.weight", &[4, 4, 3, 3][..]);
    says(&[("control_model.input_blocks.0.0.weight", &[4, 4, 3, 3]), hint], &["ControlNet"]);
    let mut cut = family("sd1");
    cut.entries
        .retain(|entry| entry.stored != "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight");
    let message = open(file_of(&cut, &[])).unwrap_err().to_string();
    assert!(message.contains("mlp.fc1.weight"), "{message}");
}

/// SD 2's tower with the surplus layer, and with leftovers of whole CLIP models, is the same as without.
#[test]
fn what_is_surplus_is_left_out() {
    let family = family("sd21");
    let expected = family.expected("text_encoder");
    let with = |extra: &[(&str, &[usize])]| {
        let model = open(file_of(&family, extra)).unwrap();
        assert_eq!(model.config("text_encoder").unwrap().value["num_hidden_layers"], 23);
        Weights::new(model.component("text_encoder").unwrap().tensors, &expected).unwrap();
    };
    with(&[]);
    with(&[("cond_stage_model.model.logit_scale", &[]), ("cond_stage_model.model.attn_mask", &[77, 77])]);
    with(&[("cond_stage_model.model.visual.ln_post.weight", &[1280])]);
    with(&[("model.diffusion_model.position_net.linears.0.weight", &[512, 768])]);
}

#[path = "dialects_tests.rs"]
mod dialects;

/// The key map backwards, at the real sizes: every tensor of diffusers' models gets the original code's name, and is
/// made of the parts that the table says.
#[test]
fn every_tensor_of_every_family_has_its_original_name_again() {
    use crate::checkpoint::original::{self, Made};
    for name in FAMILIES {
        let family = family(name);
        for component in family.configs.keys() {
            let entries: Vec<_> = family.entries.iter().filter(|entry| entry.component == *component).collect();
            let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
            let open_clip = entries.iter().any(|entry| entry.stored.contains(".resblocks."));
            let renamed = match component.as_str() {
                "unet" => original::unet(&names),
                "vae" => original::vae(&names),
                _ if open_clip => original::open_clip(&names),
                _ => continue, // transformers' names as they are
            };
            let renamed = renamed.unwrap_or_else(|missing| panic!("{name} {component}: no name for {missing}"));
            let mut found = BTreeMap::new();
            for (stored, made) in &renamed {
                let parts = match made {
                    Made::Of(new) => vec![(new, Part::Whole, false)],
                    Made::Convolution(new) => vec![(new, Part::Whole, true)],
                    Made::Transposed(new) => vec![(new, Part::Transposed, false)],
                    Made::Stacked(new) => new.iter().zip(0..).map(|(new, i)| (new, Part::Third(i), false)).collect(),
                };
                for (new, part, convolution) in parts {
                    assert!(found.insert(new, (stored.as_str(), part, convolution)).is_none(), "{name}: {new} twice");
                }
            }
            assert_eq!(found.len(), entries.len(), "{name} {component}");
            for entry in entries {
                let (stored, part, convolution) = found[&entry.name];
                assert!(entry.stored.ends_with(&format!(".{stored}")), "{name}: {} is no {stored}", entry.stored);
                assert_eq!(part, entry.part, "{name} {stored}");
                let widened = entry.stored_shape.len() == 4 && entry.shape().len() == 2;
                assert_eq!(convolution, widened, "{name} {stored}");
            }
        }
    }
}
