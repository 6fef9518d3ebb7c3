//! Textual inversions: learnt vectors that stand for a new word in the prompt.
//!
//! The word becomes new tokens, the vectors new rows of the text encoder's token embedding. Files: the web UI's
//! (`emb_params` `[n, C]`, the word is the file's name), diffusers' (one tensor, named by the word) and XL's (`clip_l`,
//! `clip_g`, one for each text encoder). Source: Gal et al. 2022, arXiv:2208.01618.

use std::path::Path;
use std::sync::Arc;

use super::weights::check_finite;
use super::{Component, TensorSource, Tensors, quoted};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::files::{Disk, Files};
use crate::graph::{Stored, StoredType, content_of};
use crate::tensor::HostTensor;
use crate::tokenizer::Tokenizer;

/// The table of token vectors in a text encoder, with and without the prefix that older versions of transformers write.
const TABLES: [&str; 2] = ["text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"];

/// A learnt word.
#[derive(Clone, Debug)]
pub struct TextualInversion {
    word: String,
    label: String,
    /// `[n, C]` for `text_encoder` and, of XL, for `text_encoder_2`.
    vectors: Vec<(&'static str, HostTensor)>,
}

impl TextualInversion {
    /// Opens a file. `word` is what stands for the vectors in a prompt; `None` takes the one the file gives.
    ///
    /// # Errors
    /// As [`Tensors::open`]; [`Error::Checkpoint`] if the tensors are not vectors of a textual inversion.
    pub fn open(path: impl AsRef<Path>, word: Option<&str>) -> Result<Self> {
        Self::open_in(&Disk, path, word)
    }

    /// As [`TextualInversion::open`], of a file among `files`.
    ///
    /// # Errors
    /// As [`TextualInversion::open`].
    pub fn open_in(files: &dyn Files, path: impl AsRef<Path>, word: Option<&str>) -> Result<Self> {
        Self::from_tensors(&Tensors::open_in(files, path)?, word)
    }

    /// The textual inversion in an open file.
    ///
    /// # Errors
    /// As [`TextualInversion::open`].
    pub fn from_tensors(file: &Tensors, word: Option<&str>) -> Result<Self> {
        let label = file.path().display().to_string();
        let names: Vec<&str> = file.names().collect();
        let stem = file.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let (own, places): (String, Vec<(&str, &'static str)>) = match names.as_slice() {
            ["clip_g", "clip_l"] => (stem, vec![("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")]),
            ["clip_g"] => (stem, vec![("clip_g", "text_encoder_2")]),
            [only @ ("emb_params" | "clip_l")] => (stem, vec![(*only, "text_encoder")]),
            [word] => (word.to_string(), vec![(*word, "text_encoder")]),
            other => {
                let shown: Vec<_> = other.iter().take(5).map(|name| quoted(name)).collect();
                return Err(Error::Checkpoint(format!(
                    "{label}: expected a textual inversion (`emb_params`, `clip_l` and `clip_g`, or one tensor named \
                    by its word); found {} tensors: {}",
                    other.len(),
                    shown.join(", ")
                )));
            }
        };
        Self::read(file, word.map_or(own, str::to_owned), &places)
    }

    /// A word that came in a LoRA's file: its `parts`, each with the name of its tensor.
    pub(super) fn bundled(file: &Tensors, word: &str, parts: &[(&str, &str)]) -> Result<Self> {
        let component = |part: &str| if part == "clip_g" { "text_encoder_2" } else { "text_encoder" };
        let places: Vec<_> = parts.iter().map(|(part, name)| (*name, component(part))).collect();
        Self::read(file, word.to_owned(), &places)
    }

    fn read(file: &Tensors, word: String, places: &[(&str, &'static str)]) -> Result<Self> {
        let label = file.path().display().to_string();
        let mut vectors = Vec::new();
        for &(name, component) in places {
            let mut tensor = file.read_f32(name)?;
            check_finite(&label, name, &tensor)?;
            match tensor.shape[..] {
                [width] if width > 0 => tensor.shape = vec![1, width],
                [1..=75, width] if width > 0 => {}
                _ => {
                    return Err(Error::Checkpoint(format!(
                        "{label}: tensor {} should be one vector [C] or up to 75 [n, C], found shape {:?}",
                        quoted(name),
                        tensor.shape
                    )));
                }
            }
            vectors.push((component, tensor));
        }
        if let [(_, first), (_, second)] = &vectors[..]
            && first.shape[0] != second.shape[0]
        {
            return Err(Error::Checkpoint(format!(
                "{label}: `clip_l` has {} vectors, `clip_g` {}",
                first.shape[0], second.shape[0]
            )));
        }
        Ok(Self { word, label, vectors })
    }

    /// What stands for the vectors in a prompt.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// Adds the word to the tokenizer of a text encoder, and the vectors to the encoder's weights (and `vocab_size` to
    /// its configuration).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the vectors are not for this encoder, [`Error::Usage`] if the word is a token already.
    pub fn apply(&self, encoder: &mut Component, tokenizer: &mut Tokenizer) -> Result<()> {
        let shape_of = |name: &&&str| encoder.tensors.shape(name);
        let table = TABLES.iter().find(|name| shape_of(name).is_some());
        let Some((table, &[rows, width])) = table.zip(table.and_then(|name| encoder.tensors.shape(name)).as_deref())
        else {
            return Err(Error::Checkpoint(format!(
                "{}: there is no token embedding to add {} to",
                encoder.tensors.label(),
                quoted(&self.word)
            )));
        };
        let Some((_, vectors)) = self.vectors.iter().find(|(component, _)| *component == encoder.name) else {
            return Err(Error::Checkpoint(format!(
                "{}: it has no vectors for {}; it is for another model",
                self.label, encoder.name
            )));
        };
        let (count, found) = (vectors.shape[0], vectors.shape[1]);
        if found != width {
            return Err(Error::Checkpoint(format!(
                "{}: the vectors of {} have {found} elements, {} takes {width}; the textual inversion is for another \
                model",
                self.label,
                quoted(&self.word),
                encoder.name
            )));
        }
        if tokenizer.vocabulary() as usize > rows {
            return Err(Error::Checkpoint(format!(
                "{}: the tokenizer has {} tokens, but the text encoder has vectors for {rows}; they do not belong \
                together",
                encoder.tensors.label(),
                tokenizer.vocabulary()
            )));
        }
        let first = tokenizer.add(&self.word, count as u32)? as usize;
        let rows = rows.max(first + count);
        encoder.tensors = Arc::new(Extended {
            weights: encoder.tensors.clone(),
            table,
            shape: vec![rows, width],
            first,
            vectors: vectors.clone(),
        });
        encoder.config.value["vocab_size"] = rows.into();
        Ok(())
    }
}

/// Weights with rows added to the table of token vectors.
struct Extended {
    weights: Arc<dyn TensorSource>,
    table: &'static str,
    shape: Vec<usize>,
    /// The row of the first vector.
    first: usize,
    vectors: HostTensor,
}

impl TensorSource for Extended {
    fn label(&self) -> String {
        self.weights.label()
    }

    fn names(&self) -> Vec<String> {
        self.weights.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        if name == self.table { Some(self.shape.clone()) } else { self.weights.shape(name) }
    }

    fn read_f32(&self, name: &str) -> Result<HostTensor> {
        let mut tensor = self.weights.read_f32(name)?;
        if name == self.table {
            tensor.data.resize(self.shape.iter().product(), 0.0);
            tensor.shape.clone_from(&self.shape);
            let start = self.first * self.shape[1];
            tensor.data[start..start + self.vectors.len()].copy_from_slice(&self.vectors.data);
        }
        Ok(tensor)
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        if name == self.table { None } else { self.weights.stored(name) }
    }

    fn stored_as(&self, name: &str) -> Option<StoredType> {
        self.weights.stored_as(name)
    }

    fn content(&self, name: &str) -> Result<ContentId> {
        let id = self.weights.content(name)?;
        if name != self.table {
            return Ok(id);
        }
        let first = (self.first as u64).to_le_bytes();
        Ok(ContentId::of(&[b"embedding", id.bytes(), &first, content_of(&self.vectors).bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;
    use crate::checkpoint::{Json, safetensors};
    use crate::tokenizer::Padding;

    fn file(tensors: &[(&str, &[usize])]) -> Tensors {
        let tensors: Vec<_> =
            tensors.iter().map(|&(name, shape)| (name, HostTensor::from_fn(shape, |i| i as f32 + 0.5))).collect();
        let list: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let mut bytes = Vec::new();
        safetensors::write(&mut bytes, &list, &BTreeMap::new()).unwrap();
        Tensors::from_bytes("dir/red-fox.safetensors", bytes).unwrap()
    }

    fn encoder(name: &str, table: &str, rows: usize) -> Component {
        let weights = HashMap::from([(table.to_owned(), HostTensor::from_fn([rows, 3], |i| -(i as f32)))]);
        let config = Json::parse("config.json", format!("{{\"vocab_size\": {rows}}}")).unwrap();
        Component { name: name.into(), class_name: None, config, tensors: Arc::new(weights), ignore: Arc::default() }
    }

    #[test]
    fn vectors_become_rows_and_the_word_their_ids() {
        for (tensor, shape, table, word) in
            [("emb_params", &[2, 3][..], TABLES[0], "red-fox"), ("<fox>", &[3][..], TABLES[1], "<fox>")]
        {
            let embedding = TextualInversion::from_tensors(&file(&[(tensor, shape)]), None).unwrap();
            assert_eq!(embedding.word(), word);
            // One row more than the tokenizer has tokens, as tables padded to a round number have.
            let (mut encoder, mut tokenizer) = (encoder("text_encoder", table, 49409), Tokenizer::clip(Padding::End));
            embedding.apply(&mut encoder, &mut tokenizer).unwrap();
            let count = if shape.len() == 2 { 2 } else { 1 };
            let rows = 49408 + count.max(1);
            assert_eq!(encoder.config.value["vocab_size"], rows);
            assert_eq!(encoder.tensors.shape(table).unwrap(), [rows, 3]);
            let read = encoder.tensors.read_f32(table).unwrap();
            assert_eq!(read.shape, [rows, 3]);
            assert_eq!(read.data[..6], [0.0, -1.0, -2.0, -3.0, -4.0, -5.0]);
            let expected: Vec<f32> = (0..3 * count).map(|i| i as f32 + 0.5).collect();
            assert_eq!(read.data[49408 * 3..], expected);
            let ids: Vec<u32> = (49408..49408 + count as u32).collect();
            assert_eq!(tokenizer.encode(word).unwrap(), ids);
        }
    }

    #[test]
    fn xl_has_vectors_for_each_encoder() {
        let embedding =
            TextualInversion::from_tensors(&file(&[("clip_g", &[2, 5]), ("clip_l", &[2, 3])]), Some("<x>")).unwrap();
        let mut tokenizer = Tokenizer::clip(Padding::Zero);
        let (mut first, mut second) =
            (encoder("text_encoder", TABLES[0], 49408), encoder("text_encoder_2", TABLES[0], 49408));
        embedding.apply(&mut first, &mut Tokenizer::clip(Padding::End)).unwrap();
        let message = embedding.apply(&mut second, &mut tokenizer).unwrap_err().to_string();
        assert!(message.contains("`<x>` have 5 elements, text_encoder_2 takes 3"), "{message}");
    }

    #[test]
    fn other_files_are_refused() {
        let says = |tensors: &[(&str, &[usize])], part: &str| {
            let message = TextualInversion::from_tensors(&file(tensors), None).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("dir/red-fox.safetensors"), "{message}");
        };
        says(&[], "found 0 tensors");
        says(&[("a", &[3]), ("b", &[3])], "found 2 tensors: `a`, `b`");
        says(&[("emb_params", &[2, 3, 4])], "found shape [2, 3, 4]");
        says(&[("emb_params", &[0, 3])], "found shape [0, 3]");
        says(&[("emb_params", &[76, 3])], "found shape [76, 3]");
        says(&[("clip_g", &[2, 5]), ("clip_l", &[1, 3])], "1 vectors, `clip_g` 2");
        let embedding = TextualInversion::from_tensors(&file(&[("emb_params", &[3])]), None).unwrap();
        let message = |mut encoder: Component| {
            embedding.apply(&mut encoder, &mut Tokenizer::clip(Padding::End)).unwrap_err().to_string()
        };
        assert!(message(encoder("text_encoder", "other", 49408)).contains("no token embedding"));
        assert!(message(encoder("text_encoder_2", TABLES[0], 49408)).contains("no vectors for text_encoder_2"));
        assert!(
            message(encoder("text_encoder", TABLES[0], 714))
                .contains("49408 tokens, but the text encoder has vectors for 714")
        );
    }
}
