//! What a model takes its parameters from: stored tensors matched strictly against the list the model expects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::ignore::{self, Ignore};
use super::{Component, quoted, rename};
use crate::content::ContentId;
use crate::encode;
use crate::error::{Error, Result};
use crate::graph::{Stored, StoredType, WeightPart, WeightSource, content_of, expect_own};
use crate::tensor::HostTensor;

/// Named tensors, wherever they come from: files ([`super::Tensors`]), memory (a `HashMap`), or another source changed
/// on the way (renamed, split, merged with a LoRA).
pub trait TensorSource: Send + Sync {
    /// The file, for messages.
    fn label(&self) -> String;
    /// Names of all tensors.
    fn names(&self) -> Vec<String>;
    /// Dimensions of a tensor; `None` if there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// Reads a tensor as f32.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is no such tensor or it cannot be read.
    fn read_f32(&self, name: &str) -> Result<HostTensor>;
    /// A tensor of floats as it lies in memory or in a mapped file; `None` if it has to be computed, or is not there.
    fn stored(&self, _name: &str) -> Option<Stored<'_>> {
        None
    }
    /// The type that a tensor of floats is stored as, also where its elements have to be computed from them; `None` for
    /// one of blocks or 8-bit floats, and if there is none of that name.
    fn stored_as(&self, name: &str) -> Option<StoredType> {
        self.stored(name).map(|stored| stored.dtype)
    }
    /// Tells contents apart: see [`WeightSource::content`].
    ///
    /// # Errors
    /// As [`TensorSource::read_f32`].
    fn content(&self, name: &str) -> Result<ContentId> {
        Ok(content_of(&self.read_f32(name)?))
    }
}

impl TensorSource for HashMap<String, HostTensor> {
    fn label(&self) -> String {
        "tensors in memory".into()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.get(name).map(|tensor| tensor.shape.clone())
    }

    fn read_f32(&self, name: &str) -> Result<HostTensor> {
        self.get(name)
            .cloned()
            .ok_or_else(|| Error::Checkpoint(format!("{}: there is no tensor {}", self.label(), quoted(name))))
    }
}

/// The parameters of one model: every expected tensor is there, in the expected shape. Nothing is read before it is
/// asked for.
#[derive(Clone)]
pub struct Weights {
    source: Arc<dyn TensorSource>,
    /// Name in the model → name in the file, expected shape.
    tensors: BTreeMap<String, (String, Vec<usize>)>,
}

impl Weights {
    /// Matches the tensors of `source` against `expected`, the names and shapes of a model's parameters.
    ///
    /// Old names and shapes are recognised ([`rename`]); otherwise the match is strict.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing ALL missing, unused and wrongly shaped tensors (the first 20 of each kind
    /// by name).
    pub fn new(source: Arc<dyn TensorSource>, expected: &[(String, Vec<usize>)]) -> Result<Self> {
        Self::matched(source, expected, &Ignore::default())
    }

    /// As [`Weights::new`], of a component, but for tensors that may be ignored.
    ///
    /// # Errors
    /// As [`Weights::new`].
    pub fn of(component: &Component, expected: &[(String, Vec<usize>)]) -> Result<Self> {
        Self::matched(component.tensors.clone(), expected, &component.ignore)
    }

    fn matched(source: Arc<dyn TensorSource>, expected: &[(String, Vec<usize>)], ignore: &Ignore) -> Result<Self> {
        let expected: BTreeMap<&str, &[usize]> =
            expected.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        let stored: BTreeSet<String> = source.names().into_iter().collect();

        // The model's names first, so that an old name never displaces one that fits as it stands.
        let (known, unknown): (Vec<String>, Vec<String>) =
            stored.into_iter().partition(|name| expected.contains_key(name.as_str()));
        let mut found: BTreeMap<String, String> = known.into_iter().map(|name| (name.clone(), name)).collect();
        let mut problems = Problems::default();
        for name in unknown {
            let current = rename::current_names(&name)
                .into_iter()
                .find(|new| expected.contains_key(new.as_str()) && !found.contains_key(new));
            match current {
                Some(current) => drop(found.insert(current, name)),
                None if rename::is_harmless(&name) || ignore.takes(&source.label(), &name) => {}
                None => problems.unused.push((name.clone(), source.shape(&name).unwrap_or_default())),
            }
        }

        let mut tensors = BTreeMap::new();
        for (&name, &shape) in &expected {
            let Some(stored_name) = found.remove(name) else {
                problems.missing.push(format!("{} {shape:?}", quoted(name)));
                continue;
            };
            let stored_shape = source.shape(&stored_name).unwrap_or_default();
            if stored_shape == shape || rename::same_weight(name, &stored_shape, shape) {
                tensors.insert(name.to_owned(), (stored_name, shape.to_vec()));
            } else {
                problems
                    .misshapen
                    .push(format!("{}: expected {shape:?}, found {stored_shape:?}", quoted(&stored_name)));
            }
        }
        problems.report(&source.label(), expected.len())?;
        Ok(Self { source, tensors })
    }

    /// Names of the model's parameters, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of parameters (elements of all tensors).
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// The shape that the model expects of a parameter.
    ///
    /// # Panics
    /// If `name` was not in the list given to [`Weights::new`].
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.find(name).1
    }

    /// The file the parameters come from, for messages.
    pub fn label(&self) -> String {
        self.source.label()
    }

    /// Reads one parameter, in the shape the model expects.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it cannot be read or holds a NaN or an infinity.
    ///
    /// # Panics
    /// If `name` was not in the list given to [`Weights::new`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let (stored_name, shape) = self.find(name);
        let mut tensor = self.source.read_f32(stored_name)?;
        check_finite(&self.source.label(), stored_name, &tensor)?;
        tensor.shape.clone_from(shape); // the same elements: `new` has compared the shapes
        Ok(tensor)
    }

    /// The name in the file and the expected shape of the model's parameter `name`.
    fn find(&self, name: &str) -> &(String, Vec<usize>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("`{name}` is not among the parameters the model listed"))
    }
}

impl WeightSource for Weights {
    fn read(&self, part: &WeightPart) -> Result<HostTensor> {
        expect_own(part)?;
        self.tensor(&part.name)
    }

    fn stored(&self, part: &WeightPart) -> Result<Option<Stored<'_>>> {
        expect_own(part)?;
        let (name, _) = self.find(&part.name);
        let Some(stored) = self.source.stored(name) else { return Ok(None) };
        match encode::non_finite(&stored) {
            None => Ok(Some(stored)),
            // Read again for the message, which shows the element.
            Some(_) => check_finite(&self.source.label(), name, &self.source.read_f32(name)?).map(|()| None),
        }
    }

    fn content(&self, part: &WeightPart) -> Result<ContentId> {
        expect_own(part)?;
        self.source.content(&self.find(&part.name).0)
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({}, {} tensors)", self.source.label(), self.tensors.len())
    }
}

/// Refuses a tensor with NaN or infinite elements, naming the file, the tensor, the first such element and how many
/// there are.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn check_finite(label: &str, name: &str, tensor: &HostTensor) -> Result<()> {
    let Some(first) = tensor.data.iter().position(|v| !v.is_finite()) else { return Ok(()) };
    let count = tensor.data[first..].iter().filter(|v| !v.is_finite()).count();
    Err(Error::Checkpoint(format!(
        "{label}: tensor {} holds {count} NaN or infinite elements (the first, element {first}, is {}); \
         the training diverged or a conversion overflowed: fetch or convert it again",
        quoted(name),
        tensor.data[first]
    )))
}

#[derive(Default)]
struct Problems {
    missing: Vec<String>,
    unused: Vec<(String, Vec<usize>)>,
    misshapen: Vec<String>,
}

impl Problems {
    fn report(&self, label: &str, expected: usize) -> Result<()> {
        const SHOWN: usize = 20;
        let mut text = String::new();
        let unused: Vec<String> =
            self.unused.iter().map(|(name, shape)| format!("{} {shape:?}", quoted(name))).collect();
        let kinds = [("missing", &self.missing), ("unused", &unused), ("wrongly shaped", &self.misshapen)];
        for (kind, names) in kinds {
            if names.is_empty() {
                continue;
            }
            text += &format!("\n  {} {kind}:", names.len());
            for name in names.iter().take(SHOWN) {
                text += &format!("\n    {name}");
            }
            if names.len() > SHOWN {
                text += &format!("\n    … and {} more", names.len() - SHOWN);
            }
        }
        if text.is_empty() {
            return Ok(());
        }
        let text = format!("{label}: the weights do not fit the model, which has {expected} tensors:{text}");
        if self.missing.is_empty() && self.misshapen.is_empty() {
            let names: Vec<&str> = self.unused.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::Unused(ignore::refusal(
                format!("{text}\n  The engine does not know what it is for"),
                &names,
            )));
        }
        Err(Error::Checkpoint(format!("{text}\n  Check that config.json and weights belong together.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(tensors: &[(&str, &[usize])]) -> Arc<dyn TensorSource> {
        let tensors =
            tensors.iter().map(|(name, shape)| (name.to_string(), HostTensor::from_fn(shape.to_vec(), |i| i as f32)));
        Arc::new(tensors.collect::<HashMap<_, _>>())
    }

    fn expected(tensors: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
        tensors.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect()
    }

    #[test]
    fn old_names_and_shapes_load() {
        let stored = source(&[
            ("a.query.weight", &[2, 3, 1, 1]),
            ("a.proj_attn.bias", &[2]),
            ("text_model.x", &[1]),
            ("e.position_ids", &[1, 4]),
        ]);
        let weights =
            Weights::new(stored, &expected(&[("a.to_q.weight", &[2, 3]), ("a.to_out.0.bias", &[2]), ("x", &[1])]))
                .unwrap();
        assert_eq!(weights.tensor("a.to_q.weight").unwrap(), HostTensor::from_fn([2, 3], |i| i as f32));
        assert_eq!(weights.parameters(), 9);
    }

    #[test]
    fn a_current_name_wins_over_an_old_one() {
        let message =
            Weights::new(source(&[("a.query.bias", &[2]), ("a.to_q.bias", &[2])]), &expected(&[("a.to_q.bias", &[2])]))
                .unwrap_err()
                .to_string();
        assert!(message.contains("1 unused") && message.contains("`a.query.bias` [2]"), "{message}");
    }

    #[test]
    fn everything_wrong_is_in_one_error() {
        let mut wanted = expected(&[("shape", &[2, 3]), ("conv.weight", &[2, 3])]);
        wanted.extend((0..25).map(|i| (format!("gone.{i:02}"), vec![i])));
        let stored = source(&[("shape", &[3, 2]), ("conv.weight", &[2, 3, 1, 1]), ("extra", &[7])]);
        let message = Weights::new(stored, &wanted).unwrap_err().to_string();
        for part in [
            "tensors in memory",
            "27 tensors",
            "25 missing",
            "`gone.19` [19]",
            "… and 5 more",
            "1 unused",
            "`extra` [7]",
            "2 wrongly shaped:",
            "`shape`: expected [2, 3], found [3, 2]",
            "`conv.weight`: expected [2, 3], found [2, 3, 1, 1]",
        ] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(!message.contains("gone.20"), "{message}");
    }

    #[test]
    fn nan_is_reported_by_name() {
        let mut tensors = HashMap::new();
        tensors.insert("w".to_string(), HostTensor::new([4], vec![0.0, 1.0, f32::NAN, f32::NEG_INFINITY]).unwrap());
        let weights = Weights::new(Arc::new(tensors), &expected(&[("w", &[4])])).unwrap();
        let message = weights.tensor("w").unwrap_err().to_string();
        assert!(message.contains("`w` holds 2 NaN") && message.contains("element 2, is NaN"), "{message}");
    }
}
