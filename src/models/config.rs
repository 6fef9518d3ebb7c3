//! Reading a model's `config.json` field by field: every field is honoured or refused by name.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::checkpoint::{Ignore, Json, ignore};
use crate::error::{Error, Result};
use crate::ops::activation::ActivationKind;

/// The fields of one config object. A missing field and `null` both mean the default;
/// [`ConfigReader::finish`] refuses fields that nobody asked for.
pub struct ConfigReader<'a> {
    file: String,
    fields: &'a Map<String, Value>,
    seen: RefCell<BTreeSet<String>>,
    ignore: &'a Ignore,
}

impl<'a> ConfigReader<'a> {
    /// Reads from the object that `json` holds.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not an object.
    pub fn new(json: &'a Json) -> Result<Self> {
        let file = json.path.display().to_string();
        let fields = json.value.as_object().ok_or_else(|| Error::Config(format!("{file}: expected a JSON object")))?;
        Ok(Self { file, fields, seen: RefCell::default(), ignore: &json.ignore })
    }

    /// The file, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The value of a field, unless it is missing or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.seen.borrow_mut().insert(key.to_owned());
        self.fields.get(key).filter(|v| !v.is_null())
    }

    /// Whether the field is there and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(Value::is_null)
    }

    /// diffusers' name of the class the config belongs to.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not a string.
    pub fn class_name(&self) -> Result<Option<&'a str>> {
        self.text("_class_name")
    }

    /// An [`Error::Config`] about a field.
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.fields.get(key).map_or("nothing".into(), |v| truncated(&v.to_string()));
        Error::Config(format!("{}: \"{key}\" must be {expected}, found {found}", self.file))
    }

    /// An [`Error::Unsupported`] about a field.
    pub fn unsupported(&self, key: &str, expected: &str) -> Error {
        let found = self.fields.get(key).map_or("nothing".into(), |v| truncated(&v.to_string()));
        Error::Unsupported(format!("{}: \"{key}\": {found} is not supported; expected {expected}", self.file))
    }

    /// True or false.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn boolean(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false")))
    }

    /// A whole number from 1 to 2²⁴.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.optional_count(key)?.unwrap_or(default))
    }

    /// A whole number from 1 to 2²⁴, or none.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|v| as_count(v).ok_or_else(|| self.wrong(key, "a whole number from 1 to 2^24"))).transpose()
    }

    /// A finite number within ±10⁶.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|v| v.abs() <= 1e6).ok_or_else(|| self.wrong(key, "a number within ±1e6"))
    }

    /// A positive number up to 10⁶.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn positive(&self, key: &str, default: f64) -> Result<f64> {
        let number = self.number(key, default)?;
        if number > 0.0 { Ok(number) } else { Err(self.wrong(key, "a positive number")) }
    }

    /// A string, or none.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, "a string"))).transpose()
    }

    /// A non-empty list of at most 64 strings, or none.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        list.filter(|l| (1..=64).contains(&l.len())).map(Some).ok_or_else(|| self.wrong(key, "a list of strings"))
    }

    /// A non-empty list of at most 64 whole numbers, or none.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(as_count).collect::<Option<Vec<_>>>());
        list.filter(|l| (1..=64).contains(&l.len()))
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a list of whole numbers from 1 to 2^24"))
    }

    /// A whole number from 1 to 2²⁴ for each of `len` levels: one for all, or a list.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn count_for_each(&self, key: &str, len: usize, default: usize) -> Result<Vec<usize>> {
        match self.get(key) {
            Some(value) if value.is_array() => {
                let list = self.counts(key)?.filter(|l| l.len() == len);
                list.ok_or_else(|| self.wrong(key, &format!("a whole number or a list of {len}")))
            }
            _ => Ok(vec![self.count(key, default)?; len]),
        }
    }

    /// True or false for each of `len` levels: one for all, or a list; false if missing.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn boolean_for_each(&self, key: &str, len: usize) -> Result<Vec<bool>> {
        let wrong = || self.wrong(key, &format!("true, false or a list of {len} of them"));
        match self.get(key).map(|v| (v.as_array(), v.as_bool())) {
            None => Ok(vec![false; len]),
            Some((Some(list), _)) if list.len() == len => list.iter().map(|v| v.as_bool().ok_or_else(wrong)).collect(),
            Some((_, Some(value))) => Ok(vec![value; len]),
            Some(_) => Err(wrong()),
        }
    }

    /// A non-empty list of at most 2¹⁶ numbers within ±10⁶, or none.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = |v: &Value| v.as_f64().filter(|v| v.abs() <= 1e6);
        let list = value.as_array().and_then(|list| list.iter().map(number).collect::<Option<Vec<_>>>());
        list.filter(|l| (1..=1 << 16).contains(&l.len()))
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a list of numbers within ±1e6"))
    }

    /// Height and width: one number for both, or `[height, width]`; none if missing.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn size(&self, key: &str) -> Result<Option<(usize, usize)>> {
        match self.get(key) {
            Some(value) if value.is_array() => match self.counts(key)?.as_deref() {
                Some(&[h, w]) => Ok(Some((h, w))),
                _ => Err(self.wrong(key, "a whole number or [height, width]")),
            },
            _ => Ok(self.optional_count(key)?.map(|s| (s, s))),
        }
    }

    /// An activation function, or none.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Unsupported`] naming the field.
    pub fn activation(&self, key: &str) -> Result<Option<ActivationKind>> {
        let Some(name) = self.text(key)? else { return Ok(None) };
        let known = || self.unsupported(key, "silu, swish, gelu, quick_gelu, mish or relu");
        ActivationKind::from_config(name).map(Some).map_err(|_| known())
    }

    /// Refuses a field with any value but the `neutral` ones, which describe what the engine does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming field and value.
    pub fn only(&self, key: &str, neutral: &[Value]) -> Result<()> {
        match self.get(key) {
            Some(value) if !neutral.contains(value) => {
                let allowed: Vec<_> = neutral.iter().map(Value::to_string).chain(["null".into()]).collect();
                Err(self.unsupported(key, &allowed.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    /// Accepts fields that do not change what a model computes.
    pub fn ignore(&self, keys: &[&str]) {
        self.seen.borrow_mut().extend(keys.iter().map(|k| (*k).to_owned()));
    }

    /// Refuses fields that were never asked for, but for those that may be ignored; keys that begin with `_` are
    /// diffusers' own notes.
    ///
    /// # Errors
    /// [`Error::Unused`] naming them.
    pub fn finish(self) -> Result<()> {
        let seen = self.seen.into_inner();
        let unknown: Vec<&str> = self
            .fields
            .iter()
            .filter(|(k, v)| {
                !k.starts_with('_') && !seen.contains(*k) && !v.is_null() && !LOADING.contains(&k.as_str())
            })
            .map(|(k, _)| k.as_str())
            .filter(|k| !self.ignore.takes(&self.file, k))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = unknown.iter().take(20).map(|k| truncated(k)).collect();
        let more = if unknown.len() > 20 { format!(" and {} more", unknown.len() - 20) } else { String::new() };
        let why = format!(
            "{}: unknown fields {}{more}: the engine does not know what they change",
            self.file,
            shown.join(", ")
        );
        Err(Error::Unused(ignore::refusal(why, &unknown)))
    }
}

/// Fields that say how Python's programs load a model, not what it computes.
const LOADING: &[&str] = &["torch_dtype", "dtype", "attn_implementation", "transformers_version"];

fn as_count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|v| (1..=1 << 24).contains(v))
}

fn truncated(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(77).chain("...".chars()).collect() }
}
