//! A table of measured bests: operation, attributes, shapes and element types → variant and setting.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::{Knobs, LowerContext, Op, registry};

/// One measured instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedEntry {
    /// Name of the operation.
    pub operation: String,
    /// Its attributes, as dumps show them; empty if it has none.
    #[serde(default)]
    pub attributes: String,
    /// Element types and shapes of the inputs by position, as `f16 [1, 64, 64, 320]`; null where one is absent.
    pub inputs: Vec<Option<String>>,
    /// The same of the output.
    pub output: String,
    /// The variant that was best.
    pub variant: String,
    /// Its setting.
    #[serde(default)]
    pub knobs: Knobs,
}

impl TunedEntry {
    /// The instance `op` in `context`, with its best variant and setting.
    pub fn new(op: &Op, context: &LowerContext<'_>, variant: &str, knobs: Knobs) -> Self {
        Self {
            operation: op.name().into(),
            attributes: op.attributes(),
            inputs: context.inputs.iter().map(|input| input.map(|desc| desc.label())).collect(),
            output: context.output.label(),
            variant: variant.into(),
            knobs,
        }
    }

    fn key(&self) -> String {
        key(&self.operation, &self.attributes, &self.inputs, &self.output)
    }
}

fn key(operation: &str, attributes: &str, inputs: &[Option<String>], output: &str) -> String {
    format!("{operation}[{attributes}] {inputs:?} {output}")
}

/// The measurements of one device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuned {
    entries: HashMap<String, TunedEntry>,
}

/// A table as a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The device that it was measured on, for readers.
    device: String,
    entries: Vec<TunedEntry>,
}

impl Tuned {
    /// A table of these entries; the last one counts if two are for the same instance.
    pub fn new(entries: impl IntoIterator<Item = TunedEntry>) -> Self {
        Self { entries: entries.into_iter().map(|entry| (entry.key(), entry)).collect() }
    }

    /// Reads a table: `{"device": "…", "entries": [{"operation": "linear", "inputs": […], …}, …]}`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Config`] if it is not such a table, or names an operation or
    /// a variant that does not exist.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text).map_err(|why| Error::Config(format!("{}: {why}", path.display())))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let registry = registry();
        for (number, entry) in file.entries.iter().enumerate() {
            let TunedEntry { operation, variant, .. } = entry;
            let info = registry.iter().find(|info| info.name == operation);
            let info = info.ok_or_else(|| format!("entries[{number}]: there is no operation {operation}"))?;
            if !info.variants.contains(&variant.as_str()) {
                let has = info.variants.join(", ");
                return Err(format!("entries[{number}]: {operation} has no variant {variant}; it has {has}"));
            }
        }
        Ok(Self::new(file.entries))
    }

    /// The table as the text of a file that [`Tuned::load`] reads.
    pub fn to_json(&self, device: &str) -> String {
        let mut entries: Vec<_> = self.entries.values().cloned().collect();
        entries.sort_by_key(TunedEntry::key);
        let file = File { device: device.into(), entries };
        serde_json::to_string_pretty(&file).expect("strings and numbers")
    }

    /// The best for `op` in `context`, if it was measured.
    pub fn find(&self, op: &Op, context: &LowerContext<'_>) -> Option<&TunedEntry> {
        if self.entries.is_empty() {
            return None;
        }
        let inputs: Vec<_> = context.inputs.iter().map(|input| input.map(|desc| desc.label())).collect();
        self.entries.get(&key(op.name(), &op.attributes(), &inputs, &context.output.label()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_is_wrong_with_it() {
        let refuse = |text: &str| Tuned::parse(text).expect_err("it is wrong");
        let entry = |operation: &str, variant: &str| {
            format!(
                r#"{{"device": "a", "entries": [
                    {{"operation": "{operation}", "inputs": [], "output": "", "variant": "{variant}"}}]}}"#
            )
        };
        assert!(refuse("{").contains("EOF"));
        assert!(refuse(r#"{"device": "a", "entries": [], "more": 1}"#).contains("more"));
        assert!(refuse(&entry("convolve", "naive")).contains("entries[0]: there is no operation convolve"));
        assert!(refuse(&entry("attention", "warp")).contains("attention has no variant warp; it has flash, shuffle"));
        let table = Tuned::parse(&entry("attention", "flash")).expect("well-formed");
        assert_eq!(Tuned::parse(&table.to_json("b")).expect("well-formed"), table);
    }
}
