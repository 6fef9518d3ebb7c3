//! Prompts, the tokenizers that read them, and the settings that a picture remembers.

use std::cell::RefCell;

use serde_json::{Value, json};
use unmist::checkpoint::Json;
use unmist::files::Memory;
use unmist::prompt;
use unmist::request::{Asked, Past, Request};
use unmist::schedulers::SchedulerConfig;
use unmist::tokenizer::{Padding, Tokenizer};
use unmist::{Error, Result};

use super::{Kind, bytes_of, json_of};
use crate::json;
use crate::random::{Random, mutate};

pub fn kinds() -> Vec<Kind> {
    let mut kinds = vec![prompts(), record()];
    kinds.extend(foreign());
    for name in ["vocab.json", "merges.txt", "special_tokens_map.json"] {
        kinds.push(tokenizer_file(name));
    }
    kinds.push(tokenizer_json());
    kinds
}

const PROMPTS: &[&str] = &[
    r"a ((red:1.3) fox), [blurry] \(photo\) BREAK it's 3.5% ünïcödé 🍎 (a:-2) <|endoftext|> b]c) [x",
    "[a red:a blue:0.5] fox, [cat|dog|] on a (mat:0.9) <lora:style:0.8> [:late:10] AND a hat",
    "masterpiece, best quality, ((ultra-detailed)), 8k, hdr, (eyes:1.2)",
];

fn prompts() -> Kind {
    let make = |random: &mut Random| {
        let mut bytes = random.pick(PROMPTS).as_bytes().to_vec();
        match random.below(12) {
            // Deep, and long.
            0 => {
                let times = 1 << random.below(15);
                let unit =
                    random.pick(&["(", "[", "((", "[a:", "(b:1.5", "\\", "BREAK ", "a", "é", "word ", "\u{301}"]);
                bytes = unit.repeat(1 + random.below(times)).into();
            }
            1 => bytes = bytes.repeat(1 + random.below(20)),
            _ => {}
        }
        mutate(&mut bytes, random);
        bytes
    };
    let tokenizers = [Tokenizer::clip(Padding::End), Tokenizer::clip(Padding::Zero)];
    Kind::new("prompt", 40, make, move |bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let (tokenizer, length) = (&tokenizers[text.len() % 2], 3 + text.len() % 75);
        let ids = tokenizer.encode(&text)?;
        assert_eq!(tokenizer.window(&ids, length).len(), length);
        let edited = prompt::EditedPrompt::parse(&text).map_err(Error::Usage)?;
        let text = edited.at(1 + text.len() % 30, 30);
        let windows = prompt::windows(&prompt::parse(&text)?, tokenizer, length)?;
        assert!(!windows.is_empty());
        for window in windows {
            assert_eq!((window.ids.len(), window.weights.len()), (length, length));
            assert!(window.weights.iter().all(|weight| weight.is_finite()) && window.ids.contains(&tokenizer.end()));
        }
        Ok(())
    })
    .expecting(500, 1)
}

fn read_with(files: &Memory, folder: &str) -> Result<()> {
    let tokenizer = Tokenizer::open_in(files, folder)?;
    for id in tokenizer.encode("it's a red fox!<|startoftext|>")? {
        assert!(id < tokenizer.vocabulary());
    }
    Ok(())
}

/// One of the three files of a small vocabulary.
fn tokenizer_file(changed: &'static str) -> Kind {
    let folder = ["sd1", "sd1", "sd2"].map(|model| format!("stable_diffusion/{model}/tokenizer"));
    let names = ["vocab.json", "merges.txt", "special_tokens_map.json"];
    let files: Vec<_> =
        folder.iter().zip(names).map(|(folder, name)| (name, bytes_of(&format!("{folder}/{name}")))).collect();
    let seed = files.iter().find(|(name, _)| *name == changed).expect("listed").1.clone();
    let files = files.into_iter().map(|(name, bytes)| (format!("t/{name}"), bytes)).collect::<Memory>();
    let files = RefCell::new(files);
    let value: Option<Value> = serde_json::from_slice(&seed).ok();
    let make = move |random: &mut Random| match &value {
        Some(value) if random.one_in(2) => json::mutated(value, random),
        _ => {
            let mut bytes = seed.clone();
            mutate(&mut bytes, random);
            bytes
        }
    };
    Kind::new(format!("tokenizer/{changed}"), 2, make, move |bytes| {
        files.borrow_mut().insert(format!("t/{changed}"), bytes);
        read_with(&files.borrow(), "t")
    })
}

/// The other format. Most of it is the long list of tokens, where few mutations matter, so only a short one is left.
fn tokenizer_json() -> Kind {
    let mut seed: Value = serde_json::from_slice(
        &std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/emoji-64/tokenizer/tokenizer.json"))
            .expect("the tokenizer is there"),
    )
    .expect("JSON");
    let merges: Vec<Value> = seed["model"]["merges"].as_array().expect("merges").iter().take(20).cloned().collect();
    seed["model"]["merges"] = merges.into();
    Kind::new(
        "tokenizer/tokenizer.json",
        1,
        move |random| json::mutated(&seed, random),
        |bytes| read_with(&[("t/tokenizer.json", bytes)].into_iter().collect(), "t"),
    )
}

/// What a picture's text holds of how it was made, as `--from` reads it.
fn record() -> Kind {
    let scheduler = json_of("stable_diffusion/sd1/scheduler/scheduler_config.json");
    let known = Request {
        prompt: vec!["a fox".into()],
        negative_prompt: vec!["fog".into()],
        model: Some("sd1.safetensors".into()),
        lora: vec!["a.safetensors:0.5".into()],
        seed: vec![7, 8],
        steps: Some(20),
        guidance_scale: vec![7.5],
        strength: Some(0.5),
        weighting: true,
        ..Request::default()
    };
    // With every field that there is, most of them null.
    let seed = json!({
        "version": "unmist 0.1.0", "device": "llvmpipe (Vulkan)", "scheduler": scheduler, "options": known,
        "files": {"model": {"sd1.safetensors": "0123456789abcdef"}},
    });
    Kind::new(
        "record",
        12,
        move |random| json::mutated(&seed, random),
        move |bytes| {
            let json = Json::parse("x.png", String::from_utf8_lossy(&bytes).into_owned())?;
            let refused =
                |error: serde_json::Error| Error::Config(format!("x.png: settings that cannot be read ({error})"));
            let request: Request = serde_json::from_value(json.value["options"].clone()).map_err(refused)?;
            request.check()?;
            let scheduler = Some(SchedulerConfig::from_json(&json.value["scheduler"].to_string())?);
            let asked = Asked { request: known.clone(), past: Some(Past { request, scheduler }) };
            asked.merged()?.pictures();
            Ok(())
        },
    )
}

/// What pictures of other programs say of themselves.
fn foreign() -> [Kind; 2] {
    const PARAMETERS: &str = "a (red:1.3) fox, [cat|dog] <lora:style:0.8>\nin \"fog\"\nNegative prompt: snow\n\
        Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 123, Size: 512x768, \
        Model hash: 6ce0161689, Model: model, Denoising strength: 0.6, Clip skip: 2, Hires upscale: 2, \
        Lora hashes: \"style: 0123456789ab\", \
        RNG: CPU, Version: v1.10.1";
    let graph = json!({
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.safetensors"}},
        "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "clip": ["1", 1], "lora_name": "a.safetensors",
            "strength_model": 0.8, "strength_clip": 0.5}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": "a fox"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": ""}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
        "6": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0],
            "latent_image": ["5", 0], "seed": 7, "steps": 20, "cfg": 7.0, "sampler_name": "euler_ancestral",
            "scheduler": "karras", "denoise": 1.0}},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0]}},
    });
    let read = |keyword: &'static str| {
        move |bytes: Vec<u8>| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            unmist::cli::settings_of_others(&[(keyword.to_owned(), text)]).map_err(Error::Usage)
        }
    };
    let parameters = |random: &mut Random| {
        let mut bytes = PARAMETERS.as_bytes().to_vec();
        mutate(&mut bytes, random);
        bytes
    };
    [
        Kind::new("foreign/parameters", 8, parameters, read("parameters")),
        Kind::new("foreign/graph", 8, move |random| json::mutated(&graph, random), read("prompt")),
    ]
}
