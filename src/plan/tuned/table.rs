//! Tuned choices as a file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Trial, TunedEntry};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::kernel::texts_id;
use crate::ops::registry;
use crate::output::write_atomic;

/// The measurements of one device, as they are kept:
/// `{"device": "…", "adapter": "…", "entries": [{"operation": "contraction", "inputs": […], …}, …]}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The device that it was measured on: adapter, backend and driver, as reports name it.
    pub device: String,
    /// The adapter alone, as its driver names it; empty in a table that was written by hand.
    #[serde(default)]
    pub adapter: String,
    /// The instances, each once.
    pub entries: Vec<TunedEntry>,
}

impl Table {
    /// Parses a table.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let table: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        for (number, entry) in table.entries.iter().enumerate() {
            let seconds = entry.trials.iter().flat_map(|trial| &trial.seconds);
            if let Some(bad) = seconds.into_iter().find(|seconds| !(seconds.is_finite() && **seconds >= 0.0)) {
                return Err(format!("entries[{number}]: expected seconds of 0 and more, found {bad}"));
            }
        }
        Ok(table)
    }

    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Config`] if it is not a table.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text).map_err(|why| Error::Config(format!("{}: {why}", path.display())))
    }

    /// Checks that all operations and variants exist, for a table that a user gives: of one that the program keeps for
    /// itself, what another version of it wrote is passed over.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file at `path`, and the entry.
    pub fn check(&self, path: &Path) -> Result<()> {
        match self.unknown().into_iter().next() {
            Some((number, why)) => Err(Error::Config(format!("{}: entries[{number}]: {why}", path.display()))),
            None => Ok(()),
        }
    }

    /// The entries that name what does not exist, and why.
    fn unknown(&self) -> BTreeMap<usize, String> {
        let registry = registry();
        let unknown = |entry: &TunedEntry| {
            let TunedEntry { operation, variant, .. } = entry;
            let Some(info) = registry.iter().find(|info| info.name == operation) else {
                return Some(format!("there is no operation {operation}"));
            };
            let has = info.variants.join(", ");
            let known = info.variants.contains(&variant.as_str());
            (!known).then(|| format!("{operation} has no variant {variant}; it has {has}"))
        };
        self.entries.iter().enumerate().filter_map(|(number, entry)| Some((number, unknown(entry)?))).collect()
    }

    /// The entries that can be used: operation and variant exist, and the variant's kernels are still those that were
    /// measured.
    pub fn usable(&self) -> Vec<TunedEntry> {
        let unknown = self.unknown();
        let known = self.entries.iter().enumerate().filter(|(number, _)| !unknown.contains_key(number));
        // Many entries have the same kernels.
        let mut texts: HashMap<Vec<String>, Option<ContentId>> = HashMap::new();
        let mut now = |trial: &Trial| {
            let kernels = &trial.kernels;
            trial.wrong.is_none()
                && *texts.entry(kernels.clone()).or_insert_with(|| texts_id(kernels).ok()) == Some(trial.texts)
        };
        let current = |entry: &&TunedEntry| entry.trials.is_empty() || entry.chosen().is_some_and(&mut now);
        known.map(|(_, entry)| entry).filter(current).cloned().collect()
    }

    /// The entry for the same instance as `other`, if there is one.
    pub fn find(&self, other: &TunedEntry) -> Option<&TunedEntry> {
        let key = other.key();
        self.entries.iter().find(|entry| entry.key() == key)
    }

    /// Adds an entry, in place of one for the same instance.
    pub fn insert(&mut self, entry: TunedEntry) {
        let key = entry.key();
        self.entries.retain(|known| known.key() != key);
        self.entries.push(entry);
    }

    /// The text of a file that [`Table::read`] reads: an entry a line, sorted, so that two tables can be compared.
    pub fn to_json(&self) -> String {
        fn text(value: &impl Serialize) -> String {
            serde_json::to_string(value).expect("strings and finite numbers")
        }
        let mut lines: Vec<_> = self.entries.iter().map(|entry| (entry.key(), text(entry))).collect();
        lines.sort();
        let lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
        let (device, adapter) = (text(&self.device), text(&self.adapter));
        let entries = if lines.is_empty() { String::new() } else { format!("\n{}\n", lines.join(",\n")) };
        format!("{{\"device\": {device},\n\"adapter\": {adapter},\n\"entries\": [{entries}]}}\n")
    }

    /// Writes it to a file, whole or not at all.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.to_json();
        write_atomic(path, |file| file.write_all(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Knobs;
    use crate::plan::Tuned;

    fn hand_written(operation: &str, variant: &str) -> String {
        format!(
            r#"{{"device": "a", "entries": [
                {{"operation": "{operation}", "inputs": [], "output": "", "variant": "{variant}"}}]}}"#
        )
    }

    #[test]
    fn a_table_says_what_is_wrong_with_it() {
        let refuse = |text: &str| Table::parse(text).expect_err("it is wrong");
        let path = Path::new("t.json");
        let unknown = |text: &str| {
            let table = Table::parse(text).expect("well-formed");
            assert!(table.usable().is_empty());
            table.check(path).expect_err("it is wrong").to_string()
        };
        assert!(refuse("{").contains("EOF"));
        assert!(refuse(r#"{"device": "a", "entries": [], "more": 1}"#).contains("more"));
        assert!(
            unknown(&hand_written("convolve", "naive")).contains("t.json: entries[0]: there is no operation convol")
        );
        let message = unknown(&hand_written("attention", "warp"));
        assert!(message.contains("attention has no variant warp; it has matrix, flash, shuffle"), "{message}");
        let negative = r#"{"device": "a", "entries": [{"operation": "scale", "inputs": [], "output": "",
            "variant": "naive", "trials": [{"variant": "naive", "kernels": [], "seconds": [1.0, -1.0], "texts":
            "0000000000000000000000000000000000000000000000000000000000000000"}]}]}"#;
        assert!(refuse(negative).contains("entries[0]: expected seconds of 0 and more, found -1"));
        let table = Table::parse(&hand_written("attention", "flash")).expect("well-formed");
        assert_eq!(Table::parse(&table.to_json()).expect("well-formed"), table);
        assert_eq!(Tuned::new(table.usable()).len(), 1, "what a hand wrote needs no measurement");
    }

    #[test]
    fn what_was_measured_comes_back_and_counts_while_its_kernels_are_the_same() {
        let trial = |variant: &str, kernel: &str| Trial {
            variant: variant.into(),
            knobs: Knobs::of([("TILE", 64)]),
            kernels: vec![kernel.into()],
            texts: texts_id(&[kernel.to_owned()]).expect("it is there"),
            seconds: vec![1.5e-3, 0.1 + 0.2],
            wrong: None,
        };
        let wrong = Trial { wrong: Some("differs".into()), ..trial("vec4", "softmax/rows") };
        let mut table = Table::parse(&hand_written("softmax", "rows")).expect("well-formed");
        let entry = &mut table.entries[0];
        entry.knobs = Knobs::of([("TILE", 64)]);
        entry.trials = vec![trial("naive", "softmax/naive"), trial("rows", "softmax/rows"), wrong];
        table.adapter = "quoted \"GPU\"".into();
        assert_eq!(Table::parse(&table.to_json()).expect("just written"), table);
        assert_eq!(table.usable().len(), 1);
        assert!(table.entries[0].beats_the_rules());
        // Another text of what was not chosen changes nothing.
        table.entries[0].trials[0].texts = texts_id(&[]).expect("of nothing");
        assert_eq!(table.usable().len(), 1);
        table.entries[0].trials[1].texts = texts_id(&[]).expect("of nothing");
        assert_eq!(table.usable().len(), 0, "another text of what was");
        table.entries[0].trials[1] = Trial { wrong: Some("differs".into()), ..trial("rows", "softmax/rows") };
        assert_eq!(table.usable().len(), 0, "it is wrong");
    }
}
