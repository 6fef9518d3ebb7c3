//! The settings as text, in the form that AUTOMATIC1111's web UI puts into pictures and many programs read.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::args::Rng;
use super::record::Record;

/// Prompt, `Negative prompt: …` and one line of settings.
///
/// The model hash is that of the web UI, the first ten digits of the file's sha256, for a single file; for a folder it is that of the U-Net's weights,
/// and of several shards that of their sha256's digits one after the other.
pub fn parameters(record: &Record, width: usize, height: usize) -> String {
    let options = &record.options;
    let name = |path: &Path| path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let sampler = options.scheduler.as_deref().or(record.scheduler["_class_name"].as_str()).unwrap_or_default();
    let mut parts = vec![
        format!("Steps: {}", options.steps()),
        format!("Sampler: {}", quoted(sampler)),
        format!("CFG scale: {}", options.guidance_scale.unwrap_or(1.0)),
        format!("Seed: {}", list(&options.seed)),
        format!("Size: {width}x{height}"),
    ];
    if let Some(hash) = model_hash(record) {
        parts.push(format!("Model hash: {hash}"));
    }
    if let Some(model) = &options.model {
        // A folder's name may hold a dot; a file's ends in .safetensors.
        let file = model.extension().is_some_and(|e| e == "safetensors");
        let folder = || model.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        parts.push(format!("Model: {}", quoted(&if file { name(model) } else { folder() })));
    }
    if !options.class.is_empty() {
        parts.push(format!("Class: {}", list(&options.class)));
    }
    if let Some(strength) = options.strength {
        parts.push(format!("Denoising strength: {strength}"));
    }
    if options.eta() != 0.0 {
        parts.push(format!("Eta: {}", options.eta()));
    }
    if options.clip_skip() > 0 {
        parts.push(format!("Clip skip: {}", options.clip_skip() + 1)); // the web UI counts from 1, the last layer
    }
    if !options.lora.is_empty() {
        parts.push(format!("Lora: {}", quoted(&options.lora.join(", "))));
    }
    if !options.embedding.is_empty() {
        parts.push(format!("TI: {}", quoted(&options.embedding.join(", "))));
    }
    if options.batch_size() > 1 {
        parts.push(format!("Batch size: {}", options.batch_size()));
    }
    let rng = if options.rng == Some(Rng::TorchCuda) { "GPU" } else { "CPU" };
    parts.push(format!("RNG: {rng}"));
    parts.push(format!("Precision: {}", options.precision().dtype().name()));
    parts.push(format!("Version: {}", record.version));
    let mut lines = Vec::new();
    lines.extend(options.prompt.clone());
    lines.extend(options.negative_prompt.as_ref().map(|text| format!("Negative prompt: {text}")));
    lines.push(parts.join(", "));
    lines.join("\n")
}

fn list(numbers: &[impl ToString]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Text with a comma, colon or line break is written as a JSON string, as in the web UI.
fn quoted(text: &str) -> String {
    if text.contains([',', ':', '\n']) { serde_json::Value::from(text).to_string() } else { text.to_owned() }
}

fn model_hash(record: &Record) -> Option<String> {
    let files = record.files.get("model")?;
    let weights: Vec<&String> = match files.values().collect::<Vec<_>>().as_slice() {
        [only] => vec![*only],
        _ => files
            .iter()
            .filter(|(name, _)| name.ends_with(".safetensors") && (name.starts_with("unet/") || !name.contains('/')))
            .map(|(_, hash)| hash)
            .collect(),
    };
    let hash = match weights.as_slice() {
        [] => return None,
        [only] => (*only).clone(),
        shards => {
            let mut hasher = Sha256::new();
            shards.iter().for_each(|hash| hasher.update(hash));
            hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
        }
    };
    Some(hash[..10.min(hash.len())].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample::args::Options;

    #[test]
    fn the_line_is_that_of_the_web_ui() {
        let options = Options {
            prompt: Some("a fox\nin the forest".into()),
            negative_prompt: Some("fog".into()),
            model: Some("models/fox-1.5.safetensors".into()),
            scheduler: Some("DPM++ 2M Karras".into()),
            lora: vec!["a.safetensors:0.5".into(), "b.safetensors".into()],
            guidance_scale: Some(7.5),
            clip_skip: Some(1),
            ..Options::default()
        }
        .with_defaults();
        let record = Record {
            version: "unmist 0".into(),
            device: "a GPU".into(),
            options,
            scheduler: serde_json::json!({"_class_name": "PNDMScheduler"}),
            files: [("model".into(), [("fox-1.5.safetensors".into(), "0123456789abcdef".into())].into())].into(),
        };
        assert_eq!(
            parameters(&record, 64, 48),
            "a fox\nin the forest\nNegative prompt: fog\nSteps: 50, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 0, Size: 64x48, \
             Model hash: 0123456789, Model: fox-1.5, Clip skip: 2, Lora: \"a.safetensors:0.5, b.safetensors\", RNG: CPU, Precision: f32, Version: unmist 0"
        );
        let mut folder = record;
        folder.files = [(
            "model".into(),
            [
                ("unet/config.json".into(), "f".repeat(64)),
                ("unet/diffusion_pytorch_model.safetensors".into(), "abcdefabcdefabcdef".into()),
                ("vae/diffusion_pytorch_model.safetensors".into(), "e".repeat(64)),
            ]
            .into(),
        )]
        .into();
        assert!(parameters(&folder, 64, 48).contains("Model hash: abcdefabcd,"));
    }
}
