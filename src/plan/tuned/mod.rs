//! Measured bests: operation, attributes, shapes and element types → variant and setting.

mod table;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use table::Table;

use crate::content::ContentId;
use crate::error::Result;
use crate::kernel::texts_id;
use crate::ops::{Knobs, LowerContext, Op};

/// A variant in one setting, as it was measured for one instance. Nothing of the measurement is thrown away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The variant.
    pub variant: String,
    /// Its setting.
    #[serde(default, skip_serializing_if = "Knobs::is_empty")]
    pub knobs: Knobs,
    /// The kernels that it launches in every step, sorted.
    pub kernels: Vec<String>,
    /// Of their texts ([`texts_id`]): with other ones it is another variant, of which nothing is known.
    pub texts: ContentId,
    /// How long it took, in the order in which it was measured.
    pub seconds: Vec<f64>,
    /// Why it must not be chosen: what differs from the reference, or why the device refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
}

impl Trial {
    /// Whether its kernels are still those that were measured.
    pub fn is_current(&self) -> bool {
        texts_id(&self.kernels).is_ok_and(|id| id == self.texts)
    }

    /// `shuffle[QUADS=4 ROWS=8]`
    pub fn label(&self) -> String {
        if self.knobs.is_empty() { self.variant.clone() } else { format!("{}[{}]", self.variant, self.knobs) }
    }
}

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
    /// All that were measured, what the rules choose first; empty in a table that was written by hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trials: Vec<Trial>,
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
            trials: Vec::new(),
        }
    }

    /// What tells instances apart.
    pub fn key(&self) -> String {
        key(&self.operation, &self.attributes, &self.inputs, &self.output)
    }

    /// The measurement of what was chosen, if there is one.
    pub fn chosen(&self) -> Option<&Trial> {
        self.trials.iter().find(|trial| trial.variant == self.variant && trial.knobs == self.knobs)
    }

    /// Whether it was measured to be better than what the rules choose.
    pub fn beats_the_rules(&self) -> bool {
        self.trials.first().is_some_and(|rules| rules.variant != self.variant || rules.knobs != self.knobs)
    }
}

fn key(operation: &str, attributes: &str, inputs: &[Option<String>], output: &str) -> String {
    format!("{operation}[{attributes}] {inputs:?} {output}")
}

/// The choices of one device. Programs are remembered by the options that made them, this among them: its `Debug` text
/// is short, and always the same for the same choices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuned {
    /// Without the measurements.
    entries: BTreeMap<String, TunedEntry>,
    /// Keys of the entries of each shape class that may serve for others of it, sorted.
    classes: BTreeMap<String, Vec<String>>,
}

/// What a table says of an instance.
pub struct Found<'a> {
    /// The entry.
    pub entry: &'a TunedEntry,
    /// Whether it is for this instance; otherwise for one of its class.
    pub exact: bool,
}

impl Tuned {
    /// A table of these entries; the last one counts if two are for the same instance.
    pub fn new(entries: impl IntoIterator<Item = TunedEntry>) -> Self {
        let mut entries: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.key(), entry)).collect();
        let mut classes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        // Where the rules were right, they know better for other shapes than their choice for this one.
        for (key, entry) in entries.iter().filter(|(_, entry)| entry.beats_the_rules()) {
            if let Some(class) = class(entry) {
                classes.entry(class).or_default().push(key.clone());
            }
        }
        entries.values_mut().for_each(|entry| entry.trials.clear());
        Self { entries, classes }
    }

    /// Reads a table from a file ([`Table`]): the entries whose kernels are still those that were measured.
    ///
    /// # Errors
    /// As [`Table::read`] and [`Table::check`].
    pub fn load(path: &Path) -> Result<Self> {
        let table = Table::read(path)?;
        table.check(path)?;
        Ok(Self::new(table.usable()))
    }

    /// What tells these choices from others; `None` if there are none.
    pub fn id(&self) -> Option<ContentId> {
        (!self.entries.is_empty()).then(|| ContentId::of_debug(self))
    }

    /// How many instances it is for.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The best for `op` in `context`, if it was measured.
    ///
    /// Where this instance was not, one of its class serves: the same operation, attributes and element types, tensors
    /// of as many channels (the last dimension) and at least half and at most twice as many elements, so that it is
    /// another size of the picture or the batch; and only if there another choice was faster than the rules'. Of
    /// several, the one of the nearest size.
    pub fn find(&self, op: &Op, context: &LowerContext<'_>) -> Option<Found<'_>> {
        if self.entries.is_empty() {
            return None;
        }
        let wanted = TunedEntry::new(op, context, "", Knobs::default());
        if let Some(entry) = self.entries.get(&wanted.key()) {
            return Some(Found { entry, exact: true });
        }
        let members = self.classes.get(&class(&wanted)?)?.iter().map(|key| &self.entries[key]);
        let near = members.filter_map(|entry| Some((distance(&wanted, entry)?, entry)));
        let near = near.min_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        near.map(|(_, entry)| Found { entry, exact: false })
    }
}

/// Element type and dimensions of `f16 [1, 64, 64, 320]`.
fn parse_label(label: &str) -> Option<(&str, Vec<u64>)> {
    let (dtype, dims) = label.split_once(" [")?;
    let dims = dims.strip_suffix(']')?.split(", ").filter(|dim| !dim.is_empty());
    Some((dtype, dims.map(|dim| dim.parse().ok()).collect::<Option<_>>()?))
}

/// The labels of inputs and output.
fn labels(entry: &TunedEntry) -> impl Iterator<Item = Option<&str>> {
    entry.inputs.iter().map(Option::as_deref).chain([Some(entry.output.as_str())])
}

/// What the members of a shape class have in common; `None` for labels that nobody wrote in earnest.
fn class(entry: &TunedEntry) -> Option<String> {
    let mut class = format!("{}[{}]", entry.operation, entry.attributes);
    for label in labels(entry) {
        match label {
            None => class += " -",
            Some(label) => {
                let (dtype, dims) = parse_label(label)?;
                class += &format!(" {dtype} {} {:?}", dims.len(), dims.last());
            }
        }
    }
    Some(class)
}

/// How far two of a class are apart: the sum over the tensors of the logarithm of the ratio of their sizes; `None` if
/// one is more than twice as large.
fn distance(a: &TunedEntry, b: &TunedEntry) -> Option<f64> {
    let elements = |label: &str| Some(parse_label(label)?.1.iter().map(|dim| *dim as f64).product::<f64>());
    let mut sum = 0.0;
    for (a, b) in labels(a).zip(labels(b)) {
        if let (Some(a), Some(b)) = (a, b) {
            let ratio = (elements(a)? / elements(b)?).log2().abs();
            if ratio.is_nan() || ratio > 1.0 {
                return None;
            }
            sum += ratio;
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::Caps;
    use crate::graph::TensorDesc;
    use crate::ops::scale::Scale;

    #[test]
    fn near_shapes_are_served_where_the_rules_were_wrong() {
        let caps = Caps::webgpu_minimum();
        let op = Op::from(Scale { factor: 2.0, offset: 0.0 });
        let entry = |rows: usize, variant: &str, first: &str| {
            let desc = TensorDesc::f32([1, rows, 8]);
            let context =
                LowerContext { inputs: &[Some(&desc)], output: &desc, caps: &caps, joined: None, in_place: false };
            let mut entry = TunedEntry::new(&op, &context, variant, Knobs::default());
            let trial = |variant: &str| Trial {
                variant: variant.into(),
                knobs: Knobs::default(),
                kernels: vec!["scale/naive".into()],
                texts: texts_id(&["scale/naive".to_owned()]).expect("it is there"),
                seconds: vec![1.0],
                wrong: None,
            };
            entry.trials = vec![trial(first), trial(variant)];
            entry
        };
        let found = |tuned: &Tuned, shape: &[usize]| {
            let desc = TensorDesc::f32(shape);
            let context =
                LowerContext { inputs: &[Some(&desc)], output: &desc, caps: &caps, joined: None, in_place: false };
            tuned.find(&op, &context).map(|found| (found.entry.output.clone(), found.exact))
        };
        let tuned = Tuned::new([entry(100, "b", "a"), entry(180, "b", "a"), entry(400, "a", "a")]);
        let is = |shape: &str, exact: bool| Some((format!("f32 {shape}"), exact));
        assert_eq!(found(&tuned, &[1, 100, 8]), is("[1, 100, 8]", true));
        assert_eq!(found(&tuned, &[1, 120, 8]), is("[1, 100, 8]", false), "the nearest");
        assert_eq!(found(&tuned, &[2, 80, 8]), is("[1, 180, 8]", false), "a batch is more of the same");
        assert_eq!(found(&tuned, &[1, 360, 8]), is("[1, 180, 8]", false), "twice as many");
        assert_eq!(found(&tuned, &[1, 361, 8]), None, "more than twice, and the rules were right at 400");
        assert_eq!(found(&tuned, &[1, 400, 8]), is("[1, 400, 8]", true));
        assert_eq!(found(&tuned, &[1, 100, 9]), None, "other channels");
        assert_eq!(found(&tuned, &[100, 8]), None, "other dimensions");
    }
}
