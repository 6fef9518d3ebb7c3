//! What a picture remembers, so that it can be made again: every option, the scheduler, and the hashes of all files
//! that went into it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Notes;
use crate::checkpoint::Json;
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::output::sha256;
use crate::refusal::{Refusal, quoted};
use crate::request::{MaskReading, Past, Request};
use crate::schedulers::SchedulerConfig;

/// The fields that name files which decide what a picture is.
const FIELDS: [&str; 14] = [
    "model",
    "refiner",
    "unet",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "classifier",
    "lora",
    "refiner_lora",
    "embedding",
    "image",
    "mask",
    "latents",
    "scheduler_config",
];

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
    /// The tuned choices of kernels, if there were any; with other kernels, too, the last bits can differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<ContentId>,
    /// What was asked for, with the defaults filled in.
    pub options: Request,
    /// `scheduler_config.json` as it was used.
    pub scheduler: Value,
    /// The refiner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refiner_scheduler: Option<Value>,
    /// Option (`model`, `image` …) → file → sha256 in hexadecimal digits.
    pub files: Files,
}

/// Option → name of a file (of a model: below its folder) → sha256 in hexadecimal digits.
pub type Files = BTreeMap<String, BTreeMap<String, String>>;

/// The files of each option that names some: `(name in the record, path)`.
pub type Paths = BTreeMap<String, Vec<(String, PathBuf)>>;

/// sha256 of files, each read once.
#[derive(Debug, Default)]
pub struct Hashes(Mutex<HashMap<PathBuf, String>>);

impl Hashes {
    fn of(&self, path: &Path) -> Result<String> {
        let known = || self.0.lock().expect("no holder of this lock panics");
        if let Some(hash) = known().get(path) {
            return Ok(hash.clone());
        }
        let hash = sha256(path)?;
        known().insert(path.to_owned(), hash.clone());
        Ok(hash)
    }
}

/// Reads and hashes files that are not yet `known`.
///
/// # Errors
/// [`Error::Io`] if one cannot be read.
pub fn hash(paths: &Paths, known: &Hashes) -> Result<Files> {
    let hash_all = |files: &Vec<(String, PathBuf)>| -> Result<BTreeMap<String, String>> {
        files.iter().map(|(name, path)| Ok((name.clone(), known.of(path)?))).collect()
    };
    paths.iter().map(|(option, files)| Ok((option.clone(), hash_all(files)?))).collect()
}

impl Record {
    /// The program's name and version.
    pub fn version() -> String {
        concat!("unmist ", env!("CARGO_PKG_VERSION")).to_owned()
    }

    /// Reads the text of a record, of the picture at `path`.
    ///
    /// # Errors
    /// [`Error::Config`] if this version cannot read it.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let shown = path.display();
        let json = Json::parse(path, text.to_owned())?;
        let mut record: Self = serde_json::from_value(json.value.clone()).map_err(|error| {
            let version = json.value["version"].as_str().unwrap_or("an unknown version");
            Error::Config(format!(
                "{shown}: made by {version}, whose settings {} cannot read ({error})",
                Self::version()
            ))
        })?;
        // Pictures that do not say how their mask was read were made when there was one way.
        if record.options.mask.is_some() {
            record.options.mask_reading.get_or_insert(MaskReading::Diffusers);
        }
        Ok(record)
    }

    /// The record as JSON.
    ///
    /// # Errors
    /// As [`Request::check`].
    pub fn to_json(&self) -> Result<String> {
        let options = self.options.to_json()?;
        let mut json = serde_json::to_value(self).expect("the request was checked, and nothing else can fail");
        json["options"] = options;
        Ok(json.to_string())
    }

    /// The picture's account, for making it again.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn past(&self) -> Result<Past> {
        self.past_with(&self.scheduler)
    }

    /// As [`Record::past`], with another scheduler than the model's.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn past_with(&self, scheduler: &Value) -> Result<Past> {
        let scheduler = Some(SchedulerConfig::from_json(&scheduler.to_string())?);
        Ok(Past { request: self.options.clone(), scheduler })
    }

    /// Checks that the files are those that the picture was made with. For options that were `given` anew, it only
    /// notes that they differ.
    ///
    /// # Errors
    /// A refusal naming the first file that has changed.
    pub fn check(&self, found: &Files, given: &Request, notes: &mut Notes) -> Result<()> {
        let given = given.to_json()?;
        for (option, recorded) in &self.files {
            let now = found.get(option);
            if given.get(option).is_some() {
                if now.is_some_and(|now| !now.values().eq(recorded.values())) {
                    notes.add(format!(
                        "note: {} is not what the picture was made with; the result is another picture",
                        quoted(option)
                    ));
                }
                continue;
            }
            let changed = recorded.iter().find(|(name, hash)| now.and_then(|now| now.get(*name)) != Some(hash));
            if let Some((name, hash)) = changed {
                let now = now.and_then(|now| now.get(name)).map_or("missing".into(), |hash| format!("sha256 {hash}"));
                let field = FIELDS.into_iter().find(|field| field == option).unwrap_or("model");
                let why = format!(
                    "the picture was made with another file: {name} is {now} now, it was sha256 {hash}; give the \
                     right one"
                );
                return Err(Refusal::of(field, why).into());
            }
        }
        Ok(())
    }
}
