//! What stands beside an adapter's tensors: PEFT's `adapter_config.json`, the same in diffusers' metadata, and kohya's
//! metadata.

use serde_json::{Map, Value};

use crate::checkpoint::{Json, Tensors, quoted};
use crate::error::{Error, Result};
use crate::files::Files;

/// How strongly a layer of rank r counts where the file has no alpha of its own.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// PEFT's, for each component, or for all (an empty name).
    peft: Vec<(String, Peft)>,
    /// kohya's alpha for all layers.
    alpha: Option<f64>,
}

#[derive(Debug)]
struct Peft {
    alpha: Option<f64>,
    /// Ends of module names with an alpha of their own.
    alphas: Vec<(String, f64)>,
    /// Rank-stabilised: alpha / √r. Kalajdzievski 2023, arXiv:2312.03732.
    stabilised: bool,
}

impl Settings {
    /// Reads the settings of the adapter in `file`, which is one of `files`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for settings that change the meaning of the tensors and are not known, by name;
    /// [`Error::Checkpoint`] for numbers that are none.
    pub fn of(files: Option<&dyn Files>, file: &Tensors) -> Result<Self> {
        let mut settings = Self::default();
        let beside = file.path().with_file_name("adapter_config.json");
        if let Some(files) = files.filter(|files| files.is_file(&beside)) {
            let json = Json::read_in(files, beside)?;
            let empty = Map::new();
            let shown = json.path.display().to_string();
            settings.peft.push((String::new(), peft(json.value.as_object().unwrap_or(&empty), "", &shown)?));
        }
        let shown = format!("{}: the metadata", file.path().display());
        if let Some(text) = file.metadata().get("lora_adapter_metadata") {
            let json = Json::parse(file.path(), text.clone())?;
            let fields = json.value.as_object().cloned().unwrap_or_default();
            let mut components: Vec<&str> = fields.keys().filter_map(|key| Some(key.split_once('.')?.0)).collect();
            components.dedup();
            for component in components {
                settings.peft.push((component.to_owned(), peft(&fields, &format!("{component}."), &shown)?));
            }
        }
        settings.alpha = file.metadata().get("ss_network_alpha").and_then(|text| text.parse().ok());
        Ok(settings)
    }

    /// The factor on a layer's change. `own` is the layer's alpha, where the file has it.
    pub fn scale(&self, component: &str, layer: &str, rank: usize, own: Option<f64>) -> f64 {
        let rank = rank as f64;
        let peft = self.peft.iter().find(|(name, _)| name.is_empty() || name == component).map(|(_, peft)| peft);
        let Some(peft) = peft.filter(|_| own.is_none()) else {
            return own.or(self.alpha).unwrap_or(rank) / rank;
        };
        let fits = |end: &str| layer == end || layer.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
        let pattern = peft.alphas.iter().find(|(end, _)| fits(end)).map(|(_, alpha)| *alpha);
        let alpha = pattern.or(peft.alpha).unwrap_or(rank);
        alpha / if peft.stabilised { rank.sqrt() } else { rank }
    }
}

/// PEFT's settings: those of `fields` that begin with `prefix`.
fn peft(fields: &Map<String, Value>, prefix: &str, shown: &str) -> Result<Peft> {
    let field = |name: &str| fields.get(&format!("{prefix}{name}")).filter(|value| !value.is_null());
    let number = |name: &str, value: &Value| {
        value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| {
            Error::Checkpoint(format!("{shown}: `{name}` is {value}, expected a number; the file is damaged"))
        })
    };
    if let Some(kind) = field("peft_type").and_then(Value::as_str).filter(|kind| *kind != "LORA") {
        return Err(Error::Unsupported(format!(
            "{shown}: `peft_type` is {}; of PEFT's adapters only LORA is read: merge it into the model first",
            quoted(kind)
        )));
    }
    let mut alphas = Vec::new();
    for (module, alpha) in field("alpha_pattern").and_then(Value::as_object).into_iter().flatten() {
        // PEFT takes the key for a regular expression.
        if module.contains(['*', '+', '?', '[', '(', '|', '\\', '^', '$']) {
            return Err(Error::Unsupported(format!(
                "{shown}: `alpha_pattern` has the pattern {}; only ends of module names are read",
                quoted(module)
            )));
        }
        alphas.push((module.clone(), number("alpha_pattern", alpha)?));
    }
    let alpha = field("lora_alpha").map(|value| number("lora_alpha", value)).transpose()?;
    Ok(Peft { alpha, alphas, stabilised: field("use_rslora") == Some(&Value::Bool(true)) })
}
