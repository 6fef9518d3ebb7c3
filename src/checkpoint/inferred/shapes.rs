//! What the names and shapes of a model's tensors tell, with a memory of what told it.

use std::cell::RefCell;

use crate::checkpoint::single_file::Pieces;
use crate::checkpoint::{Tensors, quoted};
use crate::error::{Error, Result};

/// Where a value of a configuration was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The field of the configuration.
    pub field: &'static str,
    /// The tensor or tensors, in the file's own names.
    pub from: String,
}

/// The shapes of one model by diffusers' names, read with messages that name the file. It remembers what was read for
/// which field.
pub(super) struct Shapes<'a> {
    pub file: &'a Tensors,
    pub pieces: &'a Pieces,
    evidence: RefCell<Vec<Evidence>>,
}

impl<'a> Shapes<'a> {
    pub fn new(file: &'a Tensors, pieces: &'a Pieces) -> Self {
        Self { file, pieces, evidence: RefCell::default() }
    }

    /// What was read so far.
    pub fn evidence(self) -> Vec<Evidence> {
        self.evidence.into_inner()
    }

    fn remember(&self, field: &'static str, from: String) {
        let evidence = Evidence { field, from };
        let mut all = self.evidence.borrow_mut();
        if !all.contains(&evidence) {
            all.push(evidence);
        }
    }

    /// A tensor as a reader finds it in the file.
    fn shown(&self, name: &str) -> String {
        match self.pieces.get(name) {
            Some(piece) => {
                let shape = self.file.info(&piece.stored).map(|info| info.shape.to_vec()).unwrap_or_default();
                format!("{} {shape:?}", quoted(&piece.stored))
            }
            None => format!("there is no {}", quoted(name)),
        }
    }

    /// Dimension `axis` of a tensor that must be there, as the value of a field.
    pub fn field(&self, field: &'static str, name: &str, axis: usize) -> Result<usize> {
        let value = self.dim(name, axis)?;
        self.remember(field, self.shown(name));
        Ok(value)
    }

    /// Whether there is a tensor, which decides a field.
    pub fn decides(&self, field: &'static str, name: &str) -> bool {
        self.remember(field, self.shown(name));
        self.has(name)
    }

    /// As [`Shapes::count`], for a field.
    pub fn counted(&self, field: &'static str, prefix: &str) -> usize {
        let count = self.count(prefix);
        self.remember(field, format!("{count} of {}", quoted(&format!("{prefix}N"))));
        count
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.pieces.get(name).map(|piece| piece.shape.as_slice())
    }

    pub fn has(&self, name: &str) -> bool {
        self.pieces.contains_key(name)
    }

    /// The shape of some tensor whose name ends so, which decides a field.
    pub fn any(&self, field: &'static str, end: &str) -> Option<&[usize]> {
        let (name, piece) = self.pieces.iter().find(|(name, _)| name.ends_with(end))?;
        self.remember(field, self.shown(name));
        Some(piece.shape.as_slice())
    }

    /// Dimension `axis` of a tensor that must be there.
    pub fn dim(&self, name: &str, axis: usize) -> Result<usize> {
        self.shape(name).and_then(|shape| shape.get(axis).copied()).ok_or_else(|| {
            Error::Checkpoint(format!(
                "{}: a model is recognised by its tensor `{name}` (in diffusers' names) of at least {} dimensions, \
                found {}; the file is incomplete",
                self.file.path().display(),
                axis + 1,
                self.shape(name).map_or("none".into(), |shape| format!("shape {shape:?}"))
            ))
        })
    }

    /// Numbers N for which there is a tensor `PREFIX N.…`, counted from 0 without a gap.
    pub fn count(&self, prefix: &str) -> usize {
        let below = self.pieces.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let mut numbers: Vec<usize> =
            below.filter_map(|(name, _)| name[prefix.len()..].split('.').next()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.iter().zip(0..).take_while(|&(&number, i)| number == i).count()
    }

    /// The width of the text that a U-Net attends to.
    pub fn context(&self) -> Result<usize> {
        let width = self.any("cross_attention_dim", "attn2.to_k.weight").and_then(|shape| shape.get(1).copied());
        width.ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: the U-Net has no attention over a text; only Stable Diffusion is read from single files",
                self.file.path().display()
            ))
        })
    }
}
