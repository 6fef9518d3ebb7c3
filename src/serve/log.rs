//! The log: one line for each thing that happens, on standard error.

use std::io::Write;

use serde_json::{Map, Value};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// An object a line, for programs.
    Json,
    /// None.
    Off,
}

impl Format {
    /// Writes a line about `event`. That nobody can read it is no reason to end.
    pub fn line(self, event: &str, fields: &[(&str, Value)]) {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let line = match self {
            Format::Off => return,
            Format::Json => {
                let mut object = Map::new();
                object.insert("time".into(), time.as_secs_f64().into());
                object.insert("event".into(), event.into());
                object.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
                Value::from(object).to_string()
            }
            Format::Text => {
                let fields = fields.iter().map(|(name, value)| match value {
                    Value::String(text) if !text.contains(char::is_whitespace) => format!(" {name}={text}"),
                    value => format!(" {name}={value}"),
                });
                format!("{event}{}", fields.collect::<String>())
            }
        };
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
