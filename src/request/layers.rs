//! Requests in layers: a value of an upper one hides those below, and each value remembers its layer.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Request;
use crate::refusal::Refusal;
use crate::schedulers::SchedulerConfig;

/// Where a value came from; the first of these that has one decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was asked for.
    Asked,
    /// The picture to make again was made with it.
    Picture,
    /// The model's own files say so: `generation_config.json`, or a config.
    Model,
    /// It suits this kind of pipeline, or follows from the other values.
    Pipeline,
}

/// A picture's own account of how it was made.
#[derive(Clone, Debug)]
pub struct Past {
    /// The request it was made from.
    pub request: Request,
    /// The scheduler that made it, if all of it is known; its name may be among the request.
    pub scheduler: Option<SchedulerConfig>,
}

/// A request, and perhaps a picture to make again, whose settings the request overrides.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What is asked for.
    pub request: Request,
    /// The picture to make again.
    pub past: Option<Past>,
}

impl From<Request> for Asked {
    fn from(request: Request) -> Self {
        Self { request, past: None }
    }
}

impl Asked {
    /// The fields that have a value, before any default.
    ///
    /// # Errors
    /// As [`Request::check`].
    pub fn merged(&self) -> Result<Request, Refusal> {
        Ok(self.layers()?.request())
    }

    pub(super) fn layers(&self) -> Result<Stack, Refusal> {
        let mut layers = Stack::default();
        layers.below(Origin::Asked, &self.request)?;
        if let Some(past) = &self.past {
            layers.below(Origin::Picture, &past.request)?;
        }
        Ok(layers)
    }
}

/// Several requests as one, with the layer of each value.
#[derive(Clone, Debug, Default)]
pub(super) struct Stack {
    values: Map<String, Value>,
    origins: BTreeMap<String, Origin>,
}

impl Stack {
    /// Puts `request` below the other layers.
    ///
    /// # Errors
    /// As [`Request::check`].
    pub fn below(&mut self, origin: Origin, request: &Request) -> Result<(), Refusal> {
        request.check()?;
        for (field, value) in values(request) {
            self.add("", &field, value, origin);
        }
        Ok(())
    }

    fn add(&mut self, group: &str, field: &str, value: Value, origin: Origin) {
        if let Value::Object(fields) = value {
            fields.into_iter().for_each(|(name, value)| self.add(field, &name, value, origin));
            return;
        }
        let values = match group {
            "" => &mut self.values,
            group => match self.values.entry(group).or_insert_with(|| Value::Object(Map::new())) {
                Value::Object(values) => values,
                _ => unreachable!("a group of fields is an object in every request"),
            },
        };
        let place = values.entry(field).or_insert(Value::Null);
        if !is_given(place) {
            *place = value;
            if is_given(place) {
                self.origins.insert(field.to_owned(), origin);
            }
        }
    }

    /// Takes the value of a field away, unless it says "nothing" anyway: 0, off, or an empty text. Whether it did.
    pub fn remove(&mut self, field: &str) -> bool {
        let nothing = |value: &Value| matches!(value.as_str(), Some("" | "off"));
        let says_nothing = match self.values.get(field) {
            None => true,
            Some(Value::Array(values)) => values.iter().all(nothing),
            Some(Value::Number(number)) => number.as_f64() == Some(0.0),
            Some(value) => nothing(value),
        };
        if says_nothing {
            return false;
        }
        let empty = values(&Request::default()).remove(field).unwrap_or_default();
        self.values.insert(field.to_owned(), empty);
        self.origins.remove(field);
        true
    }

    /// Whether a field has a value.
    pub fn given(&self, field: &str) -> bool {
        self.origins.contains_key(field)
    }

    /// The layer of a field's value.
    pub fn origin(&self, field: &str) -> Option<Origin> {
        self.origins.get(field).copied()
    }

    /// All of it as one request.
    pub fn request(&self) -> Request {
        serde_json::from_value(Value::Object(self.values.clone())).expect("each value was written by a request")
    }

    /// Every field that has a value, and the value.
    pub fn settings(&self) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        for (field, value) in &self.values {
            match value {
                Value::Object(fields) => all.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone()))),
                value => all.push((field.clone(), value.clone())),
            }
        }
        all.retain(|(_, value)| is_given(value));
        all
    }
}

impl Request {
    /// The names of all fields, those of the device among them.
    pub fn fields() -> Vec<String> {
        let mut names = Vec::new();
        for (name, value) in values(&Request::default()) {
            match value {
                Value::Object(group) => names.extend(group.keys().cloned()),
                _ => names.push(name),
            }
        }
        names
    }

    /// As a JSON object of the fields that have a value.
    ///
    /// # Errors
    /// As [`Request::check`].
    pub fn to_json(&self) -> Result<Value, Refusal> {
        self.check()?;
        let mut json = values(self);
        drop_empty(&mut json);
        Ok(Value::Object(json))
    }
}

/// Every field, with or without a value.
fn values(request: &Request) -> Map<String, Value> {
    match serde_json::to_value(request).expect("file names were checked, and nothing else can fail") {
        Value::Object(values) => values,
        _ => unreachable!("a struct is an object"),
    }
}

/// Whether a field has a value. Flags that are off, and lists without entries, have none.
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
