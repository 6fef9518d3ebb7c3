//! The text `parameters` of AUTOMATIC1111's web UI, of programs that write it as it does, and of stable-diffusion.cpp.

use super::{Foreign, scheduler};
use crate::request::Rng;

/// What says nothing about the picture, or follows from what does.
const IDLE: &[&str] = &[
    "Batch pos",
    "Batch size",
    "Created Date",
    "Guidance",
    "Hashes",
    "Lora hashes",
    "Mask",
    "Model hash",
    "Precision",
    "TI hashes",
    "TE",
    "User",
    "VAE hash",
    "Version",
];
const MOST: usize = 200;

/// Reads it.
///
/// # Errors
/// If it has no line of settings.
pub fn read(text: &str) -> Result<Foreign, String> {
    let text = text.trim();
    let (prompts, line) = text.rsplit_once('\n').unwrap_or(("", text));
    let all = settings(line);
    if all.len() < 3 {
        return Err("its text chunk `parameters` ends without a line of settings".to_owned());
    }
    let get = |name: &str| all.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let native = get("Version").is_some_and(|version| version.starts_with("stable-diffusion.cpp"));
    // A PNG's `tEXt` is Latin-1, into which stable-diffusion.cpp writes UTF-8.
    let mended = if native { utf_8(prompts) } else { None };
    let (prompt, negative) = split(mended.as_deref().unwrap_or(prompts));
    let mut found = Foreign {
        program: match get("Version") {
            _ if native => "stable-diffusion.cpp".to_owned(),
            Some(version) if version.starts_with("unmist") => format!("{version}, of which only `parameters` is left"),
            Some(version) => format!("AUTOMATIC1111's web UI or one like it ({version})"),
            None => "a program that writes settings as AUTOMATIC1111's web UI does".to_owned(),
        },
        tags: true,
        ..Foreign::default()
    };
    let request = &mut found.request;
    request.prompt = vec![prompt];
    request.negative_prompt = Some(negative).filter(|text| !text.is_empty()).into_iter().collect();
    request.weighting = true;
    // Without a word about it, the web UI draws on the GPU.
    request.rng = Some(Rng::TorchCuda);

    if let Some(sampler) = get("Sampler") {
        let (sampler, schedule) = match get("Schedule type") {
            _ if native => match sampler.rsplit_once(' ') {
                Some((sampler, "discrete")) => (sampler, Some("Uniform")),
                Some((sampler, schedule)) => (sampler, Some(schedule)),
                None => (sampler, Some("Uniform")),
            },
            Some("Automatic") => (sampler, scheduler::automatic(sampler)),
            Some(schedule) => (sampler, Some(schedule)),
            // Before there were types, a schedule was part of the sampler's name.
            None => (sampler, scheduler::automatic(sampler).filter(|_| !named(sampler)).map(|_| "Uniform")),
        };
        found.take_sampler(sampler, schedule);
    }
    let enlarged = all.iter().any(|(name, _)| name.starts_with("Hires"));
    for (name, value) in &all {
        if let Err(why) = take(&mut found, name, value, enlarged) {
            let short: String = value.chars().take(MOST).collect();
            found.skip(name, &short, why);
        }
    }
    Ok(found)
}

/// Whether a sampler's name says its schedule.
fn named(sampler: &str) -> bool {
    ["Karras", "Exponential", "Polyexponential"].iter().any(|schedule| sampler.ends_with(schedule))
}

/// Takes one setting; otherwise why not.
fn take(found: &mut Foreign, name: &str, value: &str, enlarged: bool) -> Result<(), &'static str> {
    const NUMBER: &str = "it is not a number";
    let number = || value.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or(NUMBER);
    let whole = || value.parse::<usize>().map_err(|_| NUMBER);
    let request = &mut found.request;
    match name {
        "Steps" => request.steps = Some(whole()?),
        "CFG scale" => request.guidance_scale = vec![number()?],
        "Seed" => request.seed = vec![value.parse().map_err(|_| NUMBER)?],
        "Size" => {
            let (width, height) = value.split_once('x').ok_or("expected columns and rows")?;
            let sides = width.parse().ok().zip(height.parse().ok()).ok_or(NUMBER)?;
            (request.width, request.height) = (Some(sides.0), Some(sides.1));
        }
        "Model" => found.model = Some(value.to_owned()),
        "Clip skip" => request.clip_skip = Some(value.parse::<i64>().map_err(|_| NUMBER)?.max(1) as usize - 1),
        "RNG" => match value {
            "CPU" | "cpu" => request.rng = Some(Rng::TorchCpu),
            "GPU" | "NV" | "cuda" => request.rng = Some(Rng::TorchCuda),
            _ => return Err("there is no such generator; the seed makes another picture"),
        },
        "CFG Rescale" => request.guidance_rescale = Some(number()?),
        "Class" => request.class = vec![whole()?],
        "Denoising strength" if !enlarged => found.strength = Some(number()?),
        "Eta" | "ENSD" | "Variation seed strength" if number() == Ok(0.0) => {}
        "Eta" if found.request.scheduler.as_deref().is_some_and(|name| name.starts_with("DDIM")) => {
            found.request.eta = Some(number()?);
        }
        "Image CFG scale" => return Err("give `image_guidance_scale`"),
        "VAE" => return Err("give `vae`, if it is not the model's own"),
        "Refiner" => return Err("give `refiner`"),
        "Sampler" | "Schedule type" => {} // taken together
        _ if IDLE.contains(&name) => {}
        _ => return Err(""),
    }
    // Earlier versions had another hash, of eight digits.
    if name == "Model hash" && value.len() == 10 {
        found.model_hash = Some(value.to_lowercase());
    }
    Ok(())
}

/// Prompt and negative prompt.
fn split(text: &str) -> (String, String) {
    const NEGATIVE: &str = "Negative prompt:";
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.starts_with(NEGATIVE)).unwrap_or(lines.len());
    let negative = lines[at..].join("\n");
    (lines[..at].join("\n"), negative.strip_prefix(NEGATIVE).unwrap_or_default().trim().to_owned())
}

fn utf_8(text: &str) -> Option<String> {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    String::from_utf8(bytes?).ok()
}

/// The `Name: value` of a line. A value ends at a comma, unless it is a JSON string, list or object.
fn settings(line: &str) -> Vec<(String, String)> {
    let in_name = |c: char| c.is_alphanumeric() || "_ -/".contains(c);
    let (mut found, mut rest) = (Vec::new(), line);
    while !rest.is_empty() {
        rest = rest.trim_start();
        let length = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(length);
        let Some(value) = after.strip_prefix(':').filter(|_| name.len() > 1).map(str::trim_start) else {
            let skipped = rest.find(',').map_or(rest.len(), |comma| comma + 1);
            rest = &rest[skipped..];
            continue;
        };
        let end = end_of_json(value).unwrap_or_else(|| value.find(',').unwrap_or(value.len()));
        let text = serde_json::from_str::<String>(&value[..end]).unwrap_or_else(|_| value[..end].trim().to_owned());
        found.push((name.to_owned(), text));
        rest = value[end..].trim_start().trim_start_matches(',');
    }
    // stable-diffusion.cpp writes everything a second time, as JSON.
    found.retain(|(name, _)| name != "SDCPP");
    found
}

/// Where the string, list or object that `text` begins with ends.
fn end_of_json(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escape) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escape => escape = false,
            '\\' if quoted => escape = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            _ if depth == 0 && !quoted => return None,
            _ => {}
        }
        if depth == 0 && !quoted {
            return Some(at + c.len_utf8());
        }
    }
    None
}
