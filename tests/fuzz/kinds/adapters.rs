//! LoRAs with their settings, and textual inversions, as far as the model that they change.

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::{Value, json};
use unmist::checkpoint::{Component, Folder, Ignore, Lora, Tensors, TextualInversion, lora};
use unmist::files::Memory;
use unmist::tokenizer::{Padding, Tokenizer};
use unmist::{HostTensor, Result};

use super::{Kind, bytes_of, fixture, safetensors, split_safetensors};
use crate::random::{Random, mutated_text};
use crate::{json, random};

pub fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for (name, file, model) in [
        ("kohya", "lora/sd1_kohya.safetensors", "sd1"),
        ("peft", "lora/sd1_peft.safetensors", "sd1"),
        ("processor", "lora/sd1_processor.safetensors", "sd1"),
        ("kohya-xl", "lora/sdxl_kohya.safetensors", "sdxl"),
    ] {
        let components = Arc::new(components(model));
        let (bytes, target) = (bytes_of(file), components.clone());
        kinds.push(Kind::new(
            format!("lora/{name}"),
            3,
            move |random| change_lora(&bytes, random),
            move |bytes| apply(Lora::from_tensors(Tensors::from_bytes("x.safetensors", bytes)?)?, &target),
        ));
        let file = bytes_of(file);
        let (header, data) = split_safetensors(&file);
        let data = data.to_vec();
        let make = move |random: &mut Random| safetensors(&json::mutated(&header, random), &data);
        let read =
            move |bytes: Vec<u8>| apply(Lora::from_tensors(Tensors::from_bytes("x.safetensors", bytes)?)?, &components);
        // Hundreds of tensors: a header with a change in it is hardly ever sound.
        kinds.push(Kind::new(format!("lora-header/{name}"), 2, make, read).expecting(0, 10));
    }
    kinds.push(settings());
    for name in ["embedding_xl", "embedding_webui", "embedding_diffusers"] {
        let file = bytes_of(&format!("lora/{name}.safetensors"));
        let (header, data) = split_safetensors(&file);
        let data = data.to_vec();
        let encoders = components("sdxl");
        let tokenizer = Tokenizer::clip(Padding::End);
        let make = move |random: &mut Random| safetensors(&json::mutated(&header, random), &data);
        kinds.push(Kind::new(format!("embedding/{name}"), 4, make, move |bytes| {
            let embedding = TextualInversion::from_tensors(&Tensors::from_bytes("x.safetensors", bytes)?, None)?;
            let mut encoder = encoders[1].clone();
            // The tiny encoder has fewer rows than CLIP has tokens; with as many, the vectors are added.
            encoder.tensors = Arc::new(std::collections::HashMap::from([(
                "embeddings.token_embedding.weight".to_owned(),
                HostTensor::zeros([49408, 4]),
            )]));
            let fits = embedding.apply(&mut encoder, &mut tokenizer.clone());
            let message = fits.map_or_else(|error| error.to_string(), |()| String::new());
            let _ = embedding.apply(&mut encoders[1].clone(), &mut tokenizer.clone());
            assert!(message.is_empty() || message.len() > 20, "{message}");
            Ok(())
        }));
    }
    kinds
}

/// The components of a fixture that LoRAs change.
fn components(model: &str) -> Vec<Component> {
    let folder = Folder::open(fixture(&format!("stable_diffusion/{model}"))).expect("the fixture is there");
    let names = ["unet", "text_encoder", "text_encoder_2"].iter().filter(|name| folder.subfolder(name).is_some());
    names.map(|name| folder.component(name).expect("sound")).collect()
}

/// Merges a LoRA and reads what it changes.
fn apply(lora: Lora, components: &[Component]) -> Result<()> {
    let mut components = components.to_vec();
    lora::apply(&[(lora.into(), 1.0.into())], &mut components.iter_mut().collect::<Vec<_>>(), &Ignore::default())?;
    for component in &components {
        let names = component.tensors.names();
        for name in names.iter().filter(|name| name.contains("attentions") && name.ends_with("weight")).step_by(7) {
            let _ = (component.tensors.read_f32(name)?, component.tensors.content(name)?);
        }
    }
    Ok(())
}

/// A sound file of tensors left out, renamed, reshaped, or of strange numbers.
fn change_lora(file: &[u8], random: &mut Random) -> Vec<u8> {
    let tensors = Tensors::from_bytes("seed.safetensors", file.to_vec()).expect("sound");
    let mut changed: Vec<(String, HostTensor)> =
        tensors.names().map(|name| (name.to_owned(), tensors.read_f32(name).expect("sound"))).collect();
    for _ in 0..1 + random.below(3) {
        let at = random.below(changed.len());
        let (name, tensor) = &mut changed[at];
        match random.below(7) {
            0 => drop(changed.remove(at)),
            1 => *name = mutated_text(name, random),
            2 => tensor.shape = vec![tensor.len(), 1],
            3 => {
                let axis = random.below(tensor.shape.len());
                if let Some(dim) = tensor.shape.get_mut(axis) {
                    *dim = random.below(9);
                    tensor.data.resize(tensor.shape.iter().product(), 1.0);
                }
            }
            4 => tensor.data.fill([f32::NAN, f32::INFINITY, 0.0, 1e30][random.below(4)]),
            5 => {
                let copy = (random::mutated_text(name, random), tensor.clone());
                changed.push(copy);
            }
            _ => {
                let layer = name.split_once(".lora").map_or(name.as_str(), |(layer, _)| layer);
                let part = random.pick(&["alpha", "dora_scale", "lora_mid.weight", "lokr_w1", "hada_w1_a", "diff"]);
                let name = format!("{layer}.{part}");
                changed.push((name, HostTensor { shape: vec![], data: vec![1e9] }));
            }
        }
    }
    changed.sort_by(|a, b| a.0.cmp(&b.0));
    changed.dedup_by(|a, b| a.0 == b.0);
    let list: Vec<_> = changed.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut bytes = Vec::new();
    unmist::checkpoint::safetensors::write(&mut bytes, &list, &Default::default()).expect("written to memory");
    bytes
}

/// PEFT's settings beside a sound LoRA.
fn settings() -> Kind {
    let seed: Value = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": false, "use_dora": false,
        "alpha_pattern": {"to_q": 2}, "rank_pattern": {}, "target_modules": ["to_q", "to_k"], "bias": "none"});
    let weights = bytes_of("lora/sd1_peft.safetensors");
    let files: Memory = [("l/adapter_model.safetensors", weights)].into_iter().collect();
    let files = RefCell::new(files);
    Kind::new(
        "lora-settings",
        3,
        move |random| json::mutated(&seed, random),
        move |bytes| {
            files.borrow_mut().insert("l/adapter_config.json", bytes);
            Lora::open_in(&*files.borrow(), "l/adapter_model.safetensors").map(drop)
        },
    )
}
