//! Where a model is: at a path, below `weights/`, or in Hugging Face's cache.

use std::path::{Path, PathBuf};

use crate::checkpoint::Folder;
use crate::error::{Error, Result};
use crate::refusal::{Refusal, Remedy};

/// The given folder or file, or the model of that name below `weights/`. If none is given, the first model there whose
/// pipeline class is one of `fitting`.
///
/// `weights/` is `UNMIST_WEIGHTS` if that is set, else the first folder of that name found from the working directory
/// upwards, then from the executable upwards.
///
/// # Errors
/// A refusal if there is no such folder or no such model in it.
pub fn find(given: Option<&Path>, fitting: &[&str]) -> Result<PathBuf> {
    if let Some(path) = given {
        let shipped = || weights_folder().ok().map(|folder| folder.join(path)).filter(|path| path.is_dir());
        if path.exists() {
            return Ok(path.to_owned());
        }
        return match (is_name(path).then(shipped).flatten(), repository(path)) {
            (Some(shipped), _) => Ok(shipped),
            (None, Some((owner, name))) => downloaded(owner, name),
            (None, None) => Ok(path.to_owned()),
        };
    }
    let weights = weights_folder()?;
    let mut models: Vec<_> = std::fs::read_dir(&weights)
        .map_err(Error::io(&weights))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join("model_index.json").is_file())
        .collect();
    models.sort();
    let class = |path: &PathBuf| Folder::open(path).ok()?.pipeline_class().map(str::to_owned);
    let found = models.iter().find(|path| class(path).is_some_and(|c| fitting.contains(&c.as_str())));
    found.cloned().ok_or_else(|| {
        let why = format!("there is none for this in {}", weights.display());
        Refusal::of("model", why).instead(Remedy::Give(&["model"])).into()
    })
}

/// `OWNER/NAME`, as models are called on Hugging Face.
fn repository(path: &Path) -> Option<(&str, &str)> {
    let (owner, name) = path.to_str()?.split_once('/')?;
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    let file = [".safetensors", ".gguf"].iter().any(|end| name.ends_with(end));
    (plain(owner) && plain(name) && !file).then_some((owner, name))
}

/// The folder of a model in Hugging Face's cache. Nothing is downloaded.
///
/// # Errors
/// A refusal with the command that downloads it, if it is not there.
fn downloaded(owner: &str, name: &str) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("HF_HOME").or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
        Some(cache.join("huggingface"))
    });
    let cache = variable("HF_HUB_CACHE").or_else(|| Some(home?.join("hub"))).unwrap_or_default();
    let folder = cache.join(format!("models--{owner}--{name}"));
    if folder.is_dir() {
        return Ok(folder);
    }
    let why = format!(
        "there is no such folder, and {} holds no model of this name; `hf download {owner}/{name}` fetches it",
        cache.display()
    );
    Err(Refusal::of_value("model", format!("{owner}/{name}"), why).into())
}

/// [`find`] for commands that work on one component of any model.
///
/// # Errors
/// As [`find`].
pub fn find_with(given: Option<&Path>, component: &str) -> Result<PathBuf> {
    match component {
        "unet" => find(given, &["DDPMPipeline", "DDIMPipeline"]),
        _ => find(given, &["StableDiffusionPipeline"]),
    }
}

/// How a picture remembers a model: by its name below `weights/`, or else by the path as it was given.
pub fn remembered(path: &Path) -> PathBuf {
    let shipped = weights_folder().is_ok_and(|folder| path.parent() == Some(&folder));
    path.file_name().filter(|_| shipped).map_or_else(|| path.to_owned(), PathBuf::from)
}

fn is_name(path: &Path) -> bool {
    path.parent() == Some(Path::new("")) && path.file_name().is_some()
}

/// The folder of the models that come along.
///
/// # Errors
/// [`Error::Usage`] if there is none.
pub fn weights_folder() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("UNMIST_WEIGHTS") {
        let path = PathBuf::from(path);
        return if path.is_dir() {
            Ok(path)
        } else {
            Err(Error::Usage(format!("UNMIST_WEIGHTS={}: there is no such folder", path.display())))
        };
    }
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let candidates = starts.iter().flatten().flat_map(|start| start.ancestors()).map(|a| a.join("weights"));
    let holds_models = |folder: &PathBuf| {
        std::fs::read_dir(folder)
            .is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.path().join("model_index.json").is_file())))
    };
    candidates.into_iter().find(holds_models).ok_or_else(|| {
        let why = "found no folder `weights` with models, neither upwards from here nor from the executable, and \
                   UNMIST_WEIGHTS is not set";
        Refusal::of("model", why).instead(Remedy::Give(&["model"])).into()
    })
}
