//! LoRA files: low-rank changes of a model's weights, merged into them as they are read.
//!
//! A layer of rank r changes a weight W `[C_out, …]` to `W + scale · (alpha / r) · up · down`, with `up` `[C_out, r]`
//! and `down` `[r, …]`; for a convolution, `down` has the kernel. The stored weights stay as they are: without the
//! LoRA they read the same.
//!
//! Names are those of kohya's sd-scripts (`lora_unet_…`, `lora_te_…`, in diffusers' or in the original naming) and of
//! diffusers, before and since PEFT. Source: Hu et al. 2021, arXiv:2106.09685.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::parallel::*;
use serde_json::Value;

use super::ldm_keys::{self, Levels};
use super::weights::check_finite;
use super::{Component, Json, TensorSource, Tensors, quoted};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::files::{Disk, Files};
use crate::graph::Stored;
use crate::tensor::HostTensor;

/// What a tensor's name ends with, and what the tensor then is.
const ROLES: &[(&str, Role)] = &[
    (".lora_down.weight", Role::Down), // kohya
    (".lora_up.weight", Role::Up),
    (".lora_A.weight", Role::Down), // PEFT
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora.down.weight", Role::Down), // diffusers 0.2x
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down), // diffusers' attention processors: `attn1.processor.to_q_lora.down.weight`
    ("_lora.up.weight", Role::Up),
    (".alpha", Role::Alpha),
];

/// What a layer's name begins with, and the component it belongs to.
const PLACES: &[(&str, &str)] = &[
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("base_model.model.", "unet"), // a PEFT model saved by itself
    ("", "unet"),                  // diffusers' `save_attn_procs`
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Down,
    Up,
    Alpha,
}

/// A LoRA file, every layer complete.
#[derive(Debug)]
pub struct Lora {
    file: Tensors,
    layers: Vec<Layer>,
}

/// One changed weight: names of its tensors in the file.
#[derive(Debug)]
struct Layer {
    name: String,
    component: &'static str,
    /// The changed module, with `_` for every `.`, as it is looked up.
    module: String,
    down: String,
    up: String,
    rank: usize,
    alpha: f64,
}

impl Lora {
    /// Opens a LoRA file and checks that every layer is whole.
    ///
    /// # Errors
    /// As [`Tensors::open`]; [`Error::Checkpoint`] listing the tensors that belong to no whole layer;
    /// [`Error::Unsupported`] for other kinds of adapter (LoHa, LoKr, DoRA …), by the name of one of their tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(&Disk, path)
    }

    /// As [`Lora::open`], of a file among `files`.
    ///
    /// # Errors
    /// As [`Lora::open`].
    pub fn open_in(files: &dyn Files, path: impl AsRef<Path>) -> Result<Self> {
        Self::from_tensors(Tensors::open_in(files, path)?)
    }

    /// The LoRA that the tensors of an open file make.
    ///
    /// # Errors
    /// As [`Lora::open`].
    pub fn from_tensors(file: Tensors) -> Result<Self> {
        let shown = file.path().display().to_string();
        let mut found = BTreeMap::<&str, [Option<&str>; 3]>::new();
        let mut strange = Vec::new();
        for name in file.names() {
            match ROLES.iter().find_map(|&(end, role)| Some((name.strip_suffix(end)?, role))) {
                Some((layer, role)) => found.entry(layer).or_default()[role as usize] = Some(name),
                None => strange.push(name),
            }
        }
        let kinds = [
            "hada_",
            "lokr_",
            "dora_scale",
            "lora_mid",
            "lora_magnitude",
            "oft_",
            ".diff",
            "on_input",
            "glora",
            "bundle_emb",
        ];
        if let Some(other) = strange.iter().find(|name| kinds.iter().any(|kind| name.contains(kind))) {
            return Err(Error::Unsupported(format!(
                "{shown}: tensor {} belongs to another kind of adapter than LoRA (LoHa, LoKr, DoRA, OFT …), which is \
                not supported; merge it into a checkpoint first",
                quoted(other)
            )));
        }
        let settings = settings(&file)?;
        let mut layers = Vec::new();
        for (name, parts) in found {
            let [Some(down), Some(up), alpha] = parts else {
                strange.push(name);
                continue;
            };
            let shape = |name: &str| file.info(name).map_or(&[][..], |info| info.shape);
            let (rank, up_rank) = (shape(down).first().copied().unwrap_or(0), shape(up).get(1).copied().unwrap_or(0));
            if rank == 0 || rank != up_rank {
                return Err(Error::Checkpoint(format!(
                    "{shown}: layer {}: down {:?} and up {:?} should have the same rank, the first dimension of down \
                    and the second of up; fetch the file again",
                    quoted(name),
                    shape(down),
                    shape(up)
                )));
            }
            let (component, module) = place(name);
            let alpha = match alpha {
                Some(alpha) => {
                    let tensor = file.read_f32(alpha)?;
                    check_finite(&shown, alpha, &tensor)?;
                    let [alpha] = tensor.data[..] else {
                        return Err(Error::Checkpoint(format!(
                            "{shown}: {} should be one number, found shape {:?}",
                            quoted(name),
                            tensor.shape
                        )));
                    };
                    f64::from(alpha)
                }
                None => settings.alpha(component, name)?.unwrap_or(rank as f64),
            };
            layers.push(Layer {
                name: name.to_owned(),
                component,
                module,
                down: down.into(),
                up: up.into(),
                rank,
                alpha,
            });
        }
        if layers.is_empty() || !strange.is_empty() {
            return Err(Error::Checkpoint(format!(
                "{shown}: expected a LoRA, pairs of tensors like `….lora_down.weight` and `….lora_up.weight`; {}",
                if strange.is_empty() {
                    "the file is empty".to_owned()
                } else {
                    format!("these make no pair: {}", listed(&strange))
                }
            )));
        }
        Ok(Self { file, layers })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Merges LoRAs, each with its scale, into the weights of `components`; several add up.
///
/// # Errors
/// [`Error::Checkpoint`] listing every layer that fits no weight of the components.
pub fn apply(loras: &[(Arc<Lora>, f64)], components: &mut [&mut Component]) -> Result<()> {
    let indices: Vec<HashMap<String, String>> = components.iter().map(|component| index(component)).collect();
    let mut changes: Vec<HashMap<String, Vec<Change>>> = components.iter().map(|_| HashMap::new()).collect();
    for (lora, scale) in loras {
        let mut lost = Vec::new();
        for (number, layer) in lora.layers.iter().enumerate() {
            let fitting = components.iter().position(|component| component.name == layer.component);
            let Some((at, weight)) = fitting.and_then(|at| Some((at, indices[at].get(&layer.module)?))) else {
                lost.push(layer.name.clone());
                continue;
            };
            let shape = components[at].tensors.shape(weight).expect("it was listed");
            if let Some(problem) = misfit(&lora.file, layer, &shape) {
                lost.push(format!("{} ({problem})", layer.name));
                continue;
            }
            changes[at].entry(weight.clone()).or_default().push(Change {
                lora: lora.clone(),
                layer: number,
                scale: *scale,
            });
        }
        if !lost.is_empty() {
            let lost: Vec<_> = lost.iter().map(String::as_str).collect();
            return Err(Error::Checkpoint(format!(
                "{}: {} of {} layers do not fit the model: {}; the LoRA is for another model",
                lora.path().display(),
                lost.len(),
                lora.layers.len(),
                listed(&lost)
            )));
        }
    }
    for (component, changes) in components.iter_mut().zip(changes) {
        if !changes.is_empty() {
            component.tensors = Arc::new(Merged { weights: component.tensors.clone(), changes });
        }
    }
    Ok(())
}

/// Weights with LoRAs merged in as they are read.
struct Merged {
    weights: Arc<dyn TensorSource>,
    changes: HashMap<String, Vec<Change>>,
}

struct Change {
    lora: Arc<Lora>,
    layer: usize,
    scale: f64,
}

impl TensorSource for Merged {
    fn label(&self) -> String {
        self.weights.label()
    }

    fn names(&self) -> Vec<String> {
        self.weights.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.shape(name)
    }

    fn read_f32(&self, name: &str) -> Result<HostTensor> {
        let mut weight = self.weights.read_f32(name)?;
        let Some(changes) = self.changes.get(name) else { return Ok(weight) };
        let mut layers = Vec::new();
        for Change { lora, layer, scale } in changes {
            let layer = &lora.layers[*layer];
            let (down, up) = (lora.file.read_f32(&layer.down)?, lora.file.read_f32(&layer.up)?);
            check_finite(&lora.path().display().to_string(), &layer.down, &down)?;
            check_finite(&lora.path().display().to_string(), &layer.up, &up)?;
            layers.push((down, up, scale * layer.alpha / layer.rank as f64));
        }
        // Row by row: all changes summed in f64, added to the weight once.
        let columns = weight.len() / weight.shape[0];
        weight.data.par_chunks_mut(columns).enumerate().for_each(|(row, weights)| {
            let mut sum = vec![0.0; columns];
            for (down, up, factor) in &layers {
                let rank = down.shape[0];
                for (down, &up) in down.data.chunks_exact(columns).zip(&up.data[row * rank..]) {
                    let factor = factor * f64::from(up);
                    sum.iter_mut().zip(down).for_each(|(sum, &down)| *sum += factor * f64::from(down));
                }
            }
            weights.iter_mut().zip(sum).for_each(|(weight, sum)| *weight = (f64::from(*weight) + sum) as f32);
        });
        Ok(weight)
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        if self.changes.contains_key(name) { None } else { self.weights.stored(name) }
    }

    fn content(&self, name: &str) -> Result<ContentId> {
        let mut id = self.weights.content(name)?;
        for Change { lora, layer, scale } in self.changes.get(name).into_iter().flatten() {
            let layer = &lora.layers[*layer];
            let factor = scale * layer.alpha / layer.rank as f64;
            let (down, up) = (lora.file.content(&layer.down)?, lora.file.content(&layer.up)?);
            id = ContentId::of(&[b"lora", id.bytes(), down.bytes(), up.bytes(), &factor.to_le_bytes()]);
        }
        Ok(id)
    }
}

/// Why a layer does not fit a weight of this shape; `None` if it does.
fn misfit(file: &Tensors, layer: &Layer, weight: &[usize]) -> Option<String> {
    let without_ones = |shape: &[usize]| {
        let kept = shape.len() - shape.iter().rev().take_while(|&&dim| dim == 1).count();
        shape[..kept.max(2).min(shape.len())].to_vec()
    };
    let shape = |name: &str| file.info(name).expect("it was listed").shape.to_vec();
    let (down, up) = (shape(&layer.down), shape(&layer.up));
    let fits = weight.len() >= 2
        && without_ones(&up) == [weight[0], layer.rank]
        && without_ones(&down) == without_ones(&[&[layer.rank], &weight[1..]].concat())
        && !weight.contains(&0);
    (!fits).then(|| format!("up {up:?} and down {down:?} on a weight {weight:?}"))
}

/// Module name with `_` for `.` → the name of its weight, for every name that a LoRA may use.
fn index(component: &Component) -> HashMap<String, String> {
    let names = component.tensors.names();
    let aliases = if component.name == "unet" { ldm_keys::unet_aliases(&levels(&names)) } else { vec![] };
    let mut index = HashMap::new();
    for name in &names {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        index.insert(lookup_name(module), name.clone());
        for (ours, original) in &aliases {
            // With the point at the end, so that an alias of the whole module counts as well.
            if let Some(rest) = format!("{module}.").strip_prefix(ours) {
                index.insert(lookup_name(format!("{original}{rest}").trim_end_matches('.')), name.clone());
            }
        }
    }
    index
}

/// Residual blocks of each level, counted from the names of a U-Net's weights.
fn levels(names: &[String]) -> Levels {
    let mut layers = BTreeMap::<usize, usize>::new();
    for name in names {
        let Some((level, rest)) = name.strip_prefix("down_blocks.").and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let Some((layer, _)) = rest.strip_prefix("resnets.").and_then(|rest| rest.split_once('.')) else { continue };
        if let (Ok(level), Ok(layer)) = (level.parse(), layer.parse::<u16>()) {
            let count = layers.entry(level).or_default();
            *count = (*count).max(usize::from(layer) + 1);
        }
    }
    Levels(layers.into_values().collect())
}

/// The component and the module that a layer's name means.
fn place(name: &str) -> (&'static str, String) {
    let (rest, component) = PLACES
        .iter()
        .find_map(|&(begin, component)| Some((name.strip_prefix(begin)?, component)))
        .expect("the last begins every name");
    // Attention processors: `attn1.processor.to_out_lora` is `attn1.to_out.0`.
    let module = match rest.split_once(".processor.") {
        Some((attention, projection)) => {
            format!("{attention}.{}", if projection == "to_out" { "to_out.0" } else { projection })
        }
        None => rest.to_owned(),
    };
    (component, lookup_name(&module))
}

/// `.` and `_` are the same to kohya; whether `text_model.` stands before a text encoder's modules depends on the
/// version.
fn lookup_name(module: &str) -> String {
    let name = module.replace('.', "_");
    name.strip_prefix("text_model_").map(str::to_owned).unwrap_or(name)
}

/// PEFT's settings in the metadata, `{"unet.lora_alpha": 8, …}`, which diffusers writes since 0.34.
struct Settings(Value);

fn settings(file: &Tensors) -> Result<Settings> {
    let Some(text) = file.metadata().get("lora_adapter_metadata") else { return Ok(Settings(Value::Null)) };
    let json = Json::parse(file.path(), text.clone())?;
    for key in ["use_rslora", "use_dora"] {
        let set =
            json.value.as_object().into_iter().flatten().find(|(name, value)| name.ends_with(key) && **value == true);
        if let Some((name, _)) = set {
            return Err(Error::Unsupported(format!(
                "{}: {} is set in the metadata, and not supported",
                file.path().display(),
                quoted(name)
            )));
        }
    }
    Ok(Settings(json.value))
}

impl Settings {
    /// The alpha of a layer: its own in `alpha_pattern`, or the one for all layers.
    fn alpha(&self, component: &str, layer: &str) -> Result<Option<f64>> {
        let pattern = self.0[format!("{component}.alpha_pattern")].as_object();
        let own = pattern.into_iter().flatten().find(|(module, _)| layer.ends_with(module.as_str()));
        let value = own.map_or(&self.0[format!("{component}.lora_alpha")], |(_, value)| value);
        match value {
            Value::Null => Ok(None),
            value => value.as_f64().map(Some).ok_or_else(|| {
                Error::Checkpoint(format!("the LoRA's metadata give {value} as alpha, expected a number"))
            }),
        }
    }
}

/// Up to 20 names for a message.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 20;
    let mut text = names.iter().take(SHOWN).map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

#[cfg(test)]
#[path = "lora_tests.rs"]
mod tests;
