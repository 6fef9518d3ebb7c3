//! The settings as text, in the form that AUTOMATIC1111's web UI puts into pictures and many programs read.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::record::Record;
use crate::request::Rng;

/// Prompt, `Negative prompt: …` and one line of settings, of one picture of several or of all; `size` is columns and
/// rows.
///
/// The model hash is the web UI's, the first ten digits of the file's sha256. A folder takes it from the U-Net's
/// weights, several shards from all their sha256's digits one after the other.
pub fn parameters(record: &Record, picture: Option<usize>, size: (usize, usize)) -> String {
    let options = &record.options;
    let pictures = options.pictures();
    let sampler = options.scheduler.as_deref().or(record.scheduler["_class_name"].as_str()).unwrap_or_default();
    let mut parts = vec![
        format!("Steps: {}", options.steps.unwrap_or_default()),
        format!("Sampler: {}", quoted(sampler)),
        format!("CFG scale: {}", list(&of(&options.guidance_scale, picture, pictures))),
        format!("Seed: {}", list(&of(&options.seed, picture, pictures))),
        format!("Size: {}x{}", size.0, size.1),
    ];
    let mut add = |name: &str, value: Option<String>| parts.extend(value.map(|value| format!("{name}: {value}")));
    let number = |number: Option<f64>| number.map(|number| number.to_string());
    let file_name = |path: &PathBuf| path.file_name().map(|name| quoted(&name.to_string_lossy()));
    add("Model hash", model_hash(record));
    add("Model", options.model.as_deref().map(model_name));
    add("Class", Some(list(&options.class)).filter(|classes| !classes.is_empty()));
    add("Denoising strength", number(options.strength));
    add("Mask", options.mask.as_ref().and_then(file_name));
    add("Noise level", options.noise_level.map(|level| level.to_string()));
    add("Eta", number(options.eta.filter(|eta| *eta != 0.0)));
    // The web UI counts from 1, the last layer.
    add("Clip skip", options.clip_skip.filter(|layers| *layers > 0).map(|layers| (layers + 1).to_string()));
    add("CFG Rescale", number(options.guidance_rescale));
    add("Image CFG scale", number(options.image_guidance_scale));
    add("Refiner", options.refiner.as_deref().map(model_name));
    add("Refiner switch at", number(options.denoising_end.filter(|_| options.refiner.is_some())));
    add("Lora", Some(quoted(&options.lora.join(", "))).filter(|_| !options.lora.is_empty()));
    add("TI", Some(quoted(&options.embedding.join(", "))).filter(|_| !options.embedding.is_empty()));
    add("Batch size", Some(pictures.to_string()).filter(|_| pictures > 1));
    add("Batch pos", picture.map(|i| i.to_string()));
    add("RNG", Some(if options.rng == Some(Rng::TorchCuda) { "GPU" } else { "CPU" }.to_owned()));
    add("Precision", Some(options.precision.unwrap_or_default().dtype().name().to_owned()));
    add("Version", Some(record.version.clone()));
    let mut lines = of(&options.prompt, picture, pictures);
    let negative = of(&options.negative_prompt, picture, pictures);
    lines.extend(negative.into_iter().map(|text| format!("Negative prompt: {text}")));
    lines.push(parts.join(", "));
    lines.join("\n")
}

/// One picture's entry of a list that has one entry for all, one for each prompt or one for each picture; the whole
/// list if no picture is given.
fn of<T: Clone>(list: &[T], picture: Option<usize>, pictures: usize) -> Vec<T> {
    match picture {
        Some(i) if !list.is_empty() => vec![list[i * list.len() / pictures].clone()],
        _ => list.to_vec(),
    }
}

/// The name of a folder (which may hold a dot), or of a file without `.safetensors` or `.gguf`.
fn model_name(path: &Path) -> String {
    let file = path.extension().is_some_and(|end| end == "safetensors" || end == "gguf");
    let name = if file { path.file_stem() } else { path.file_name() };
    quoted(&name.unwrap_or_default().to_string_lossy())
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
    use crate::request::Request;

    #[test]
    fn the_line_is_that_of_the_web_ui() {
        let options = Request {
            prompt: vec!["a fox\nin the forest".into()],
            negative_prompt: vec!["fog".into()],
            model: Some("models/fox-1.5.safetensors".into()),
            scheduler: Some("DPM++ 2M Karras".into()),
            lora: vec!["a.safetensors:0.5".into(), "b.safetensors".into()],
            guidance_scale: vec![7.5],
            steps: Some(50),
            clip_skip: Some(1),
            seed: vec![0],
            ..Request::default()
        };
        let record = Record {
            version: "unmist 0".into(),
            device: "a GPU".into(),
            options,
            scheduler: serde_json::json!({"_class_name": "PNDMScheduler"}),
            refiner_scheduler: None,
            files: [("model".into(), [("fox-1.5.safetensors".into(), "0123456789abcdef".into())].into())].into(),
        };
        assert_eq!(
            parameters(&record, None, (64, 48)),
            "a fox\nin the forest\nNegative prompt: fog\nSteps: 50, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 0, \
            Size: 64x48, Model hash: 0123456789, Model: fox-1.5, Clip skip: 2, Lora: \"a.safetensors:0.5, \
            b.safetensors\", RNG: CPU, Precision: f32, Version: unmist 0"
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
        folder.options.prompt = vec!["a".into(), "b".into()];
        (folder.options.batch_size, folder.options.seed) = (Some(2), vec![1, 2, 3, 4]);
        let third = parameters(&folder, Some(2), (64, 48));
        assert!(third.starts_with("b\nNegative prompt: fog\nSteps: 50,") && third.contains("Seed: 3,"), "{third}");
        assert!(parameters(&folder, None, (64, 48)).contains("Model hash: abcdefabcd,"));
    }
}
