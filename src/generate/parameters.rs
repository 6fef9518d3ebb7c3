//! The settings as text, in the form that AUTOMATIC1111's web UI puts into pictures and many programs read.
//!
//! A line of settings, `Name: value` with commas between them; before it the negative prompt, which begins with
//! `Negative prompt:`, and before that the prompt. Readers take the first line that begins so for the negative prompt,
//! and read brackets in prompts as weights. What was text here must stay text for them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::model::split;
use super::record::{Files, Record};
use crate::request::Rng;
use crate::schedulers::{SchedulerConfig, sampler_of};

/// Prompt, `Negative prompt: …` and one line of settings of one picture of several; without one, of the first, as the
/// web UI has it for grids. `size` is columns and rows.
///
/// The model hash is the web UI's, the first ten digits of the file's sha256. A folder takes it from the U-Net's
/// weights, several shards from all their sha256's digits one after the other.
pub fn parameters(record: &Record, picture: Option<usize>, size: (usize, usize)) -> String {
    let options = &record.options;
    let pictures = options.pictures();
    let index = picture.unwrap_or(0);
    let config = SchedulerConfig::from_json(&record.scheduler.to_string());
    let own_name = record.scheduler["_class_name"].as_str().unwrap_or_default();
    let (sampler, schedule): (&str, _) = config.as_ref().map_or((own_name, None), |config| sampler_of(config));
    let number = |number: Option<f64>| number.map(|number| number.to_string());
    let file_name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let loras: Vec<Network> = options.lora.iter().map(|lora| Network::of_lora(lora)).collect();
    let words: Vec<Network> = options.embedding.iter().map(|word| Network::of_word(word, record)).collect();

    let mut parts = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        parts.extend(value.map(|value| format!("{name}: {}", quoted(&value))));
    };
    add("Steps", Some(options.steps.unwrap_or(options.timesteps.len()).to_string()));
    add("Sampler", Some(sampler.to_owned()));
    add("Schedule type", schedule.map(str::to_owned));
    add("CFG scale", number(of(&options.guidance_scale, index, pictures).copied()));
    add("Seed", of(&options.seed, index, pictures).map(u64::to_string));
    add("Size", Some(format!("{}x{}", size.0, size.1)));
    add("Model hash", model_hash(&record.files));
    add("Model", options.model.as_deref().map(model_name));
    add("VAE", options.vae.as_ref().and_then(file_name));
    // Classes take turns.
    let class = (!options.class.is_empty()).then(|| options.class[index % options.class.len()]);
    add("Class", class.map(|class| class.to_string()));
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
    add("Lora hashes", hashes(&loras));
    add("TI hashes", hashes(&words));
    add("Batch size", Some(pictures.to_string()).filter(|_| pictures > 1));
    add("Batch pos", picture.map(|i| i.to_string()));
    // PyTorch's generator of CUDA devices, on any device.
    add("RNG", Some(if options.rng == Some(Rng::TorchCuda) { "NV" } else { "CPU" }.to_owned()));
    add("Precision", Some(options.precision.unwrap_or_default().dtype().name().to_owned()));
    add("Version", Some(record.version.clone()));

    let text = |list: &[String]| {
        of(list, index, pictures).map(|prompt| if options.weighting { prompt.clone() } else { escaped(prompt) })
    };
    let prompt = text(&options.prompt).map(|prompt| lines(&prompt)).unwrap_or_default();
    let tags: String = loras.iter().map(|lora| format!(" <lora:{}:{}>", lora.name, lora.scales)).collect();
    let mut all = vec![format!("{prompt}{tags}").trim().to_owned()];
    let negative = text(&options.negative_prompt).filter(|prompt| !prompt.trim().is_empty());
    all.extend(negative.map(|prompt| format!("Negative prompt: {}", lines(prompt.trim()))));
    all.push(parts.join(", "));
    all.retain(|line| !line.is_empty());
    all.join("\n")
}

/// A picture's entry of a list that has one entry for all, one for each prompt or one for each picture.
fn of<T>(list: &[T], picture: usize, pictures: usize) -> Option<&T> {
    list.get(picture * list.len() / pictures.max(1))
}

/// Text that the web UI's reader of prompts takes for text, not for weights, breaks or networks. The text encoders know
/// no capitals, and split words at brackets anyway: they see the same.
fn escaped(prompt: &str) -> String {
    let mut text = String::new();
    for c in prompt.chars() {
        if matches!(c, '\\' | '(' | ')' | '[' | ']') {
            text.push('\\');
        }
        text.push(c);
    }
    for (word, other) in [("BREAK", "break"), ("AND", "and")] {
        text = with_word(&text, word, other);
    }
    ["lora", "lyco", "hypernet"]
        .iter()
        .fold(text, |text, kind| text.replace(&format!("<{kind}:"), &format!("< {kind}:")))
}

/// `text` with `other` for a word that stands by itself.
pub fn with_word(text: &str, word: &str, other: &str) -> String {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut result, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let joined = before.ends_with(part_of_word) || after.starts_with(part_of_word);
        result += before;
        result += if joined { word } else { other };
        rest = after;
    }
    result + rest
}

/// No line of a prompt begins as the parts behind it do. The text encoders know no capitals.
fn lines(prompt: &str) -> String {
    let line = |line: &str| {
        let text = line.trim_start();
        match ["Negative prompt:", "Steps:"].iter().find(|begin| text.starts_with(**begin)) {
            Some(begin) => format!("{}{}", begin.to_lowercase(), &text[begin.len()..]),
            None => line.to_owned(),
        }
    };
    prompt.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// A LoRA or a textual inversion, as the web UI writes it down.
struct Network {
    name: String,
    scales: String,
    hash: Option<String>,
}

impl Network {
    fn of_lora(value: &str) -> Self {
        let (path, scales) = split(value);
        let scales = match scales.map(|scales| scales.split_once(':').ok_or(scales)) {
            None => "1".to_owned(),
            Some(Err(both)) => both.to_owned(),
            // The web UI has the text encoder's first.
            Some(Ok((unet, text))) => format!("{text}:{unet}"),
        };
        Self { name: network_name(path), scales, hash: content_hash(path).ok() }
    }

    fn of_word(value: &str, record: &Record) -> Self {
        let (path, word) = split(value);
        let files = record.files.get("embedding");
        let hash = files.and_then(|files| files.get(&path.display().to_string())).cloned();
        Self { name: word.map_or_else(|| network_name(path), str::to_owned), scales: String::new(), hash }
    }
}

/// A file's name without its ending, as it may stand between `<`, `:` and `>`.
fn network_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().replace([':', '<', '>'], "_")
}

/// `name: hash` with commas between them, of those of which a hash is known.
fn hashes(networks: &[Network]) -> Option<String> {
    let digits = |hash: &String| hash[..12.min(hash.len())].to_owned();
    let known = networks.iter().filter_map(|network| Some((&network.name, digits(network.hash.as_ref()?))));
    let all: Vec<String> = known.map(|(name, hash)| format!("{name}: {hash}")).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// The sha256 of a safetensors file behind its header: what the web UI and Civitai know a LoRA by, since its header
/// changes when someone edits its description.
fn content_hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let behind = u64::from_le_bytes(length).checked_add(8).ok_or(io::ErrorKind::InvalidData)?;
    file.seek(SeekFrom::Start(behind))?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The name of a folder (which may hold a dot), or of a file without `.safetensors` or `.gguf`.
fn model_name(path: &Path) -> String {
    let file = path.extension().is_some_and(|end| end == "safetensors" || end == "gguf");
    let name = if file { path.file_stem() } else { path.file_name() };
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// Text with a comma, colon or line break is written as a JSON string, as in the web UI; and what looks like one.
fn quoted(text: &str) -> String {
    if text.contains([',', ':', '\n', '"']) { serde_json::Value::from(text).to_string() } else { text.to_owned() }
}

/// The hash that the web UI would call the model by.
pub fn model_hash(files: &Files) -> Option<String> {
    let files = files.get("model")?;
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

    fn record(options: Request) -> Record {
        Record {
            version: "unmist 0".into(),
            device: "a GPU".into(),
            tuned: None,
            options,
            scheduler: serde_json::json!({
                "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "use_karras_sigmas": true
            }),
            refiner_scheduler: None,
            files: [("model".into(), [("fox-1.5.safetensors".into(), "0123456789abcdef".into())].into())].into(),
        }
    }

    #[test]
    fn the_line_is_that_of_the_web_ui() {
        let options = Request {
            prompt: vec!["a fox\nin the forest".into()],
            negative_prompt: vec!["fog".into()],
            model: Some("models/fox-1.5.safetensors".into()),
            scheduler: Some("dpmpp_2m karras".into()),
            lora: vec!["no/a.safetensors:0.5".into(), "no/b.safetensors:0.5:0.25".into()],
            guidance_scale: vec![7.5],
            steps: Some(50),
            clip_skip: Some(1),
            seed: vec![0],
            ..Request::default()
        };
        let mut record = record(options);
        assert_eq!(
            parameters(&record, None, (64, 48)),
            "a fox\nin the forest <lora:a:0.5> <lora:b:0.25:0.5>\nNegative prompt: fog\nSteps: 50, Sampler: DPM++ 2M, \
            Schedule type: Karras, CFG scale: 7.5, Seed: 0, Size: 64x48, Model hash: 0123456789, Model: fox-1.5, \
            Clip skip: 2, RNG: CPU, Precision: f32, Version: unmist 0"
        );
        record.files = [(
            "model".into(),
            [
                ("unet/config.json".into(), "f".repeat(64)),
                ("unet/diffusion_pytorch_model.safetensors".into(), "abcdefabcdefabcdef".into()),
                ("vae/diffusion_pytorch_model.safetensors".into(), "e".repeat(64)),
            ]
            .into(),
        )]
        .into();
        record.options.prompt = vec!["a".into(), "b".into()];
        record.options.lora.clear();
        (record.options.batch_size, record.options.seed) = (Some(2), vec![1, 2, 3, 4]);
        let third = parameters(&record, Some(2), (64, 48));
        assert!(third.starts_with("b\nNegative prompt: fog\nSteps: 50,") && third.contains("Seed: 3,"), "{third}");
        let grid = parameters(&record, None, (64, 48));
        assert!(grid.starts_with("a\nNegative prompt: fog\nSteps: 50,") && grid.contains("Seed: 1,"), "{grid}");
        assert!(grid.contains("Model hash: abcdefabcd,"));
    }

    #[test]
    fn what_is_text_stays_text() {
        for (prompt, expected) in [
            (r"a (fox:1.3) [at] night", r"a \(fox:1.3\) \[at\] night"),
            (r"a \ b", r"a \\ b"),
            ("BREAK and AND, BREAKFAST BRAND AND_", "break and and, BREAKFAST BRAND AND_"),
            ("<lora:x:1>", "< lora:x:1>"),
        ] {
            assert_eq!(escaped(prompt), expected);
        }
        let options = Request {
            prompt: vec!["Negative prompt: (none)\n  Steps: 3, up: 1, to: 2".into()],
            negative_prompt: vec!["fog\nNegative prompt: twice".into()],
            ..Request::default()
        };
        let mut record = record(options);
        let text = parameters(&record, None, (8, 8));
        let prompts =
            "negative prompt: \\(none\\)\nsteps: 3, up: 1, to: 2\nNegative prompt: fog\nnegative prompt: twice\n";
        assert!(text.starts_with(prompts), "{text}");
        record.options.weighting = true;
        assert!(parameters(&record, None, (8, 8)).starts_with("negative prompt: (none)\n"));
    }

    #[test]
    fn names_are_quoted_where_readers_would_stumble() {
        for (name, expected) in [("a", "a"), ("a, b", r#""a, b""#), ("a:b", r#""a:b""#), (r#""a""#, r#""\"a\"""#)] {
            assert_eq!(quoted(name), expected);
        }
    }
}
