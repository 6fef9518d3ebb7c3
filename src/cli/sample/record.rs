//! What a picture remembers, so that it can be made again: every option, the scheduler, and the hashes of all files
//! that went into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::args::Options;
use crate::checkpoint::{Json, Tensors};
use crate::error::{Error, Result};
use crate::image_io::read_text;
use crate::output::sha256;

/// Keyword of a record in a PNG and in the metadata of a `.safetensors` file.
pub const KEYWORD: &str = "unmist";

/// How a picture was made.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The program, e.g. `unmist 0.1.0`.
    pub version: String,
    /// The device; on another one the last bits can differ.
    pub device: String,
    /// The options, with their defaults filled in.
    pub options: Options,
    /// `scheduler_config.json` as it was used.
    pub scheduler: Value,
    /// That of the refiner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refiner_scheduler: Option<Value>,
    /// Option (`model`, `image` …) → file → sha256 in hexadecimal digits.
    pub files: Files,
}

/// Option → name of a file (of a model: below its folder) → sha256 in hexadecimal digits.
pub type Files = BTreeMap<String, BTreeMap<String, String>>;

/// The files of each option that names some: `(name in the record, path)`.
pub type Paths = BTreeMap<String, Vec<(String, PathBuf)>>;

/// Reads and hashes files.
///
/// # Errors
/// [`Error::Io`] if one cannot be read.
pub fn hash(paths: &Paths) -> Result<Files> {
    let hash_all = |files: &Vec<(String, PathBuf)>| -> Result<BTreeMap<String, String>> {
        files.iter().map(|(name, path)| Ok((name.clone(), sha256(path)?))).collect()
    };
    paths.iter().map(|(option, files)| Ok((option.clone(), hash_all(files)?))).collect()
}

/// Checks that options can be remembered, so that nothing is computed in vain.
///
/// # Errors
/// [`Error::Usage`] if a file's name is not UTF-8.
pub fn check_names(options: &Options) -> Result<()> {
    serde_json::to_value(options).map(drop).map_err(not_utf8)
}

impl Record {
    /// The program's name and version.
    pub fn version() -> String {
        concat!("unmist ", env!("CARGO_PKG_VERSION")).to_owned()
    }

    /// Reads the record of a picture.
    ///
    /// # Errors
    /// As [`read_text`] and [`Tensors::open`]; [`Error::Usage`] if there is no record, [`Error::Config`] if
    /// this version cannot read it.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let texts = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            Tensors::open(path)?.metadata().clone().into_iter().collect()
        } else {
            read_text(path)?
        };
        let Some((_, text)) = texts.iter().find(|(keyword, _)| keyword == KEYWORD) else {
            return Err(Error::Usage(format!(
                "--from {shown}: it does not say how it was made in a way that can be replayed; pictures that `unmist sample` writes do{}",
                if texts.iter().any(|(keyword, _)| keyword == "parameters") {
                    ". Its text chunk `parameters` can be read and the options given by hand"
                } else {
                    ""
                }
            )));
        };
        let json = Json::parse(path, text.clone())?;
        serde_json::from_value(json.value.clone()).map_err(|error| {
            let version = json.value["version"].as_str().unwrap_or("an unknown version");
            Error::Config(format!(
                "--from {shown}: made by {version}, whose settings {} cannot read ({error})",
                Self::version()
            ))
        })
    }

    /// The record as JSON.
    ///
    /// # Errors
    /// [`Error::Usage`] if a file's name is not UTF-8.
    pub fn to_json(&self) -> Result<String> {
        let mut json = serde_json::to_value(self).map_err(not_utf8)?;
        if let Value::Object(options) = &mut json["options"] {
            drop_empty(options);
        }
        Ok(json.to_string())
    }

    /// The recorded options with those replaced that were `given`.
    ///
    /// # Errors
    /// [`Error::Usage`] if a given value cannot be written as JSON.
    pub fn options_with(&self, given: &Options) -> Result<Options> {
        let mut options = serde_json::to_value(&self.options).map_err(not_utf8)?;
        overlay(&mut options, serde_json::to_value(given).map_err(not_utf8)?);
        serde_json::from_value(options)
            .map_err(|error| Error::Usage(format!("an option beside --from makes no sense: {error}")))
    }

    /// Checks that the files are those that the picture was made with. Of options that were `given` anew, differences
    /// are only told.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first file that is another one now.
    pub fn check(&self, found: &Files, given: &Options) -> Result<()> {
        let given = serde_json::to_value(given).map_err(not_utf8)?;
        for (option, recorded) in &self.files {
            let now = found.get(option);
            if is_given(&given[option]) {
                if now.is_some_and(|now| !now.values().eq(recorded.values())) {
                    eprintln!("note: --{option} is not what the picture was made with; the result is another picture");
                }
                continue;
            }
            let changed = recorded.iter().find(|(name, hash)| now.and_then(|now| now.get(*name)) != Some(hash));
            if let Some((name, hash)) = changed {
                let now = now.and_then(|now| now.get(name)).map_or("missing".into(), |hash| format!("sha256 {hash}"));
                return Err(Error::Usage(format!(
                    "the picture was made with another file for --{option}: {name} is {now} now, it was sha256 {hash}; \
                     give the right one with --{option}"
                )));
            }
        }
        Ok(())
    }
}

fn not_utf8(error: serde_json::Error) -> Error {
    Error::Usage(format!("a file's name cannot be remembered in the picture ({error}); rename the file"))
}

/// Whether an option has a value. Flags that are off, and lists without entries, have none.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => map.values().any(is_given),
        _ => true,
    }
}

fn drop_empty(map: &mut Map<String, Value>) {
    map.values_mut().filter_map(Value::as_object_mut).for_each(drop_empty);
    map.retain(|_, value| is_given(value));
}

fn overlay(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                overlay(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) if is_given(&above) => *below = above,
        _ => {}
    }
}
