//! LoRAs that a prompt names, in AUTOMATIC1111's syntax: `<lora:NAME:SCALE>`.

use std::path::{Path, PathBuf};

use super::{Notes, places};
use crate::error::{Error, Result};
use crate::refusal::{Refusal, Remedy};
use crate::request::Request;

/// What a name in a prompt stands for: a file, or why there is none.
pub type Find<'a> = &'a dyn Fn(&str) -> std::result::Result<String, String>;

/// Takes the LoRAs out of the prompts of `request` and asks for them as `lora` does, so that a picture remembers their
/// files. Without `weighting` brackets are text, which is noted.
///
/// # Errors
/// What `missing` makes of one that cannot be found or read.
pub fn take_from_prompts(
    request: &mut Request,
    find: Find<'_>,
    weighting: bool,
    notes: &mut Notes,
    missing: &mut dyn FnMut(Error) -> Result<()>,
) -> Result<()> {
    let mut prompts = std::mem::take(&mut request.prompt);
    for prompt in &mut prompts {
        let mut rest = std::mem::take(prompt);
        while let Some((before, tag, after)) = next(&rest) {
            if !weighting {
                notes.add(format!("note: <{tag}> is text without `weighting`"));
                break;
            }
            match lora(tag, find) {
                Ok(lora) => request.lora.push(lora),
                Err(error) => missing(error)?,
            }
            rest = format!("{before}{after}");
        }
        *prompt = if weighting { rest.trim().to_owned() } else { rest };
    }
    request.prompt = prompts;
    Ok(())
}

/// Asks for LoRAs by their tags, `lora:NAME:SCALE`; of those that cannot be found or read, `missing` hears why.
pub fn add(request: &mut Request, tags: &[String], find: Find<'_>, missing: &mut dyn FnMut(Error)) {
    for tag in tags {
        match lora(tag, find) {
            Ok(lora) => request.lora.push(lora),
            Err(error) => missing(error),
        }
    }
}

/// The first network in a prompt: what comes before it, what its brackets hold, and what comes after it.
fn next(prompt: &str) -> Option<(&str, &str, &str)> {
    const KINDS: [&str; 3] = ["<lora:", "<lyco:", "<hypernet:"];
    let begin = KINDS.iter().filter_map(|kind| prompt.find(kind)).min()?;
    let end = begin + prompt[begin..].find('>')?;
    Some((&prompt[..begin], &prompt[begin + 1..end], &prompt[end + 1..]))
}

/// `lora:NAME`, `lora:NAME:SCALE` or `lora:NAME:TEXT_SCALE:UNET_SCALE` as a value of `lora`.
fn lora(tag: &str, find: Find<'_>) -> Result<String> {
    let refuse = |why: String| -> Error {
        Refusal::of_value("prompt", format!("<{tag}>"), why).instead(Remedy::GiveInstead(&["lora"])).into()
    };
    let mut parts = tag.split(':');
    let kind = parts.next().unwrap_or_default();
    if kind == "hypernet" {
        return Err(refuse("hypernetworks are not read".into()));
    }
    let name = parts.next().unwrap_or_default();
    let scales: Vec<&str> = parts.collect();
    let numbers = scales.iter().all(|scale| scale.parse::<f64>().is_ok_and(f64::is_finite));
    if name.is_empty() || scales.len() > 2 || !numbers {
        return Err(refuse("expected a name, and one or two numbers".into()));
    }
    let file = find(name).map_err(refuse)?;
    Ok(match scales.as_slice() {
        [] => format!("{file}:1"),
        [both] => format!("{file}:{both}"),
        // The web UI has the text encoder's first.
        [text, unet, ..] => format!("{file}:{unet}:{text}"),
    })
}

/// The LoRA of a name, in the folder where a request has them looked for.
///
/// # Errors
/// Why there is none, in words.
pub fn in_folder_of(request: &Request, name: &str) -> std::result::Result<String, String> {
    let folder = folder(request).map_err(|error| error.to_string())?;
    // A name is no path: it stays within the folder.
    let file = folder.join(format!("{name}.safetensors"));
    if Path::new(name).components().count() != 1 || name.contains(['/', '\\']) || !file.is_file() {
        return Err(format!("there is no {name}.safetensors in {}", folder.display()));
    }
    Ok(file.display().to_string())
}

/// Where LoRAs are looked for.
fn folder(request: &Request) -> Result<PathBuf> {
    if let Some(folder) = &request.lora_dir {
        return Ok(folder.clone());
    }
    let model = places::find(request.model.as_deref(), &["StableDiffusionPipeline"])?;
    Ok(if model.is_dir() { model } else { model.parent().map(Path::to_owned).unwrap_or_default() })
}
