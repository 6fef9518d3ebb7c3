//! LoRA files of `tests/fixtures/lora` (made by `tools/fixtures/lora.py`) on the models they are for, and damaged ones.

use std::path::PathBuf;

use super::*;
use crate::checkpoint::{Folder, Json, safetensors};
use crate::files::Memory;

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
    let loras: Vec<_> = loras.iter().map(|(lora, scale)| (lora.clone(), Scales::from(*scale))).collect();
    apply(&loras, &mut components.iter_mut().collect::<Vec<_>>(), &Ignore::default())
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
            let [down, up] = [Role::Down, Role::Up].map(|role| lora.file.read_f32(&layer.parts[&role]).unwrap());
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
                let expected = f64::from(before.data[i]) + 0.75 * layer.scale * product;
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
    let mut scales: Vec<f64> = lora.layers.iter().map(|layer| layer.scale).collect();
    scales.sort_by(f64::total_cmp);
    scales.dedup();
    assert_eq!(scales, [0.5, 1.0, 3.0]); // the rank is 2, which is also the alpha of layers without
    assert!(open("sd1_peft").layers.iter().all(|layer| layer.scale == 1.0));
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
    assert!(message.contains("52 of 52") && message.contains("on a parameter ["), "{message}");
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
    let found = |lora: &Lora| -> Vec<_> {
        lora.layers.iter().map(|layer| (layer.component, layer.module.clone(), layer.scale)).collect()
    };
    let expected = |conv, a, q| {
        [("unet", "mid_block_conv", conv), ("text_encoder", "a", a), ("unet", "up_blocks_0_attn1_to_q", q)]
            .map(|(component, module, scale)| (component, module.to_owned(), scale))
    };
    assert_eq!(found(&lora), expected(0.5, 1.0, 2.0));
    // alpha / √r
    let settings = r#"{"unet.use_rslora": true, "unet.lora_alpha": 3}"#;
    let lora = file(tensors, &[("lora_adapter_metadata", settings)]).unwrap();
    assert_eq!(found(&lora), expected(1.5, 1.0, 1.5));
    // kohya's alpha for the whole file
    let lora = file(tensors, &[("ss_network_alpha", "1.0")]).unwrap();
    assert_eq!(found(&lora), expected(0.25, 0.5, 0.25));
    for (settings, part) in [
        (r#"{"unet.peft_type": "LOHA"}"#, "`LOHA`"),
        (r#"{"unet.alpha_pattern": {"to_.*": 2}}"#, "`to_.*`"),
        (r#"{"unet.lora_alpha": "many"}"#, "expected a number"),
    ] {
        let message = file(tensors, &[("lora_adapter_metadata", settings)]).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
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
    says(&[("lora_unet_a.hada_w1_a", &[2, 3])], &["make no pair: `lora_unet_a`"]);
    says(&[("lora_unet_a.oft_blocks", &[2, 3])], &["`lora_unet_a.oft_blocks`", "not read"]);
    says(
        &[
            ("lora_unet_a.lora_down.weight", &[2, 3]),
            ("lora_unet_a.lora_up.weight", &[5, 2]),
            ("lora_unet_a.alpha", &[2]),
        ],
        &["`lora_unet_a` should be one number", "[2]"],
    );
}

/// A small U-Net's component with one convolution, one matrix and one norm.
fn small() -> Component {
    let tensor =
        |shape: &[usize], seed: usize| HostTensor::from_fn(shape, |i| ((i * 7 + seed) % 11) as f32 / 5.0 - 1.0);
    let tensors: HashMap<String, HostTensor> = [
        ("conv.weight", tensor(&[4, 6, 3, 3], 1)),
        ("conv.bias", tensor(&[4], 2)),
        ("to_q.weight", tensor(&[4, 6], 3)),
        ("norm.weight", tensor(&[4], 4)),
        ("norm.bias", tensor(&[4], 5)),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into();
    let config = Json::parse("config.json", "{}".into()).unwrap();
    Component { name: "unet".into(), class_name: None, config, tensors: Arc::new(tensors), ignore: Arc::default() }
}

/// The parameter `name` of [`small`] with an adapter of these tensors, and the tensors.
fn merged(name: &str, tensors: &[(&str, &[usize])], scale: f64) -> Result<(Vec<f64>, Vec<f64>, Arc<Lora>)> {
    let lora = Arc::new(file(tensors, &[])?);
    let mut component = small();
    let before = component.tensors.read_f32(name).unwrap();
    apply(&[(lora.clone(), scale.into())], &mut [&mut component], &Ignore::default())?;
    let wide = |tensor: HostTensor| tensor.data.into_iter().map(f64::from).collect();
    Ok((wide(before), wide(component.tensors.read_f32(name)?), lora))
}

/// Element `i` of a tensor of [`file`]: i + 1.
fn v(i: usize) -> f64 {
    i as f64 + 1.0
}

/// Each form of ΔW, written out index by index from its definition.
#[test]
fn every_form_adds_what_its_formula_says() {
    let check = |name: &str, tensors: &[(&str, &[usize])], factor: f64, delta: &dyn Fn(usize, usize, usize) -> f64| {
        let (before, after, _) = merged(name, tensors, 0.5).unwrap_or_else(|e| panic!("{tensors:?}: {e}"));
        let kernel = before.len() / 24;
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            let expected = before + 0.5 * factor * delta(i / (6 * kernel), i / kernel % 6, i % kernel);
            assert!((after - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{tensors:?} {i}: {after} {expected}");
        }
    };
    // LoCon with a core: W[o, c, k] = Σ_pq up[o, p] core[p, q, k] down[q, c]; alpha / r = 1 / 2.
    let core: &[(&str, &[usize])] = &[
        ("lora_unet_conv.lora_up.weight", &[4, 2, 1, 1]),
        ("lora_unet_conv.lora_down.weight", &[2, 6, 1, 1]),
        ("lora_unet_conv.lora_mid.weight", &[2, 2, 3, 3]),
        ("lora_unet_conv.alpha", &[]),
    ];
    check("conv.weight", core, 0.5, &|o, c, k| {
        let term = |p: usize, q: usize| v(o * 2 + p) * v((p * 2 + q) * 9 + k) * v(q * 6 + c);
        term(0, 0) + term(0, 1) + term(1, 0) + term(1, 1)
    });
    // LoHa
    let product = |o: usize, j: usize, columns: usize| (0..2).map(|r| v(o * 2 + r) * v(r * columns + j)).sum::<f64>();
    let hada: &[(&str, &[usize])] = &[
        ("lora_unet_conv.hada_w1_a", &[4, 2]),
        ("lora_unet_conv.hada_w1_b", &[2, 54]),
        ("lora_unet_conv.hada_w2_a", &[4, 2]),
        ("lora_unet_conv.hada_w2_b", &[2, 54]),
        ("lora_unet_conv.alpha", &[]),
    ];
    check("conv.weight", hada, 0.5, &|o, c, k| product(o, c * 9 + k, 54).powi(2));
    let hada_core: &[(&str, &[usize])] = &[
        ("lora_unet_conv.hada_w1_a", &[2, 4]),
        ("lora_unet_conv.hada_w1_b", &[2, 6]),
        ("lora_unet_conv.hada_t1", &[2, 2, 3, 3]),
        ("lora_unet_conv.hada_w2_a", &[2, 4]),
        ("lora_unet_conv.hada_w2_b", &[2, 6]),
        ("lora_unet_conv.hada_t2", &[2, 2, 3, 3]),
    ];
    check("conv.weight", hada_core, 1.0, &|o, c, k| {
        let term = |i: usize, j: usize| v((i * 2 + j) * 9 + k) * v(j * 6 + c) * v(i * 4 + o);
        (term(0, 0) + term(0, 1) + term(1, 0) + term(1, 1)).powi(2)
    });
    // LoKr: whole factors, where alpha does not count; a factor in two parts; one with a core.
    let whole: &[(&str, &[usize])] =
        &[("lora_unet_to_q.lokr_w1", &[2, 3]), ("lora_unet_to_q.lokr_w2", &[2, 2]), ("lora_unet_to_q.alpha", &[])];
    check("to_q.weight", whole, 1.0, &|o, c, _| v(o / 2 * 3 + c / 2) * v(o % 2 * 2 + c % 2));
    let halves: &[(&str, &[usize])] = &[
        ("lora_unet_conv.lokr_w1", &[2, 3]),
        ("lora_unet_conv.lokr_w2_a", &[2, 2]),
        ("lora_unet_conv.lokr_w2_b", &[2, 18]),
        ("lora_unet_conv.alpha", &[]),
    ];
    check("conv.weight", halves, 0.5, &|o, c, k| v(o / 2 * 3 + c / 2) * product(o % 2, c % 2 * 9 + k, 18));
    let cored: &[(&str, &[usize])] = &[
        ("lora_unet_conv.lokr_w1_a", &[2, 2]),
        ("lora_unet_conv.lokr_w1_b", &[2, 3]),
        ("lora_unet_conv.lokr_w2_a", &[2, 2]),
        ("lora_unet_conv.lokr_w2_b", &[2, 2]),
        ("lora_unet_conv.lokr_t2", &[2, 2, 3, 3]),
    ];
    check("conv.weight", cored, 1.0, &|o, c, k| {
        let term = |i: usize, j: usize| v((i * 2 + j) * 9 + k) * v(j * 2 + c % 2) * v(i * 2 + o % 2);
        product(o / 2, c / 2, 3) * (term(0, 0) + term(0, 1) + term(1, 0) + term(1, 1))
    });
    check("conv.weight", &[("lora_unet_conv.diff", &[4, 6, 3, 3])], 1.0, &|o, c, k| v((o * 6 + c) * 9 + k));
}

#[test]
fn biases_and_norms_change_too() {
    for (name, tensors) in [
        ("conv.bias", &[("lora_unet_conv.diff", &[4, 6, 3, 3][..]), ("lora_unet_conv.diff_b", &[4][..])][..]),
        ("norm.weight", &[("lora_unet_norm.w_norm", &[4][..]), ("lora_unet_norm.b_norm", &[4][..])][..]),
        ("norm.bias", &[("lora_unet_norm.w_norm", &[4][..]), ("lora_unet_norm.b_norm", &[4][..])][..]),
    ] {
        let (before, after, _) = merged(name, tensors, 0.25).unwrap();
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!((after - (before + 0.25 * v(i))).abs() < 1e-6, "{name} {i}");
        }
    }
}

/// DoRA by output (LyCORIS today, PEFT) and by input (LyCORIS' first version).
#[test]
fn rows_or_columns_get_their_magnitudes() {
    for (magnitude, shape, by_output) in [
        ("lora_unet_to_q.dora_scale", &[4, 1][..], true),
        ("lora_unet_to_q.lora_magnitude_vector.default.weight", &[4][..], true),
        ("lora_unet_to_q.dora_scale", &[1, 6][..], false),
    ] {
        let tensors: &[(&str, &[usize])] = &[
            ("lora_unet_to_q.lora_down.weight", &[2, 6]),
            ("lora_unet_to_q.lora_up.weight", &[4, 2]),
            (magnitude, shape),
        ];
        for scale in [1.0, 0.3] {
            let (before, after, _) = merged("to_q.weight", tensors, scale).unwrap();
            let delta = |i: usize| (0..2).map(|r| v(i / 6 * 2 + r) * v(r * 6 + i % 6)).sum::<f64>();
            let changed: Vec<f64> = before.iter().enumerate().map(|(i, w)| w + delta(i)).collect();
            let group = |i: usize| if by_output { i / 6 } else { i % 6 };
            for i in 0..24 {
                let norm = (0..24).filter(|j| group(*j) == group(i)).map(|j| changed[j].powi(2)).sum::<f64>().sqrt();
                let expected = before[i] + scale * (changed[i] * v(group(i)) / norm - before[i]);
                assert!((after[i] - expected).abs() < 1e-6, "{magnitude} {shape:?} {i}: {} {expected}", after[i]);
            }
        }
    }
    let tensors: &[(&str, &[usize])] = &[
        ("lora_unet_to_q.lora_down.weight", &[2, 6]),
        ("lora_unet_to_q.lora_up.weight", &[4, 2]),
        ("lora_unet_to_q.dora_scale", &[5, 1]),
    ];
    let message = merged("to_q.weight", tensors, 1.0).unwrap_err().to_string();
    assert!(message.contains("5 magnitudes") && message.contains("[4, 6]"), "{message}");
}

#[test]
fn parts_that_do_not_make_the_weight_are_refused() {
    for tensors in [
        &[("lora_unet_to_q.lokr_w1", &[2, 3][..]), ("lora_unet_to_q.lokr_w2", &[3, 2][..])][..],
        &[
            ("lora_unet_to_q.hada_w1_a", &[4, 2][..]),
            ("lora_unet_to_q.hada_w1_b", &[2, 5][..]),
            ("lora_unet_to_q.hada_w2_a", &[4, 2][..]),
            ("lora_unet_to_q.hada_w2_b", &[2, 5][..]),
        ][..],
        &[("lora_unet_to_q.diff", &[6, 4][..])][..],
        &[("lora_unet_norm.diff_b", &[5][..])][..],
    ] {
        let message = merged("to_q.weight", tensors, 1.0).map(drop).unwrap_err().to_string();
        assert!(message.contains("x.safetensors") && message.contains('['), "{message}");
    }
}

/// The same layer as every program calls it.
#[test]
fn every_dialect_means_the_same_module() {
    for (name, component, module) in [
        ("lora_unet_mid_block_attentions_0_proj_in", "unet", "mid_block_attentions_0_proj_in"),
        ("diffusion_model.middle_block.1.proj_in", "unet", "middle_block_1_proj_in"),
        ("unet.output_blocks.1.1.proj_in", "unet", "output_blocks_1_1_proj_in"),
        ("base_model.model.mid_block.x", "unet", "mid_block_x"),
        ("base_model.model.text_model.encoder.layers.0.x", "text_encoder", "encoder_layers_0_x"),
        ("base_model.model.encoder.layers.0.x", "text_encoder", "encoder_layers_0_x"),
        ("lycoris_encoder_layers_0_x", "text_encoder", "encoder_layers_0_x"),
        ("lycoris_mid_block_x", "unet", "mid_block_x"),
        ("lycoris_unet_mid_block_x", "unet", "mid_block_x"),
        ("text_encoders.clip_l.transformer.text_model.encoder.x", "text_encoder", "encoder_x"),
        ("text_encoders.clip_g.transformer.text_model.encoder.x", "text_encoder_2", "encoder_x"),
        ("clip_l.text_model.encoder.x", "text_encoder", "encoder_x"),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.to_out",
            "text_encoder",
            "encoder_layers_0_self_attn_out_proj",
        ),
        ("up_blocks.0.attn1.processor.to_out", "unet", "up_blocks_0_attn1_to_out_0"),
    ] {
        assert_eq!(names::place(name), (component, module.to_owned()), "{name}");
    }
    for (name, layer, role) in [
        ("x.lora_A.default_0.weight", "x", Role::Down),
        ("x.lora_B.weight", "x", Role::Up),
        ("x.self_attn.to_q_lora.up.weight", "x.self_attn.to_q", Role::Up),
        ("x.lora_magnitude_vector.a.weight", "x", Role::OutputMagnitude),
    ] {
        assert_eq!(names::role(name), Some((layer, role)), "{name}");
    }
}

#[test]
fn words_come_along() {
    let tensors: &[(&str, &[usize])] = &[
        ("lora_unet_to_q.lora_down.weight", &[2, 6]),
        ("lora_unet_to_q.lora_up.weight", &[4, 2]),
        ("bundle_emb.my style.emb_params", &[2, 64]),
        ("bundle_emb.other.clip_l", &[1, 64]),
        ("bundle_emb.other.clip_g", &[1, 80]),
    ];
    let lora = file(tensors, &[]).unwrap();
    let words: Vec<_> = lora.embeddings().iter().map(TextualInversion::word).collect();
    assert_eq!(words, ["my style", "other"]);
}

#[test]
fn a_folder_of_peft_is_a_lora() {
    let settings = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "use_rslora": false}"#;
    let mut files = Memory::default();
    files.insert("style/adapter_config.json", settings.as_bytes().to_vec());
    let message = Lora::open_in(&files, "style").unwrap_err().to_string();
    assert!(message.contains("adapter_model.safetensors"), "{message}");
    let (down, up) = (HostTensor::zeros([2, 6]), HostTensor::zeros([4, 2]));
    let list = [("base_model.model.to_q.lora_A.weight", &down), ("base_model.model.to_q.lora_B.weight", &up)];
    let mut bytes = Vec::new();
    safetensors::write(&mut bytes, &list, &BTreeMap::new()).unwrap();
    files.insert("style/adapter_model.safetensors", bytes);
    for path in ["style", "style/adapter_model.safetensors"] {
        assert_eq!(Lora::open_in(&files, path).unwrap().layers[0].scale, 3.0, "{path}");
    }
}
