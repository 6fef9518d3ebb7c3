//! What was measured, for people and as JSON.

use std::path::Path;

use serde_json::{Value, json};

use super::jobs::{Job, Part};
use super::whole::Compared;
use crate::measure::{Samples, Verdict};
use crate::plan::{Table, Trial, TunedEntry};

/// What was measured.
pub struct Report {
    device: String,
    table: String,
    parts: Vec<PartReport>,
    /// Each with how often it occurs in every part.
    entries: Vec<(Vec<usize>, TunedEntry)>,
    /// Instances that were not measured.
    pub left: usize,
}

struct PartReport {
    name: String,
    runs: usize,
    whole: Option<Compared>,
}

/// What was chosen against what the rules choose.
struct Gain {
    rules: Samples,
    best: Samples,
}

impl Gain {
    fn of(entry: &TunedEntry) -> Option<Self> {
        let samples = |trial: &Trial| Samples::new(trial.seconds.clone());
        let gain = Self { rules: samples(entry.trials.first()?), best: samples(entry.chosen()?) };
        (!gain.rules.is_empty() && !gain.best.is_empty()).then_some(gain)
    }

    /// How many times as fast, and the bounds of that by the bounds of both.
    fn factor(&self) -> [f64; 3] {
        let ([rules_low, rules_high], [low, high]) = (self.rules.interval(), self.best.interval());
        [rules_low / high, self.rules.median() / self.best.median(), rules_high / low]
    }
}

impl Report {
    pub fn new(table: &Table, path: &Path, parts: &[Part]) -> Self {
        let part = |part: &Part| PartReport { name: part.name.clone(), runs: part.runs, whole: None };
        Self {
            device: table.device.clone(),
            table: path.display().to_string(),
            parts: parts.iter().map(part).collect(),
            entries: Vec::new(),
            left: 0,
        }
    }

    /// Everything that a table has.
    pub fn of_table(table: &Table, path: &Path) -> Self {
        let entries = table.entries.iter().map(|entry| (Vec::new(), entry.clone())).collect();
        Self { entries, ..Self::new(table, path, &[]) }
    }

    pub fn add(&mut self, job: &Job, entry: TunedEntry) {
        self.entries.push((job.counts.clone(), entry));
    }

    pub fn whole(&mut self, part: usize, compared: Option<Compared>) {
        self.parts[part].whole = compared;
    }

    /// What is about to be done.
    pub fn heading(&self, all: usize, known: usize) -> String {
        let names: Vec<_> = self.parts.iter().map(|part| part.name.as_str()).collect();
        format!(
            "device: {}\ntable: {}\n{}: {all} different operations with a choice of kernels, {known} of them measured \
            before",
            self.device,
            self.table,
            names.join(", ")
        )
    }

    /// One instance, for people.
    pub fn line(&self, job: &Job, entry: &TunedEntry) -> String {
        format!("{}: {}", job.label(), outcome(entry))
    }

    /// Everything.
    pub fn text(&self, json: bool) -> String {
        if json { format!("{:#}\n", self.to_json()) } else { self.for_people() }
    }

    /// Seconds of one run of a part's measured instances: by the rules, and tuned.
    fn predicted(&self, part: usize) -> [f64; 2] {
        let gains =
            self.entries.iter().filter_map(|(counts, entry)| Some((*counts.get(part)? as f64, Gain::of(entry)?)));
        gains.fold([0.0; 2], |[rules, best], (count, gain)| {
            [rules + count * gain.rules.median(), best + count * gain.best.median()]
        })
    }

    fn for_people(&self) -> String {
        let mut text = String::new();
        if self.parts.is_empty() {
            text += &format!("device: {}\ntable: {}\n", self.device, self.table);
            for (_, entry) in &self.entries {
                text += &format!("{} -> {}: {}\n", entry.operation, entry.output, outcome(entry));
            }
        }
        for (index, part) in self.parts.iter().enumerate() {
            let [rules, best] = self.predicted(index).map(|seconds| 1e3 * seconds);
            let change = percent(rules, best);
            text += &format!(
                "{}: what was measured takes {rules:.3} ms of a run by the rules, {best:.3} ms tuned ({change})\n",
                part.name
            );
            if let Some(Compared { before, after }) = &part.whole {
                let word = match before.verdict(after) {
                    Verdict::Faster => "faster",
                    Verdict::Slower => "SLOWER, so give other commands --tuned off",
                    Verdict::Same => "no difference beyond the noise",
                };
                text += &format!(
                    "{}: a whole run measured: {} by the rules, {} tuned ({}): {word}\n",
                    part.name,
                    milliseconds(before),
                    milliseconds(after),
                    percent(before.median(), after.median())
                );
            }
        }
        let wrong = self.wrong();
        if !wrong.is_empty() {
            text += &format!("{} candidates are wrong or cannot run here, and are never chosen:\n", wrong.len());
        }
        wrong.iter().for_each(|(entry, trial, why)| {
            text += &format!("  {} {} -> {}: {why}\n", entry.operation, trial.label(), entry.output);
        });
        if self.left > 0 {
            text += &format!("{} operations were not measured in the time; run again to go on\n", self.left);
        }
        text
    }

    fn wrong(&self) -> Vec<(&TunedEntry, &Trial, &str)> {
        let all = self.entries.iter().flat_map(|(_, entry)| entry.trials.iter().map(move |trial| (entry, trial)));
        all.filter_map(|(entry, trial)| Some((entry, trial, trial.wrong.as_deref()?))).collect()
    }

    fn to_json(&self) -> Value {
        let measured = |samples: &Samples| json!({"median": samples.median(), "interval": samples.interval()});
        let parts = self.parts.iter().enumerate().map(|(index, part)| {
            let [rules, tuned] = self.predicted(index);
            let whole = part.whole.as_ref().map(|Compared { before, after }| {
                let verdict = before.verdict(after);
                json!({"rules": measured(before), "tuned": measured(after), "verdict": verdict})
            });
            json!({
                "name": part.name, "runs": part.runs, "rules_seconds": rules, "tuned_seconds": tuned, "whole": whole,
            })
        });
        let entries = self.entries.iter().map(|(counts, entry)| {
            let trial = |trial: Option<&Trial>| {
                let measure = |trial: &Trial| {
                    let samples = Samples::new(trial.seconds.clone());
                    json!({"variant": trial.variant, "knobs": trial.knobs, "seconds": measured(&samples)})
                };
                trial.map(measure)
            };
            let wrong = entry.trials.iter().filter_map(|trial| Some((trial.label(), trial.wrong.as_deref()?)));
            json!({
                "operation": entry.operation, "attributes": entry.attributes, "inputs": entry.inputs,
                "output": entry.output, "counts": counts, "rules": trial(entry.trials.first()),
                "chosen": trial(entry.chosen()), "factor": Gain::of(entry).map(|gain| gain.factor()),
                "tried": entry.trials.len(),
                "wrong": wrong.map(|(label, why)| json!({"candidate": label, "why": why})).collect::<Vec<_>>(),
            })
        });
        json!({
            "device": self.device, "table": self.table, "parts": parts.collect::<Vec<_>>(),
            "entries": entries.collect::<Vec<_>>(), "left": self.left,
        })
    }
}

/// `vec4 1.20 ms ± 1 % -> shuffle[ROWS=8] 1.00 ms ± 2 %: 1.20 times as fast (1.17 to 1.24); 9 tried`
fn outcome(entry: &TunedEntry) -> String {
    let label = |trial: Option<&Trial>| trial.map_or_else(|| entry.variant.clone(), Trial::label);
    let mut text = label(entry.trials.first());
    let gain = Gain::of(entry);
    if let Some(gain) = &gain {
        text += &format!(" {}", milliseconds(&gain.rules));
    }
    if entry.beats_the_rules() {
        text += &format!(" -> {}", label(entry.chosen()));
        if let Some(gain) = &gain {
            let [low, factor, high] = gain.factor();
            text += &format!(" {}: {factor:.2} times as fast ({low:.2} to {high:.2})", milliseconds(&gain.best));
        }
    } else {
        text += " stays";
    }
    let wrong = entry.trials.iter().filter(|trial| trial.wrong.is_some()).count();
    text += &format!("; {} tried", entry.trials.len());
    if wrong > 0 {
        text += &format!(", {wrong} WRONG or unable");
    }
    text
}

/// `1.204 ms ± 1 %`
fn milliseconds(samples: &Samples) -> String {
    format!("{:.3} ms ± {:.0} %", 1e3 * samples.median(), 100.0 * samples.uncertainty())
}

/// `-12.3 %`
fn percent(before: f64, after: f64) -> String {
    if before > 0.0 { format!("{:+.1} %", 100.0 * (after / before - 1.0)) } else { "nothing".into() }
}
