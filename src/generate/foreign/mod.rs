//! Pictures of other programs: what they say of themselves as a request, and what of it cannot be taken.

mod comfyui;
mod scheduler;
mod webui;

use std::path::{Path, PathBuf};

pub use scheduler::find as find_sampler;

use super::parameters::model_hash;
use super::record::Files;
use super::{Notes, networks, places};
use crate::error::{Error, Result};
use crate::image_io::PARAMETERS;
use crate::refusal::{Refusal, Remedy};
use crate::request::{Past, Request};

/// A picture's account, in the terms of the program that made it.
#[derive(Debug, Default)]
pub struct Foreign {
    /// Who made it, e.g. `ComfyUI`.
    program: String,
    /// What could be taken. The model and its LoRAs are still names.
    request: Request,
    /// The name of the model's file, and its hash as AUTOMATIC1111's web UI computes it.
    model: Option<String>,
    model_hash: Option<String>,
    /// LoRAs, as prompts name them: `lora:NAME:TEXT_SCALE:UNET_SCALE`.
    loras: Vec<String>,
    /// Whether prompts may hold more of them.
    tags: bool,
    /// It was made from another picture, of which so much was changed.
    strength: Option<f64>,
    /// What was not taken, and why.
    left_out: Vec<String>,
}

impl Foreign {
    /// Reads the texts of a picture.
    ///
    /// # Errors
    /// Why they do not say enough, in words.
    pub fn read(texts: &[(String, String)]) -> std::result::Result<Self, String> {
        let text = |name: &str| texts.iter().find(|(keyword, _)| keyword == name).map(|(_, text)| text.as_str());
        match (text(PARAMETERS), text("prompt")) {
            (Some(parameters), graph) => {
                webui::read(parameters).or_else(|why| graph.ok_or(why).and_then(comfyui::read))
            }
            (None, Some(graph)) => comfyui::read(graph),
            (None, None) => Err("it holds no settings".to_owned()),
        }
    }

    /// The request to go on from, and a line for each thing that could not be taken. `given` is asked for anew.
    ///
    /// # Errors
    /// A refusal if the model is not known by its name, and of a network that cannot be read.
    pub fn past(&self, from: &Path, given: &Request, notes: &mut Notes) -> Result<Past> {
        let mut request = self.request.clone();
        let mut left_out = self.left_out.clone();
        if given.model.is_none() {
            request.model = Some(self.find_model(from)?);
        }
        match self.strength {
            Some(strength) if given.image.is_some() => request.strength = Some(strength),
            Some(strength) => left_out.push(format!(
                "the picture that this one was made from, which it does not hold; give it with `image`, and `strength` \
                {strength}"
            )),
            None => {}
        }
        // Where networks are looked for depends on what is given. A new prompt has networks of its own.
        let place = Request {
            model: given.model.clone().or_else(|| request.model.clone()),
            lora_dir: given.lora_dir.clone(),
            prompt: if given.prompt.is_empty() { std::mem::take(&mut request.prompt) } else { Vec::new() },
            ..Request::default()
        };
        if given.lora.is_empty() {
            let mut found = place.clone();
            let mut skip = |error: Error| left_out.push(error.to_string());
            let find = |name: &str| networks::in_folder_of(&place, name);
            networks::add(&mut found, &self.loras, &find, &mut skip);
            if self.tags {
                networks::take_from_prompts(&mut found, &find, true, notes, &mut |error| {
                    skip(error);
                    Ok(())
                })?;
            }
            (request.prompt, request.lora) = (found.prompt, found.lora);
        } else {
            request.prompt = place.prompt;
        }
        notes.add(format!(
            "note: {} was made by {}: its settings are taken, its arithmetic is another; expect a picture that is \
            alike, not the same",
            from.display(),
            self.program
        ));
        left_out.iter().for_each(|what| notes.add(format!("note: not taken: {what}")));
        Ok(Past { request, scheduler: None })
    }

    /// The model of this name, here or in `weights/`.
    fn find_model(&self, from: &Path) -> Result<PathBuf> {
        let shown = from.display();
        let Some(name) = &self.model else {
            let why = format!("{shown} does not say with which one it was made");
            return Err(Refusal::of("model", why).instead(Remedy::Give(&["model"])).into());
        };
        // A file from elsewhere names no paths.
        let name = file_name(name);
        let found = ["", ".safetensors", ".gguf"].map(|end| format!("{name}{end}")).into_iter().find_map(|name| {
            places::find(Some(Path::new(&name)), &[]).ok().filter(|path| !name.is_empty() && path.exists())
        });
        found.ok_or_else(|| {
            let hash = self.model_hash.as_ref().map(|hash| format!(" (hash {hash})")).unwrap_or_default();
            let why = format!("{shown} was made with the model {name}{hash}, which is not here; say where it is");
            Refusal::of("model", why).into()
        })
    }

    /// Whether the picture says which file its model was.
    pub fn knows_model(&self) -> bool {
        self.model_hash.is_some()
    }

    /// Notes it if the model is not the one that the picture was made with.
    pub fn compare(&self, files: &Files, notes: &mut Notes) {
        let found = model_hash(files);
        if let (Some(was), Some(is)) = (&self.model_hash, &found)
            && was != is
        {
            let name = self.model.as_deref().unwrap_or("another model");
            notes.add(format!("note: the picture was made with {name}, hash {was}; this model's is {is}"));
        }
    }

    /// Leaves a setting out.
    fn skip(&mut self, name: &str, value: &str, why: &str) {
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        self.left_out.push(format!("{name}: {value}{why}"));
    }

    /// Takes a sampler and its schedule, as far as there are such.
    fn take_sampler(&mut self, sampler: &str, schedule: Option<&str>) {
        let (name, left_out) = scheduler::find(sampler, schedule);
        self.request.scheduler = name;
        self.left_out.extend(left_out);
    }
}

/// The last part of a path of any system.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or_default()
}
