//! Reading a scheduler's config field by field, each value checked, each problem named. Unlike a model's config
//! (`models/config.rs`), where an unknown field is refused, it may hold fields of other schedulers, which are not
//! looked at: as in diffusers, one file serves them all.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::options::Named;
use crate::checkpoint::Json;
use crate::{Error, Result};

/// A JSON object of which only the keys in `known` are seen. A missing key and `null` both mean the default.
pub(super) struct Fields<'a> {
    given: &'a Map<String, Value>,
    known: &'a [&'a str],
}

impl<'a> Fields<'a> {
    pub fn of(given: &'a Map<String, Value>, known: &'a [&'a str]) -> Self {
        Self { given, known }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.given.get(key).filter(|value| self.known.contains(&key) && !value.is_null())
    }

    /// Whether the key is there with a value other than null.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// True or false.
    pub fn boolean(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| wrong(key, value, "true or false"))
    }

    /// A finite number in `range`, or the infinity that is the default.
    pub fn number(&self, key: &str, default: f64, range: RangeInclusive<f64>) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        // Pictures made by earlier versions spell the infinity "-∞".
        if default == f64::NEG_INFINITY && (Json::number(value) == Some(default) || value.as_str() == Some("-∞")) {
            return Ok(default);
        }
        let expected = || match *range.end() == f64::MAX {
            true => "a positive number".to_owned(),
            false => format!("a number from {} to {}", range.start(), range.end()),
        };
        value.as_f64().filter(|number| range.contains(number)).ok_or_else(|| wrong(key, value, &expected()))
    }

    /// A positive number, or none.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        if !self.has(key) {
            return Ok(None);
        }
        self.number(key, 0.0, f64::MIN_POSITIVE..=f64::MAX).map(Some)
    }

    /// A whole number in `range`.
    pub fn integer(&self, key: &str, default: usize, range: RangeInclusive<usize>) -> Result<usize> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| range.contains(number)).ok_or_else(|| wrong(key, value, &expected()))
    }

    /// A seed of up to 64 bits, or none.
    pub fn seed(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let expected = || format!("a whole number from 0 to {}", u64::MAX);
        value.as_u64().map(Some).ok_or_else(|| wrong(key, value, &expected()))
    }

    /// A list of whole numbers; none if the key is missing.
    pub fn integers(&self, key: &str) -> Result<Vec<usize>> {
        let Some(value) = self.get(key) else { return Ok(vec![]) };
        let list = value.as_array().ok_or_else(|| wrong(key, value, "a list of whole numbers"))?;
        let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        let numbers: Option<Vec<usize>> = list.iter().map(number).collect();
        numbers.ok_or_else(|| wrong(key, value, "a list of whole numbers"))
    }

    /// A list of `len` numbers, or none.
    pub fn numbers(&self, key: &str, len: usize) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let expected = format!("a list of {len} numbers (num_train_timesteps)");
        let list = value.as_array().ok_or_else(|| wrong(key, value, &expected))?;
        if list.len() != len {
            return Err(Error::Config(format!("scheduler: \"{key}\" must be {expected}, found {} values", list.len())));
        }
        let number = |(i, value): (usize, &Value)| {
            value.as_f64().ok_or_else(|| wrong(&format!("{key}[{i}]"), value, "a number"))
        };
        list.iter().enumerate().map(number).collect::<Result<Vec<f64>>>().map(Some)
    }

    /// One of the names of `T`. Without a default, the key must be present.
    pub fn one_of<T: Named>(&self, key: &str, default: Option<T>) -> Result<T> {
        let names = || T::ALL.iter().map(|(_, name)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let Some(value) = self.get(key) else {
            return default
                .ok_or_else(|| Error::Config(format!("scheduler: \"{key}\" is missing; expected one of {}", names())));
        };
        let Some(text) = value.as_str() else { return Err(wrong(key, value, &format!("one of {}", names()))) };
        T::ALL.iter().find(|(_, name)| *name == text).map(|(found, _)| *found).ok_or_else(|| {
            Error::Unsupported(format!(
                "scheduler config: \"{key}\": \"{text}\" is not supported; expected one of {}",
                names()
            ))
        })
    }
}

fn wrong(key: &str, value: &Value, expected: &str) -> Error {
    Error::Config(format!("scheduler: \"{key}\" must be {expected}, found {value}"))
}
