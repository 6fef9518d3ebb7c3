//! `unmist sample`: the settings that pictures carry, as the programs that read them do.

use std::collections::BTreeMap;

use regex::Regex;
use unmist::image_io::{read, read_text};

use crate::commands::sample::{Folder, lora};
use crate::commands::usage::{fails, stable_diffusion, succeeds};

/// What AUTOMATIC1111's web UI finds in a text of settings, by the rules of its `parse_generation_parameters`: the last
/// line holds settings if its pattern fits there three times or more; the lines before it are the prompt, from a line
/// that begins with `Negative prompt:` on the negative prompt; each stripped.
struct WebUi {
    prompt: String,
    negative: String,
    settings: BTreeMap<String, String>,
}

impl WebUi {
    fn read(text: &str) -> Self {
        let setting = Regex::new(r#"\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#).expect("a pattern");
        let mut lines: Vec<&str> = text.trim().split('\n').collect();
        let mut last = lines.pop().expect("a line");
        if setting.find_iter(last).count() < 3 {
            lines.push(std::mem::take(&mut last));
        }
        let (mut prompt, mut negative, mut behind) = (Vec::new(), Vec::new(), false);
        for line in lines {
            let mut line = line.trim();
            if let Some(rest) = line.strip_prefix("Negative prompt:") {
                (behind, line) = (true, rest.trim());
            }
            if behind { &mut negative } else { &mut prompt }.push(line);
        }
        let unquoted = |value: &str| {
            let quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
            let json = if quoted { serde_json::from_str(value).ok() } else { None };
            json.unwrap_or_else(|| value.to_owned())
        };
        let settings = setting.captures_iter(last).map(|found| (found[1].to_owned(), unquoted(&found[2]))).collect();
        Self { prompt: prompt.join("\n"), negative: negative.join("\n"), settings }
    }

    fn get(&self, name: &str) -> &str {
        self.settings.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.settings))
    }
}

/// The words that the web UI gives to the text encoder, by the rules of its `parse_prompt_attention`, if all of them
/// have the weight 1 and none is a break; networks are taken out before.
fn words(prompt: &str) -> Option<String> {
    let network = Regex::new(r"<(\w+):([^>]+)>").expect("a pattern");
    let several = Regex::new(r"\bAND\b|\bBREAK\b").expect("a pattern");
    let part = Regex::new(r"\\\(|\\\)|\\\[|\\\]|\\\\|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:");
    let prompt = network.replace_all(prompt, "");
    if several.is_match(&prompt) {
        return None;
    }
    let mut words = String::new();
    for part in part.expect("a pattern").find_iter(&prompt) {
        match part.as_str() {
            text if text.starts_with('\\') => words += &text[1..],
            "(" | "[" => return None,
            text => words += text,
        }
    }
    Some(words.trim().to_owned())
}

fn parameters(folder: &Folder, name: &str) -> WebUi {
    WebUi::read(&folder.text(name, "parameters"))
}

/// The text encoders know no capitals, and split words at brackets.
fn same_words(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().split_whitespace().collect::<String>();
    plain(a) == plain(b)
}

#[test]
fn the_web_ui_reads_back_what_was_asked_for() {
    let folder = Folder::new();
    let model = folder.path("tiny, v1:5");
    crate::commands::usage::copy(&stable_diffusion("sd1"), std::path::Path::new(&model));
    let style = folder.path("style.safetensors");
    std::fs::copy(lora("sd1_kohya.safetensors"), &style).expect("copies");
    let out = folder.path("out.png");
    let run = |more: &[&str]| {
        let common = ["sample", "--model", &model, "--steps", "2", "--width", "24", "--height", "16", "--output", &out];
        succeeds(&[&common[..], more].concat());
        parameters(&folder, "out.png")
    };
    for prompt in [
        "a fox",
        "a fox,\nin the \"forest\": at night; 50 % «夜» 🍎",
        "Negative prompt: none (really)",
        "a (fox:1.3) [at] night AND day BREAK \\o/ <lora:x:0.5>",
        "first\nSteps: 20, Sampler: x, CFG scale: 7, Seed: 5",
        "x\nNegative prompt: y\nSteps: 1",
    ] {
        let found = run(&[prompt, "--negative-prompt", prompt]);
        for text in [&found.prompt, &found.negative] {
            let words = words(text).unwrap_or_else(|| panic!("{prompt:?} has weights or breaks as {text:?}"));
            assert!(same_words(&words, prompt), "{prompt:?} became {words:?}");
        }
        assert_eq!((found.get("Seed"), found.get("Steps")), ("0", "2"), "{prompt:?}");
    }
    let found = run(&["a (fox:1.3) [at] night", "--weighting", "--lora", &format!("{style}:0.75:0.5")]);
    assert_eq!(found.prompt, "a (fox:1.3) [at] night <lora:style:0.5:0.75>");
    let hashes = found.get("Lora hashes");
    assert!(Regex::new("^style: [0-9a-f]{12}$").expect("a pattern").is_match(hashes), "{hashes}");
    assert_eq!(found.get("Size"), "24x16");
    assert_eq!(found.get("Model"), "tiny, v1:5");
    assert_eq!(found.get("Model hash").len(), 10);
    assert!(found.get("Version").starts_with("unmist "));
    assert_eq!((found.negative.as_str(), found.get("CFG scale")), ("", "7.5"));

    // Samplers and schedules by the web UI's names, whatever they were asked for as. This model's own spacing is
    // "leading", which the web UI has from DDIM.
    for (asked, sampler, schedule) in [
        ("dpmpp_2m karras", "DPM++ 2M", Some("Karras")),
        ("DPMSolverMultistepScheduler", "DPM++ 2M", Some("DDIM")),
        ("dpmpp_2m_sde exponential", "DPM++ 2M SDE", Some("Exponential")),
        ("DPM++ 2M SDE Heun", "DPM++ 2M SDE Heun", Some("DDIM")),
        ("euler_ancestral", "Euler a", Some("DDIM")),
        ("euler normal", "Euler", Some("Uniform")),
        ("euler sgm_uniform", "Euler", Some("SGM Uniform")),
        ("EulerDiscreteScheduler", "Euler", Some("DDIM")),
        ("uni_pc", "UniPC", None),
        ("ddim", "DDIM", None),
        ("PNDMScheduler", "PLMS", None),
        ("dpm_2_ancestral karras", "DPM2 a", Some("Karras")),
        ("heun", "Heun", Some("DDIM")),
        ("lms beta", "LMS", Some("Beta")),
        ("lcm", "LCM", None),
    ] {
        let found = run(&["a fox", "--scheduler", asked]);
        let schedules = found.settings.get("Schedule type").map(String::as_str);
        assert_eq!((found.get("Sampler"), schedules), (sampler, schedule), "{asked}");
    }
}

#[test]
fn each_picture_has_one_seed_and_a_grid_its_firsts() {
    let folder = Folder::new();
    let (model, out) = (stable_diffusion("sd1"), folder.path("out.png"));
    let run = |more: &[&str]| {
        let common = ["sample", "a fox", "an apple", "--seed", "7,8,9,10", "--guidance-scale", "2,6", "--output", &out];
        let size = ["--steps", "2", "--width", "24", "--height", "16", "--model", model.to_str().unwrap()];
        succeeds(&[&common[..], &size, more].concat());
    };
    run(&[]);
    let grid = parameters(&folder, "out.png");
    assert_eq!((grid.prompt.as_str(), grid.get("Seed"), grid.get("CFG scale")), ("a fox", "7", "2"));
    assert_eq!((grid.get("Size"), grid.get("Batch size")), ("24x16", "4"));
    run(&["--separate"]);
    for (i, (prompt, seed, scale)) in
        [("a fox", "7", "2"), ("a fox", "8", "2"), ("an apple", "9", "6"), ("an apple", "10", "6")].iter().enumerate()
    {
        let found = parameters(&folder, &format!("out-000{}.png", i + 1));
        assert_eq!((found.prompt.as_str(), found.get("Seed"), found.get("CFG scale")), (*prompt, *seed, *scale));
        assert_eq!(found.get("Batch pos"), i.to_string());
    }
}

/// JPEG and WebP carry the same settings as PNG, and are made again from them.
#[test]
fn every_format_keeps_the_settings() {
    let folder = Folder::new();
    let model = stable_diffusion("sd1");
    let prompt = "a fox, «夜» 🍎";
    let common = ["--steps", "2", "--width", "24", "--height", "16", "--model", model.to_str().unwrap()];
    let run = |name: &str, more: &[&str]| {
        succeeds(&[&["sample", prompt, "--seed", "5", "--output", &folder.path(name)], &common[..], more].concat());
        read(folder.path(name), 3).expect("a picture")
    };
    let png = run("a.png", &[]);
    assert!(run("a.webp", &[]) == png, "WebP loses nothing");
    let distance = |picture: &unmist::image_io::Picture| {
        let differences = picture.data.iter().zip(&png.data).map(|(a, b)| f64::from(a.abs_diff(*b)));
        differences.sum::<f64>() / png.data.len() as f64
    };
    let (best, usual, small) =
        (run("best.jpg", &["--quality", "100"]), run("a.jpg", &[]), run("small.jpeg", &["--quality", "10"]));
    assert!(distance(&best) < distance(&usual) && distance(&usual) < distance(&small), "quality counts");
    let settings = |name: &str| read_text(folder.path(name)).expect("settings");
    for name in ["a.webp", "a.jpg", "best.jpg", "small.jpeg"] {
        assert_eq!(settings(name), settings("a.png"), "{name}");
        // As AUTOMATIC1111's web UI writes them: UTF-16, the high byte first.
        let comment: Vec<u8> = settings("a.png")[0].1.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let comment = [b"UNICODE\0", &comment[..]].concat();
        assert!(folder.bytes(name).windows(comment.len()).any(|part| part == comment), "{name}");
        succeeds(&["sample", "--from", &folder.path(name), "--output", &folder.path("again.png")]);
        assert!(folder.bytes("a.png") == folder.bytes("again.png"), "{name}: made again bit for bit");
    }
    succeeds(&[&["sample", "a", "b", "--separate", "--output", &folder.path("two.jpg")], &common[..]].concat());
    assert_eq!(parameters(&folder, "two-0002.jpg").prompt, "b");

    let results = tempfile::tempdir().expect("a temporary folder");
    for (name, more, parts) in [
        ("a.png", &["--quality", "80"][..], ["--quality 80", "only JPEG"]),
        ("a.webp", &["--quality", "80"], ["--quality 80", "only JPEG"]),
        ("a.jpg", &["--quality", "0"], ["--quality", "1..=100"]),
        ("a.gif", &[], [".png, .jpg, .webp", "--output"]),
    ] {
        let out = results.path().join(name);
        fails(&[&["sample", "a", "--output", out.to_str().unwrap()], more].concat(), &parts, results.path());
    }
}
