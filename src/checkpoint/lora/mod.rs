//! LoRA files and their relatives: changes of a model's weights, merged into them as they are read.
//!
//! A layer of rank r changes a weight W `[C_out, …]` to `W + scale · (alpha / r) · ΔW`; how ΔW is put together differs
//! (`delta.rs`): LoRA, LoCon, LoHa, LoKr, or whole. DoRA then brings the rows of the result to learnt lengths. The
//! stored weights stay as they are: without the file they read the same.
//!
//! Names are those of kohya's sd-scripts, LyCORIS, diffusers before and since PEFT, PEFT's folders, OneTrainer and
//! ComfyUI (`names.rs`); alpha may stand in the file, beside it or in its metadata (`settings.rs`).

mod delta;
mod names;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use delta::{Form, Parts};
use names::{Role, lookup_name};
use settings::Settings;

use super::ignore::{self, Ignore};
use super::ldm_keys::{self, Levels};
use super::weights::check_finite;
use super::{Component, TensorSource, Tensors, TextualInversion, quoted};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::files::{Disk, Files};
use crate::graph::{Stored, StoredType};
use crate::tensor::HostTensor;

/// Names of weights in a folder that PEFT or diffusers wrote.
const IN_FOLDERS: [&str; 2] = ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"];

/// A LoRA file, every layer complete.
#[derive(Debug)]
pub struct Lora {
    file: Tensors,
    layers: Vec<Layer>,
    /// Words that came with it.
    embeddings: Vec<TextualInversion>,
}

/// How strongly a LoRA changes a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// The U-Net.
    pub unet: f64,
    /// The text encoders.
    pub text: f64,
}

impl From<f64> for Scales {
    /// The same everywhere.
    fn from(scale: f64) -> Self {
        Self { unet: scale, text: scale }
    }
}

/// One changed module.
#[derive(Debug)]
struct Layer {
    name: String,
    component: &'static str,
    /// The changed module, with `_` for every `.`, as it is looked up.
    module: String,
    /// How its weight changes, if it does.
    form: Option<Form>,
    /// Names of its tensors in the file.
    parts: Parts,
    /// alpha / r
    scale: f64,
}

/// Which parameter of a module is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameter {
    Weight,
    Bias,
}

impl Lora {
    /// Opens a LoRA file, or a folder that holds one, and checks that every layer is whole.
    ///
    /// # Errors
    /// As [`Tensors::open`]; [`Error::Checkpoint`] listing the tensors that belong to no whole layer;
    /// [`Error::Unsupported`] for other kinds of adapter (OFT, GLoRA …), by the name of one of their tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(&Disk, path)
    }

    /// As [`Lora::open`], of a file or folder among `files`.
    ///
    /// # Errors
    /// As [`Lora::open`].
    pub fn open_in(files: &dyn Files, path: impl AsRef<Path>) -> Result<Self> {
        let file = file_of(files, path.as_ref())?;
        let file = Tensors::open_in(files, file)?;
        let settings = Settings::of(Some(files), &file)?;
        Self::new(file, &settings)
    }

    /// The LoRA that the tensors of an open file make.
    ///
    /// # Errors
    /// As [`Lora::open`].
    pub fn from_tensors(file: Tensors) -> Result<Self> {
        let settings = Settings::of(None, &file)?;
        Self::new(file, &settings)
    }

    fn new(file: Tensors, settings: &Settings) -> Result<Self> {
        let shown = file.path().display().to_string();
        let mut found = BTreeMap::<&str, Parts>::new();
        let mut words = BTreeMap::<&str, Vec<(&str, &str)>>::new();
        let mut strange = Vec::new();
        for name in file.names() {
            if let Some((word, part)) = names::bundled(name) {
                words.entry(word).or_default().push((part, name));
            } else if let Some((layer, role)) = names::role(name) {
                found.entry(layer).or_default().insert(role, name.to_owned());
            } else {
                strange.push(name);
            }
        }
        if let Some(other) = strange.iter().find(|name| names::is_foreign(name)) {
            return Err(Error::Unsupported(format!(
                "{shown}: tensor {} belongs to a kind of adapter that is not read (OFT, GLoRA, IA3 …); merge it into a \
                checkpoint first",
                quoted(other)
            )));
        }
        let mut layers = Vec::new();
        for (name, parts) in found {
            let form = Form::of(&parts);
            if form.is_none() && !parts.contains_key(&Role::DiffBias) {
                strange.push(name);
                continue;
            }
            layers.push(Layer::new(&file, settings, name, form, parts)?);
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
        let embeddings = words.into_iter().map(|(word, parts)| TextualInversion::bundled(&file, word, &parts));
        let embeddings = embeddings.collect::<Result<_>>()?;
        Ok(Self { file, layers, embeddings })
    }

    /// The files that decide what the LoRA at `path` does: its weights, and settings beside them.
    pub fn files(path: &Path) -> Vec<PathBuf> {
        let weights = file_of(&Disk, path).unwrap_or_else(|_| path.to_owned());
        let settings = weights.with_file_name("adapter_config.json");
        [weights].into_iter().chain(Some(settings).filter(|settings| Disk.is_file(settings))).collect()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The textual inversions that came with it.
    pub fn embeddings(&self) -> &[TextualInversion] {
        &self.embeddings
    }
}

/// The file of a folder that PEFT or diffusers wrote; any other path as it is.
fn file_of(files: &dyn Files, path: &Path) -> Result<PathBuf> {
    if !files.is_folder(path) {
        return Ok(path.to_owned());
    }
    let inside = IN_FOLDERS.iter().map(|name| path.join(name)).find(|file| files.is_file(file));
    inside.ok_or_else(|| {
        Error::Usage(format!(
            "{}: expected a LoRA's folder, with {} or {}; give the file itself",
            path.display(),
            IN_FOLDERS[0],
            IN_FOLDERS[1]
        ))
    })
}

impl Layer {
    fn new(file: &Tensors, settings: &Settings, name: &str, form: Option<Form>, parts: Parts) -> Result<Self> {
        let shown = file.path().display().to_string();
        let shape = |role| parts.get(&role).and_then(|name| file.info(name)).map_or(&[][..], |info| info.shape);
        let rank = form.and_then(|form| form.rank(file, &parts));
        if form == Some(Form::LowRank) && (rank.is_none_or(|r| r == 0) || rank != shape(Role::Up).get(1).copied()) {
            return Err(Error::Checkpoint(format!(
                "{shown}: layer {}: down {:?} and up {:?} should have the same rank, the first dimension of down and \
                the second of up; the file is damaged",
                quoted(name),
                shape(Role::Down),
                shape(Role::Up)
            )));
        }
        let (component, module) = names::place(name);
        let alpha = match parts.get(&Role::Alpha) {
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
                Some(f64::from(alpha))
            }
            None => None,
        };
        let scale = rank.map_or(1.0, |rank| settings.scale(component, name, rank, alpha));
        Ok(Self { name: name.to_owned(), component, module, form, parts, scale })
    }

    /// The parameters that it changes.
    fn parameters(&self) -> impl Iterator<Item = Parameter> {
        let bias = self.parts.contains_key(&Role::DiffBias).then_some(Parameter::Bias);
        self.form.map(|_| Parameter::Weight).into_iter().chain(bias)
    }

    /// Why it does not fit a parameter of this shape; `None` if it does as far as shapes of its tensors tell.
    fn misfit(&self, file: &Tensors, parameter: Parameter, shape: &[usize]) -> Option<String> {
        let of = |role| self.parts.get(&role).map(|name| file.info(name).expect("it was listed").shape.to_vec());
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let (change, fits) = match (parameter, self.form) {
            (Parameter::Bias, _) => {
                let change = of(Role::DiffBias)?;
                let fits = elements(&change) == elements(shape);
                (format!("{change:?}"), fits)
            }
            (_, Some(Form::Full)) => {
                let change = of(Role::Diff)?;
                let fits = elements(&change) == elements(shape) && change.first() == shape.first();
                (format!("{change:?}"), fits)
            }
            (_, Some(Form::LowRank)) if !self.parts.contains_key(&Role::Mid) => {
                let (down, up) = (of(Role::Down)?, of(Role::Up)?);
                let inputs = elements(shape).checked_div(*shape.first()?);
                let fits = shape.len() >= 2
                    && up.first() == shape.first()
                    && elements(&up) == up[0] * up[1]
                    && inputs == elements(&down).checked_div(down[0])
                    && inputs != Some(0);
                (format!("up {up:?} and down {down:?}"), fits)
            }
            // What the others make is known when they are put together.
            _ => (String::new(), shape.len() >= 2),
        };
        (!fits).then(|| format!("{change} on a parameter {shape:?}"))
    }
}

/// Merges LoRAs, each with its scales, into the weights of `components`; several add up.
///
/// # Errors
/// [`Error::Unused`] listing every layer that fits no weight of the components and may not be ignored.
pub fn apply(loras: &[(Arc<Lora>, Scales)], components: &mut [&mut Component], ignore: &Ignore) -> Result<()> {
    let indices: Vec<HashMap<String, String>> = components.iter().map(|component| index(component)).collect();
    let mut changes: Vec<HashMap<String, Vec<Change>>> = components.iter().map(|_| HashMap::new()).collect();
    for (lora, scales) in loras {
        let label = lora.path().display().to_string();
        let (mut lost, mut names) = (Vec::new(), Vec::new());
        let mut lose = |layer: &Layer, why: &str| {
            if !ignore.takes(&label, &layer.name) {
                lost.push(format!("{}{why}", layer.name));
                names.push(layer.name.clone());
            }
        };
        for (number, layer) in lora.layers.iter().enumerate() {
            let fitting = components.iter().position(|component| component.name == layer.component);
            let Some((at, module)) = fitting.and_then(|at| Some((at, indices[at].get(&layer.module)?))) else {
                lose(layer, "");
                continue;
            };
            for parameter in layer.parameters() {
                let end = if parameter == Parameter::Weight { "weight" } else { "bias" };
                let name = format!("{module}.{end}");
                let shape = components[at].tensors.shape(&name);
                let problem = match &shape {
                    None => Some(format!("the module has no {end}")),
                    Some(shape) => layer.misfit(&lora.file, parameter, shape),
                };
                if let Some(problem) = problem {
                    lose(layer, &format!(" ({problem})"));
                    continue;
                }
                let scale = if layer.component == "unet" { scales.unet } else { scales.text };
                let change = Change { lora: lora.clone(), layer: number, parameter, scale };
                changes[at].entry(name).or_default().push(change);
            }
        }
        if !lost.is_empty() {
            let lost: Vec<_> = lost.iter().map(String::as_str).collect();
            let why = format!(
                "{label}: {} of {} layers do not fit the model: {}; the LoRA is for another model",
                lost.len(),
                lora.layers.len(),
                listed(&lost)
            );
            // Of a LoRA that is wholly for another model nothing would be left.
            if names.len() == lora.layers.len() {
                return Err(Error::Checkpoint(why));
            }
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(Error::Unused(ignore::refusal(format!("{why}, or in part for something else"), &names)));
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
    parameter: Parameter,
    scale: f64,
}

impl Change {
    fn layer(&self) -> &Layer {
        &self.lora.layers[self.layer]
    }

    /// Changes a parameter of this shape.
    fn apply(&self, values: &mut [f64], shape: &[usize]) -> Result<()> {
        let (layer, file) = (self.layer(), &self.lora.file);
        let read = |role: Role| -> Result<Option<HostTensor>> {
            let Some(name) = layer.parts.get(&role) else { return Ok(None) };
            let tensor = file.read_f32(name)?;
            check_finite(&file.path().display().to_string(), name, &tensor)?;
            Ok(Some(tensor))
        };
        let add = |values: &mut [f64], delta: &[f64], factor: f64| {
            values.iter_mut().zip(delta).for_each(|(value, delta)| *value += factor * delta);
        };
        let Some(form) = layer.form.filter(|_| self.parameter == Parameter::Weight) else {
            let delta: Vec<f64> = read(Role::DiffBias)?.into_iter().flat_map(|t| t.data).map(f64::from).collect();
            add(values, &delta, self.scale);
            return Ok(());
        };
        let delta = delta::delta(file, form, &layer.parts, shape)?;
        let by_output = layer.parts.contains_key(&Role::OutputMagnitude);
        let role = if by_output { Role::OutputMagnitude } else { Role::Magnitude };
        let Some(magnitudes) = read(role)? else {
            add(values, &delta, self.scale * layer.scale);
            return Ok(());
        };
        let mut changed = values.to_vec();
        add(&mut changed, &delta, layer.scale);
        delta::to_magnitudes(&mut changed, &magnitudes, by_output, shape, &layer.name)?;
        values.iter_mut().zip(changed).for_each(|(value, changed)| *value += self.scale * (changed - *value));
        Ok(())
    }
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
        // All changes in f64, rounded once.
        let mut values: Vec<f64> = weight.data.iter().map(|v| f64::from(*v)).collect();
        changes.iter().try_for_each(|change| change.apply(&mut values, &weight.shape))?;
        weight.data.iter_mut().zip(values).for_each(|(weight, value)| *weight = value as f32);
        Ok(weight)
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        if self.changes.contains_key(name) { None } else { self.weights.stored(name) }
    }

    fn stored_as(&self, name: &str) -> Option<StoredType> {
        self.weights.stored_as(name)
    }

    fn content(&self, name: &str) -> Result<ContentId> {
        let mut id = self.weights.content(name)?;
        for change in self.changes.get(name).into_iter().flatten() {
            let layer = change.layer();
            id = ContentId::of(&[b"lora", id.bytes(), &change.scale.to_le_bytes(), &layer.scale.to_le_bytes()]);
            for (role, part) in &layer.parts {
                let content = change.lora.file.content(part)?;
                id = ContentId::of(&[id.bytes(), format!("{role:?}").as_bytes(), content.bytes()]);
            }
        }
        Ok(id)
    }
}

/// Module name with `_` for `.` → the module's name, for every name that a LoRA may use.
fn index(component: &Component) -> HashMap<String, String> {
    let names = component.tensors.names();
    let aliases = if component.name == "unet" { ldm_keys::unet_aliases(&Levels::of_ours(&names)) } else { vec![] };
    let mut index = HashMap::new();
    for name in &names {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        index.insert(lookup_name(module), module.to_owned());
        for (ours, original) in &aliases {
            // With the point at the end, so that an alias of the whole module counts as well.
            if let Some(rest) = format!("{module}.").strip_prefix(ours) {
                index.insert(lookup_name(format!("{original}{rest}").trim_end_matches('.')), module.to_owned());
            }
        }
    }
    index
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
mod tests;
