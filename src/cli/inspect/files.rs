//! What the files of a model are: what was found in them, what was inferred from which tensor, and what is unused.

use std::fmt;

use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, Ignore};
use crate::cli::words;
use crate::error::Result;
use crate::models::LoadedModel;

/// One component of a model.
struct Part {
    name: String,
    class: String,
    tensors: usize,
    /// Field, its value, and what it was read from.
    evidence: Vec<(String, Value, Vec<String>)>,
}

/// All that can be said without a device.
pub struct Account {
    model: String,
    what: String,
    /// The models of a single file: what each is, in whose names, and behind which prefix.
    found: Vec<String>,
    parts: Vec<Part>,
    scheduler: Option<String>,
    assumed: Vec<String>,
    unused: Vec<String>,
}

impl Account {
    /// Looks at every component of a checkpoint that may `ignore` all that is unused.
    ///
    /// # Errors
    /// As [`Checkpoint::component`].
    pub fn of(checkpoint: &Checkpoint, ignore: &Ignore) -> Result<Self> {
        let single = checkpoint.single_file();
        let class = checkpoint.pipeline_class().unwrap_or("without a pipeline");
        let mut parts = Vec::new();
        let mut unused = single.map(|file| file.unused()).unwrap_or_default();
        for name in checkpoint.component_names() {
            if !crate::checkpoint::PARTS.contains(&name.as_str()) {
                continue;
            }
            let component = checkpoint.component(&name)?;
            let evidence = single.map(|file| file.evidence(&name)).unwrap_or_default();
            let mut fields: Vec<(String, Value, Vec<String>)> = Vec::new();
            for evidence in evidence {
                match fields.iter_mut().find(|(field, ..)| field == evidence.field) {
                    Some((.., from)) => from.push(evidence.from.clone()),
                    None => {
                        let value = component.config.value[evidence.field].clone();
                        fields.push((evidence.field.to_owned(), value, vec![evidence.from.clone()]));
                    }
                }
            }
            let class = component.class_name.clone().unwrap_or_default();
            parts.push(Part { class, tensors: component.tensors.names().len(), evidence: fields, name: name.clone() });
            // What no model asks for is found by loading it; it is noted on the way.
            LoadedModel::open(checkpoint, if name == "vae" { "vae.decoder" } else { &name })?;
        }
        let scheduler = checkpoint.scheduler_config("scheduler").ok();
        let scheduler = scheduler.and_then(|config| config.value["_class_name"].as_str().map(str::to_owned));
        unused.sort();
        let ignored = ignore.taken().into_iter().map(|(file, name)| format!("{name} ({file})"));
        Ok(Self {
            model: checkpoint.path().display().to_string(),
            what: match single {
                Some(file) if checkpoint.pipeline_class().is_some() => format!("{} ({class})", file.family_name()),
                Some(_) => "a part of a model".to_owned(),
                None => class.to_owned(),
            },
            found: single.map(|file| file.places().iter().map(found).collect()).unwrap_or_default(),
            parts,
            scheduler,
            assumed: checkpoint.assumptions().iter().map(|a| words::in_flags(&a.to_string())).collect(),
            unused: unused.into_iter().chain(ignored).collect(),
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let parts: Vec<_> = self
            .parts
            .iter()
            .map(|part| {
                let evidence = part.evidence.iter();
                let evidence =
                    evidence.map(|(field, value, from)| json!({"field": field, "value": value, "from": from}));
                json!({
                    "component": part.name, "class": part.class, "tensors": part.tensors,
                    "inferred": evidence.collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "what": self.what, "found": self.found, "components": parts, "scheduler": self.scheduler,
            "assumed": self.assumed, "unused": self.unused,
        })
    }
}

fn found(place: &crate::checkpoint::Place) -> String {
    let prefix = match place.prefix.as_str() {
        "" => "without a prefix".to_owned(),
        prefix => format!("behind `{prefix}`"),
    };
    format!("{} in {} names {prefix}", place.kind.name(), place.names.owner())
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model {}\n{}", self.model, self.what)?;
        self.found.iter().try_for_each(|found| writeln!(f, "found {found}"))?;
        for part in &self.parts {
            writeln!(f, "{}: {}, {} tensors", part.name, part.class, part.tensors)?;
            for (field, value, from) in &part.evidence {
                let value = if value.is_null() { String::new() } else { format!(" {value}") };
                // The first tells most; of a list over the levels there are many.
                let more = if from.len() > 4 { format!(" and {} more", from.len() - 4) } else { String::new() };
                let from: Vec<_> = from.iter().take(4).map(String::as_str).collect();
                writeln!(f, "  {field}{value}: {}{more}", from.join(", "))?;
            }
        }
        self.scheduler.iter().try_for_each(|scheduler| writeln!(f, "scheduler: {scheduler}"))?;
        self.assumed.iter().try_for_each(|assumed| writeln!(f, "assumed: {assumed}"))?;
        const SHOWN: usize = 20;
        if !self.unused.is_empty() {
            writeln!(f, "unused, {}:", self.unused.len())?;
            self.unused.iter().take(SHOWN).try_for_each(|unused| writeln!(f, "  {unused}"))?;
            if self.unused.len() > SHOWN {
                writeln!(f, "  and {} more", self.unused.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}
