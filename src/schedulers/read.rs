//! Reading a `scheduler_config.json`: which scheduler it is for, and what to do with keys and classes that are unknown.

use serde_json::{Map, Value};

use super::config::SchedulerConfig;
use super::fields::Fields;
use super::keys::known_keys;
use super::options::{Named, SchedulerClass};
use crate::checkpoint::{Json, ignore, quoted};
use crate::refusal::{Refusal, Remedy};
use crate::{Error, Result};

impl SchedulerConfig {
    /// Parses the text of a `scheduler_config.json`, whose `_class_name` says which scheduler.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not a JSON object or a value makes no sense; [`Error::Unsupported`] for names that
    /// the engine does not know.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::read(&Json::parse("scheduler_config.json", text.to_owned())?)
    }

    /// As [`SchedulerConfig::from_json`], of a file. Unknown keys are refused but for those that may be ignored.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`]; [`Error::Refused`] for a class that the engine does not know,
    /// [`Error::Unused`] for unknown keys.
    pub fn read(json: &Json) -> Result<Self> {
        let mut given = object(json)?;
        let class = match given.get("_class_name") {
            Some(Value::String(name)) if !SchedulerClass::ALL.iter().any(|(_, known)| known == name) => {
                return Err(unknown_class(json, name, &given));
            }
            Some(_) => Fields::of(&given, &["_class_name"]).one_of("_class_name", None)?,
            None => return Err(Error::Config(format!("{}: there is no \"_class_name\"", json.path.display()))),
        };
        drop_notes(&mut given);
        drop_unknown_keys(json, class, &mut given)?;
        Self::new(class, given)
    }

    /// As [`SchedulerConfig::read`], where another scheduler is wanted
    /// ([`with_class`](SchedulerConfig::with_class)): of one that the engine does not know, what its config says of the
    /// model's training, the forward process and what the model predicts, as a DDPM scheduler.
    ///
    /// # Errors
    /// As [`SchedulerConfig::read`] if it does not say how the model was noised, by a schedule of betas.
    pub fn training(json: &Json) -> Result<Self> {
        let mut given = object(json)?;
        let class = given.get("_class_name").and_then(Value::as_str);
        let known = class.is_none_or(|name| SchedulerClass::ALL.iter().any(|(_, known)| *known == name));
        if known || !tells_betas(&given) {
            return Self::read(json);
        }
        drop_notes(&mut given);
        let known = known_keys();
        given.retain(|key, _| known.contains(&key.as_str()));
        Self::new(SchedulerClass::Ddpm, given)
    }
}

/// Drops diffusers' notes to itself, and the keys that these say it filled in by itself: another class uses its own
/// defaults for them.
fn drop_notes(given: &mut Map<String, Value>) {
    if let Some(Value::Array(defaulted)) = given.remove("_use_default_values") {
        given.retain(|key, _| !defaulted.iter().any(|d| d.as_str() == Some(key)));
    }
    given.retain(|key, _| !key.starts_with('_'));
}

fn object(json: &Json) -> Result<Map<String, Value>> {
    let object = json.value.as_object().cloned();
    object.ok_or_else(|| Error::Config(format!("{}: expected a JSON object", json.path.display())))
}

/// Whether a config says how the model was noised, by a schedule of betas.
fn tells_betas(given: &Map<String, Value>) -> bool {
    let has = |key: &str| given.get(key).is_some_and(|value| !value.is_null());
    has("trained_betas") || ["beta_start", "beta_end", "beta_schedule"].into_iter().all(has)
}

fn unknown_class(json: &Json, name: &str, given: &Map<String, Value>) -> Error {
    let known: Vec<_> = SchedulerClass::ALL.iter().map(|(_, name)| *name).collect();
    let why = format!("the model's own, {}: it is not supported; there are {}", json.path.display(), known.join(", "));
    let refusal = Refusal::of_value("scheduler", quoted(name), why);
    if tells_betas(given) {
        return refusal.instead(Remedy::Change("scheduler")).into();
    }
    let none = "; another cannot take its place, because no schedule of betas says how the model was noised";
    Refusal { why: refusal.why + none, ..refusal }.into()
}

/// Drops unknown keys that may be ignored, and refuses the others.
fn drop_unknown_keys(json: &Json, class: SchedulerClass, given: &mut Map<String, Value>) -> Result<()> {
    let known = known_keys();
    // `predict_epsilon: false` once meant what `prediction_type: "sample"` means today; true was, and is, the default.
    if given.remove("predict_epsilon").is_some_and(|value| value != Value::Bool(true)) {
        return Err(Error::Unsupported(format!(
            "{}: \"predict_epsilon\" is obsolete; write \"prediction_type\": \"sample\" instead",
            json.path.display()
        )));
    }
    let file = json.path.display().to_string();
    given.retain(|key, value| known.contains(&key.as_str()) || !(value.is_null() || json.ignore.takes(&file, key)));
    let unknown: Vec<&str> = given.keys().map(String::as_str).filter(|key| !known.contains(key)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = unknown.iter().map(|key| format!("{} ({})", quoted(key), given[*key])).collect();
    let why = format!("{file}: unknown keys of {}: {}", class.name(), shown.join(", "));
    Err(Error::Unused(ignore::refusal(why, &unknown)))
}
