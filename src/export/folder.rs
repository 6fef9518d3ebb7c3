//! A checkpoint as a folder of diffusers.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Part, vocabulary, write};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::safetensors::Entry;
use crate::error::{Error, Result};
use crate::graph::StoredType;
use crate::output::write_atomic;
use crate::tokenizer::Padding;

/// Writes a checkpoint as the folder `path`, which appears complete or not at all. Tensors are written as `dtype`, or
/// as most of their component are stored. Says what was written, one line each.
///
/// # Errors
/// [`Error::Usage`] if there is something at `path` already; as [`crate::models::LoadedModel::open`];
/// [`Error::Checkpoint`] for a number that `dtype` cannot hold; [`Error::Io`].
pub fn folder(checkpoint: &Checkpoint, path: &Path, dtype: Option<StoredType>) -> Result<Vec<String>> {
    let parts = Part::all(checkpoint, dtype)?;
    if parts.is_empty() {
        return Err(Error::Unsupported(format!("{}: it holds no model", checkpoint.path().display())));
    }
    let unfinished = Unfinished::beside(path)?;
    let mut index = json!({ "_class_name": checkpoint.pipeline_class() });
    if let Some(own) = checkpoint.index().and_then(|index| index.value.as_object()) {
        // The pipeline's options, but for components, which are listed as they are found.
        let options = own.iter().filter(|(name, value)| !value.is_array() && !name.starts_with('_'));
        index.as_object_mut().expect("it is one").extend(options.map(|(name, value)| (name.clone(), value.clone())));
    }
    let mut said = Vec::new();
    for part in &parts {
        let name = part.component.name.as_str();
        let bert = name == "bert";
        let text = bert || name.starts_with("text_encoder");
        let folder = unfinished.folder(name)?;
        write_json(&folder.join("config.json"), &part.component.config.value)?;
        let file = if text { "model.safetensors" } else { "diffusion_pytorch_model.safetensors" };
        let names = part.names();
        let entries: Vec<Entry> = names.iter().map(|tensor| part.entry(tensor, text && !bert)).collect();
        write(&folder.join(file), &entries, &[], &mut |i| part.weights.tensor(&names[i]))?;
        let library = match (text, bert) {
            (_, true) => "latent_diffusion",
            (true, false) => "transformers",
            (false, _) => "diffusers",
        };
        index[name] = json!([library, part.component.class_name]);
        said.push(format!("{name}/{file}: {} tensors, {}", names.len(), part.dtype.name()));
        if text {
            let tokenizer = if bert { "tokenizer".to_owned() } else { name.replace("text_encoder", "tokenizer") };
            write_tokenizer(checkpoint, &tokenizer, &part.component.config.value, &unfinished.folder(&tokenizer)?)?;
            index[&tokenizer] = json!(["transformers", if bert { "BertTokenizer" } else { "CLIPTokenizer" }]);
        }
    }
    for name in ["scheduler", "low_res_scheduler"] {
        // A bare component has none.
        let Ok(config) = checkpoint.scheduler_config(name) else { continue };
        write_json(&unfinished.folder(name)?.join("scheduler_config.json"), &config.value)?;
        index[name] = json!(["diffusers", config.value["_class_name"]]);
    }
    if let Some(generation) = checkpoint.json("generation_config.json")? {
        write_json(&unfinished.path.join("generation_config.json"), &generation.value)?;
    }
    if checkpoint.pipeline_class().is_some() {
        for absent in ["safety_checker", "feature_extractor"] {
            if checkpoint.pipeline_class() == Some("StableDiffusionPipeline") {
                index[absent] = json!([null, null]);
            }
        }
        if checkpoint.pipeline_class() == Some("StableDiffusionPipeline") {
            index["requires_safety_checker"] = false.into();
        }
        write_json(&unfinished.path.join("model_index.json"), &index)?;
    }
    unfinished.finish()?;
    Ok(said)
}

impl Part {
    /// A tensor of the folder. Text towers are written in the names of transformers before version 5, which every
    /// version reads.
    fn entry(&self, name: &str, text: bool) -> Entry {
        let bare = !text || name.starts_with("text_model.") || name.starts_with("text_projection.");
        let shape = self.weights.shape(name).to_vec();
        Entry { name: if bare { name.to_owned() } else { format!("text_model.{name}") }, dtype: self.dtype, shape }
    }
}

/// The tokenizer's own files, or CLIP's vocabulary.
fn write_tokenizer(checkpoint: &Checkpoint, name: &str, encoder: &Value, to: &Path) -> Result<()> {
    if let Some(from) = checkpoint.tokenizer_folder(name) {
        for file in std::fs::read_dir(&from).map_err(Error::io(&from))? {
            let file = file.map_err(Error::io(&from))?.path();
            if let Some(name) = file.file_name().filter(|_| file.is_file()) {
                std::fs::copy(&file, to.join(name)).map_err(Error::io(&file))?;
            }
        }
        return Ok(());
    }
    checkpoint.tokenizer(name)?; // CLIP's own vocabulary is this model's
    let padding = if encoder["hidden_act"] == "gelu" { Padding::Zero } else { Padding::End };
    for (file, text) in vocabulary::files(padding) {
        write_atomic(to.join(file), |out| out.write_all(text.as_bytes()))?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value always prints");
    write_atomic(path, |out| out.write_all(text.as_bytes()))
}

/// A folder that is still written, beside the one that it becomes.
struct Unfinished {
    path: PathBuf,
    target: PathBuf,
}

impl Unfinished {
    fn beside(target: &Path) -> Result<Self> {
        let empty = std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
        if std::fs::symlink_metadata(target).is_ok() && !empty {
            return Err(Error::Usage(format!(
                "{}: there is something already; give the name of a new folder",
                target.display()
            )));
        }
        let name = format!(".unmist-{}.tmp", std::process::id());
        let parent = target.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let path = parent.join(name);
        std::fs::create_dir(&path).map_err(Error::io(parent))?;
        Ok(Self { path, target: target.to_owned() })
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path.join(name);
        std::fs::create_dir(&folder).map_err(Error::io(&folder))?;
        Ok(folder)
    }

    fn finish(mut self) -> Result<()> {
        if self.target.is_dir() {
            std::fs::remove_dir(&self.target).map_err(Error::io(&self.target))?; // it is empty
        }
        std::fs::rename(&self.path, &self.target).map_err(Error::io(&self.target))?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.path != Path::new("") {
            // There is nobody to tell if even this fails.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
