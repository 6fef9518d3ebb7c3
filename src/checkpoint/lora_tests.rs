//! LoRA files of `tests/fixtures/lora` (made by `tools/fixtures/lora.py`) on the models they are for, and damaged ones.

use std::path::PathBuf;

use super::*;
use crate::checkpoint::{Folder, safetensors};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn open(name: &str) -> Arc<Lora> {
    Arc::new(Lora::open(fixtures().join(format!("lora/{name}.safetensors"))).unwrap())
}

fn components(model: &str, names: &[&str]) -> Vec<Component> {
    let folder = Folder::open(fixtures().join("stable_diffusion").join(model)).unwrap();
    names.iter().map(|name| folder.component(name).unwrap()).collect()
}

fn apply_to(loras: &[(Arc<Lora>, f64)], components: &mut [Component]) -> Result<()> {
    apply(loras, &mut components.iter_mut().collect::<Vec<_>>())
}

/// Every layer changes one weight, and only those change; a few of them computed here from the definition.
#[test]
fn files_of_every_naming_fit_their_models() {
    for (name, model, parts, layers, checks) in [
        (
            "sd1_kohya",
            "sd1",
            &["unet", "text_encoder"][..],
            90,
            &[
                (
                    "unet",
                    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
                    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v",
                ),
                ("unet", "down_blocks.0.resnets.0.conv1", "lora_unet_down_blocks_0_resnets_0_conv1"),
                ("unet", "down_blocks.0.attentions.0.proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"),
                ("text_encoder", "text_model.encoder.layers.1.mlp.fc2", "lora_te_text_model_encoder_layers_1_mlp_fc2"),
            ][..],
        ),
        (
            "sd1_peft",
            "sd1",
            &["unet", "text_encoder"],
            52,
            &[(
                "unet",
                "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
                "unet.up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
            )],
        ),
        (
            "sd1_processor",
            "sd1",
            &["unet", "text_encoder"],
            40,
            &[(
                "unet",
                "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
                "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out",
            )],
        ),
        (
            "sdxl_kohya",
            "sdxl",
            &["unet", "text_encoder", "text_encoder_2"],
            93,
            &[
                ("unet", "down_blocks.1.resnets.0.conv1", "lora_unet_input_blocks_3_0_in_layers_2"),
                (
                    "unet",
                    "up_blocks.0.attentions.1.transformer_blocks.2.attn2.to_q",
                    "lora_unet_output_blocks_1_1_transformer_blocks_2_attn2_to_q",
                ),
                ("unet", "mid_block.resnets.1.conv1", "lora_unet_middle_block_2_in_layers_2"),
                (
                    "text_encoder_2",
                    "text_model.encoder.layers.1.mlp.fc1",
                    "lora_te2_text_model_encoder_layers_1_mlp_fc1",
                ),
            ],
        ),
    ] {
        let lora = open(name);
        assert_eq!(lora.layers.len(), layers, "{name}");
        let plain = components(model, parts);
        let mut merged = components(model, parts);
        apply_to(&[(lora.clone(), 0.75)], &mut merged).unwrap();
        let mut changed = 0;
        for (plain, merged) in plain.iter().zip(&merged) {
            for weight in plain.tensors.names() {
                changed +=
                    usize::from(plain.tensors.read_f32(&weight).unwrap() != merged.tensors.read_f32(&weight).unwrap());
            }
        }
        assert_eq!(changed, layers, "{name}");

        for &(component, module, layer) in checks {
            let layer =
                lora.layers.iter().find(|other| other.name == layer).unwrap_or_else(|| panic!("{name}: no {layer}"));
            let (down, up) = (lora.file.read_f32(&layer.down).unwrap(), lora.file.read_f32(&layer.up).unwrap());
            let at = parts.iter().position(|part| *part == component).unwrap();
            let [before, after] = [&plain[at], &merged[at]].map(|part| {
                let bare = module.strip_prefix("text_model.").unwrap_or(module);
                let name = part
                    .tensors
                    .names()
                    .into_iter()
                    .find(|name| [module, bare].map(|m| format!("{m}.weight")).contains(name));
                part.tensors.read_f32(&name.unwrap()).unwrap()
            });
            let (rank, columns) = (down.shape[0], before.len() / before.shape[0]);
            for i in 0..before.len() {
                let (row, column) = (i / columns, i % columns);
                let product: f64 = (0..rank)
                    .map(|r| f64::from(up.data[row * rank + r]) * f64::from(down.data[r * columns + column]))
                    .sum();
                let expected = f64::from(before.data[i]) + 0.75 * layer.alpha / rank as f64 * product;
                assert!(
                    (f64::from(after.data[i]) - expected).abs() < 1e-6,
                    "{name} {module} {i}: {} {expected}",
                    after.data[i]
                );
            }
        }
    }
}

#[test]
fn alpha_counts_layer_by_layer() {
    let lora = open("sd1_kohya");
    let mut alphas: Vec<f64> = lora.layers.iter().map(|layer| layer.alpha).collect();
    alphas.sort_by(f64::total_cmp);
    alphas.dedup();
    assert_eq!(alphas, [1.0, 2.0, 6.0]); // 2 is also the rank, for layers without
    assert!(open("sd1_peft").layers.iter().all(|layer| layer.alpha == 2.0));
}

#[test]
fn several_add_up_and_a_weight_of_zero_changes_nothing() {
    let (first, second) = (open("sd1_kohya"), open("sd1_peft"));
    let name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight";
    let read = |loras: &[(Arc<Lora>, f64)]| {
        let mut components = components("sd1", &["unet", "text_encoder"]);
        apply_to(loras, &mut components).unwrap();
        components[0].tensors.read_f32(name).unwrap().data
    };
    let plain = read(&[]);
    assert_eq!(read(&[(first.clone(), 0.0)]), plain);
    let (a, b) = (read(&[(first.clone(), 0.8)]), read(&[(second.clone(), -0.6)]));
    for ((both, plain), (a, b)) in read(&[(first, 0.8), (second, -0.6)]).iter().zip(&plain).zip(a.iter().zip(&b)) {
        assert!((both - (a + b - plain)).abs() < 1e-6);
    }
}

#[test]
fn a_lora_for_another_model_names_its_layers() {
    let mut sd1 = components("sd1", &["unet", "text_encoder"]);
    let message = apply_to(&[(open("sdxl_kohya"), 1.0)], &mut sd1).unwrap_err().to_string();
    for part in [
        "sdxl_kohya.safetensors",
        "layers do not fit",
        "`lora_te2_text_model_encoder_layers_1_mlp_fc1`",
        "and ",
        " more",
        "another model",
    ] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    let mut inpaint = components("inpaint", &["unet", "text_encoder"]);
    let message = apply_to(&[(open("sd1_peft"), 1.0)], &mut inpaint).unwrap_err().to_string();
    assert!(message.contains("52 of 52") && message.contains("on a weight ["), "{message}");
}

fn file(tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> Result<Lora> {
    let tensors: Vec<_> =
        tensors.iter().map(|&(name, shape)| (name, HostTensor::from_fn(shape, |i| i as f32 + 1.0))).collect();
    let list: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut bytes = Vec::new();
    safetensors::write(&mut bytes, &list, &metadata).unwrap();
    Lora::from_tensors(Tensors::from_bytes("x.safetensors", bytes).unwrap())
}

#[test]
fn names_and_metadata_of_peft() {
    let tensors: &[(&str, &[usize])] = &[
        ("base_model.model.mid_block.conv.lora_A.default.weight", &[4, 3]),
        ("base_model.model.mid_block.conv.lora_B.default.weight", &[5, 4]),
        ("up_blocks.0.attn1.processor.to_q_lora.down.weight", &[4, 3]),
        ("up_blocks.0.attn1.processor.to_q_lora.up.weight", &[5, 4]),
        ("text_encoder.a.lora.down.weight", &[2, 3]),
        ("text_encoder.a.lora.up.weight", &[5, 2]),
    ];
    let settings =
        r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"mid_block.conv": 2}, "text_encoder.lora_alpha": null}"#;
    let lora = file(tensors, &[("lora_adapter_metadata", settings)]).unwrap();
    let found: Vec<_> = lora.layers.iter().map(|layer| (layer.component, layer.module.as_str(), layer.alpha)).collect();
    assert_eq!(
        found,
        [("unet", "mid_block_conv", 2.0), ("text_encoder", "a", 2.0), ("unet", "up_blocks_0_attn1_to_q", 8.0)]
    );
    let refused = file(tensors, &[("lora_adapter_metadata", r#"{"unet.use_rslora": true}"#)]).unwrap_err().to_string();
    assert!(refused.contains("`unet.use_rslora`"), "{refused}");
}

#[test]
fn damaged_files_are_refused() {
    let says = |tensors: &[(&str, &[usize])], parts: &[&str]| {
        let message = file(tensors, &[]).unwrap_err().to_string();
        for part in ["x.safetensors"].iter().chain(parts) {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    };
    says(&[], &["the file is empty"]);
    says(&[("lora_unet_a.lora_down.weight", &[2, 3])], &["make no pair: `lora_unet_a`"]);
    says(
        &[("lora_unet_a.lora_down.weight", &[2, 3]), ("lora_unet_a.lora_up.weight", &[5, 2]), ("what", &[1])],
        &["make no pair: `what`"],
    );
    says(
        &[("lora_unet_a.lora_down.weight", &[2, 3]), ("lora_unet_a.lora_up.weight", &[5, 3])],
        &["`lora_unet_a`", "[2, 3]", "[5, 3]", "rank"],
    );
    says(&[("lora_unet_a.lora_down.weight", &[]), ("lora_unet_a.lora_up.weight", &[5])], &["rank"]);
    says(&[("lora_unet_a.hada_w1_a", &[2, 3])], &["`lora_unet_a.hada_w1_a`", "not supported"]);
    says(
        &[
            ("lora_unet_a.lora_down.weight", &[2, 3]),
            ("lora_unet_a.lora_up.weight", &[5, 2]),
            ("lora_unet_a.alpha", &[2]),
        ],
        &["`lora_unet_a` should be one number", "[2]"],
    );
}
