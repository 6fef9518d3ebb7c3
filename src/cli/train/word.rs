//! Learning a word: what the tokenizer and the step need to know of it.

use std::collections::BTreeMap;
use std::path::Path;

use super::output;
use super::run::Run;
use super::settings::Settings;
use crate::checkpoint::{Checkpoint, TextualInversion};
use crate::error::{Error, Result};
use crate::pipelines::{DiffusionPipeline, TextEncoders};
use crate::tensor::HostTensor;

/// Writes a new word, whose vectors begin as that of another one.
///
/// # Errors
/// [`Error::Usage`] if the other word is not one token; [`Error::Io`].
pub fn begin(checkpoint: &Checkpoint, output: &Path, word: &str, settings: &Settings) -> Result<()> {
    let encoders = TextEncoders::load(checkpoint, false)?;
    let from = Settings::required("initializer-token", &settings.initializer_token)?;
    let tokens = encoders.tokens_of_word(from)?;
    let [token] = tokens.as_slice() else {
        return Err(Error::Usage(format!(
            "--initializer-token {from}: it is {} tokens of this model, expected a word of one",
            tokens.len()
        )));
    };
    let vectors = encoders.vectors(&vec![*token; settings.num_vectors.unwrap_or(1)])?;
    output::write_weights(&output.join(output::WORD), &BTreeMap::from([(word.to_owned(), vectors)]))
}

/// The checkpoint with the word as it was written last.
///
/// # Errors
/// As [`TextualInversion::open`] and [`Checkpoint::with_textual_inversions`].
pub fn known_to(checkpoint: Checkpoint, output: &Path) -> Result<Checkpoint> {
    let word = TextualInversion::open(output.join(output::WORD), None)?;
    checkpoint.with_textual_inversions(&[word])
}

/// The word that a run learns.
pub struct Word {
    /// Its tokens.
    pub tokens: Vec<u32>,
}

impl Word {
    /// That of a run, if it learns one; every caption must say it.
    ///
    /// # Errors
    /// [`Error::Usage`] naming a picture whose caption does not say it; [`Error::Unsupported`] for models without text.
    pub fn of(run: &Run<'_>) -> Result<Option<Self>> {
        let Some(word) = &run.settings.placeholder_token else { return Ok(None) };
        let encoders = encoders(run.pipeline)?;
        let tokens = encoders.tokens_of_word(word)?;
        for item in run.items {
            let ids = encoders.tokens(item.caption.as_deref().unwrap_or_default())?;
            if !ids.windows(tokens.len()).any(|window| window == tokens) {
                return Err(Error::Usage(format!("{}: its caption does not say {word}", item.name)));
            }
        }
        Ok(Some(Self { tokens }))
    }

    /// Inputs of the step for these captions: `input_ids` and `word_rows` `[N, T]`, `word_mask` `[N, T, 1]`.
    ///
    /// # Errors
    /// As [`TextEncoders::tokens`].
    pub fn inputs(&self, pipeline: &DiffusionPipeline, captions: &[&str]) -> Result<Vec<(&'static str, HostTensor)>> {
        let encoders = encoders(pipeline)?;
        let (length, batch) = (encoders.window(), captions.len());
        let mut ids = Vec::with_capacity(batch * length);
        for caption in captions {
            ids.extend(encoders.tokens(caption)?);
        }
        let row = |id: &u32| self.tokens.iter().position(|token| token == id);
        let tensor = |shape: Vec<usize>, data: Vec<f32>| HostTensor::new(shape, data);
        let rows = ids.iter().map(|id| row(id).unwrap_or(0) as f32).collect();
        let mask = ids.iter().map(|id| if row(id).is_some() { 1.0 } else { 0.0 }).collect();
        Ok(vec![
            ("word_rows", tensor(vec![batch, length], rows)?),
            ("word_mask", tensor(vec![batch, length, 1], mask)?),
            ("input_ids", tensor(vec![batch, length], ids.iter().map(|id| *id as f32).collect())?),
        ])
    }
}

fn encoders(pipeline: &DiffusionPipeline) -> Result<&TextEncoders> {
    pipeline
        .text_encoders()
        .ok_or_else(|| Error::Unsupported("--placeholder-token: this model takes no text and learns no words".into()))
}
