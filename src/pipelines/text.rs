//! Turns prompts into what a U-Net sees of them: one vector for each token, and for Stable Diffusion XL one for the
//! whole text.

use std::ops::Range;

use super::Runtime;
use crate::checkpoint::{Checkpoint, Weights};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::graph::{Graph, Stored, TensorDesc, WeightPart, WeightSource};
use crate::models::{TextModel, TextOutput};
use crate::overflow::F32Fallback;
use crate::prompt::{Piece, Window, parse, windows};
use crate::refusal::{Refusal, Remedy};
use crate::tensor::{DType, HostTensor};
use crate::tokenizer::Tokenizer;

/// What the text encoders make of a batch of prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConditioning {
    /// `encoder_hidden_states`, `[N, S, D]`.
    pub hidden_states: HostTensor,
    /// `text_embeds`, `[N, P]`, if the model has a text encoder with projection.
    pub pooled: Option<HostTensor>,
}

impl TextConditioning {
    /// Texts one after the other along the batch.
    ///
    /// # Errors
    /// [`Error::Shape`] if they have different numbers of tokens.
    pub fn join(parts: &[&Self]) -> Result<Self> {
        let hidden_states: Vec<_> = parts.iter().map(|p| &p.hidden_states).collect();
        let pooled: Option<Vec<_>> = parts.iter().map(|p| p.pooled.as_ref()).collect();
        Ok(Self {
            hidden_states: HostTensor::concat(&hidden_states, 0)?,
            pooled: pooled.map(|parts| HostTensor::concat(&parts, 0)).transpose()?,
        })
    }

    /// The texts at these places, in this order.
    pub fn rows(&self, places: &[usize]) -> Self {
        Self {
            hidden_states: self.hidden_states.rows(places),
            pooled: self.pooled.as_ref().map(|pooled| pooled.rows(places)),
        }
    }

    /// Zeros in place of every number: what SDXL takes for "no negative prompt".
    pub fn zeroed(&self) -> Self {
        let zeros = |t: &HostTensor| HostTensor::zeros(t.shape.as_slice());
        Self { hidden_states: zeros(&self.hidden_states), pooled: self.pooled.as_ref().map(zeros) }
    }
}

/// One tokenizer and text encoder.
struct TextEncoder {
    name: &'static str,
    tokenizer: Tokenizer,
    model: TextModel,
    weights: Weights,
    fallback: F32Fallback,
}

/// The text encoders of a checkpoint: one, or SDXL's two (of which its refiner has the second alone).
/// `LDMTextToImagePipeline` calls its own `bert`.
pub struct TextEncoders {
    encoders: Vec<TextEncoder>,
    /// SDXL: hidden states of all encoders side by side, from the layer before the last, without the final norm; pooled
    /// text of the last encoder.
    xl: bool,
}

impl TextEncoders {
    /// Loads the text encoders, with CLIP's own vocabulary where the checkpoint has none.
    ///
    /// # Errors
    /// What the configs, the weights and [`Tokenizer::open`] report; [`Error::Config`] if a tokenizer has more tokens
    /// than its encoder.
    pub fn load(checkpoint: &Checkpoint, xl: bool) -> Result<Self> {
        let names = checkpoint.component_names();
        let mut encoders = Vec::new();
        for (name, folder) in [("bert", "tokenizer"), ("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")]
        {
            let absent = checkpoint.option(name).and_then(|entry| entry.get(0)).is_some_and(serde_json::Value::is_null);
            if absent || !names.iter().any(|n| n == name) {
                continue;
            }
            let component = checkpoint.component(name)?;
            let model = TextModel::of(&component)?;
            let weights = Weights::of(&component, &model.as_model().parameters()?)?;
            let tokenizer = checkpoint.tokenizer(folder)?;
            if tokenizer.vocabulary() as usize > model.vocab_size() {
                return Err(Error::Config(format!(
                    "{}: {folder} has {} tokens, but {name} knows {}: they do not belong together",
                    checkpoint.path().display(),
                    tokenizer.vocabulary(),
                    model.vocab_size()
                )));
            }
            encoders.push(TextEncoder { name, tokenizer, model, weights, fallback: F32Fallback::new("text encoder") });
        }
        if encoders.is_empty() {
            let why = "there is no text encoder";
            let refusal = Refusal::of_value("model", checkpoint.path().display(), why);
            return Err(refusal.instead(Remedy::Give(&["text_encoder"])).into());
        }
        Ok(Self { encoders, xl })
    }

    /// Notes about the runs so far for the user, such as that f16 overflowed; each is returned once.
    pub fn take_notes(&self) -> Vec<String> {
        self.encoders.iter().flat_map(|encoder| encoder.fallback.take_notes()).collect()
    }

    /// Number of windows that the longest of `prompts` fills. With `weighting`, prompts are in the syntax of
    /// [`crate::prompt::parse`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode`] and [`parse`].
    pub fn windows(&self, prompts: &[String], weighting: bool) -> Result<usize> {
        let mut most = 1;
        for (encoder, prompt) in self.encoders.iter().flat_map(|e| prompts.iter().map(move |p| (e, p))) {
            most = most.max(encoder.windows(prompt, weighting)?.len());
        }
        Ok(most)
    }

    /// The words of a prompt, without the punctuation after them, and the places of each one's tokens in the window;
    /// none if the prompt fills more than one window, or if its tokens are not those of its words.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn words(&self, prompt: &str) -> Result<Vec<(String, Range<usize>)>> {
        let tokenizer = &self.encoders[0].tokenizer;
        let (mut words, mut ids) = (Vec::new(), Vec::new());
        for word in prompt.split_whitespace() {
            // The window begins with a token of its own.
            let first = ids.len() + 1;
            let bare = word.trim_end_matches(|c: char| c.is_ascii_punctuation());
            let bare = if bare.is_empty() { word } else { bare };
            words.push((bare.to_owned(), first..first + tokenizer.encode(bare)?.len()));
            ids.extend(tokenizer.encode(word)?);
        }
        let whole = ids == tokenizer.encode(prompt)? && ids.len() + 2 <= self.window();
        Ok(if whole { words } else { vec![] })
    }

    /// The only encoder on `batch` windows with its whole vocabulary, its parameters, and the name of the output that
    /// the U-Net sees: for training a word.
    ///
    /// # Errors
    /// [`Error::Unsupported`] of models with two encoders; as [`TextModel::graph_of`].
    pub fn trained(&self, batch: usize, dtype: DType) -> Result<(Graph, &Weights, String)> {
        let [encoder] = self.encoders.as_slice() else {
            return Err(Error::Unsupported("training a word of a model with two text encoders".into()));
        };
        let states = encoder.states(0, self.xl)?;
        let graph = encoder.model.graph_of(batch, self.window(), &[states], dtype)?;
        Ok((graph, &encoder.weights, states.name()))
    }

    /// The tokens of a prompt that fills one window.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; [`Error::Usage`] if it fills more.
    pub fn tokens(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut windows = self.encoders[0].windows(prompt, false)?;
        match windows.len() {
            0 => Ok(self.encoders[0].tokenizer.window(&[], self.window())),
            1 => Ok(windows.remove(0).ids),
            count => Err(Error::Usage(format!("\"{prompt}\" fills {count} windows of the text encoder, expected one"))),
        }
    }

    /// The tokens of a word alone.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn tokens_of_word(&self, word: &str) -> Result<Vec<u32>> {
        self.encoders[0].tokenizer.encode(word)
    }

    /// The vectors of tokens, `[n, C]`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn vectors(&self, tokens: &[u32]) -> Result<HostTensor> {
        let table = self.encoders[0].weights.tensor(&format!("{}.weight", self.encoders[0].model.token_table()))?;
        Ok(table.rows(&tokens.iter().map(|token| *token as usize).collect::<Vec<_>>()))
    }

    /// Tokens of one window.
    pub fn window(&self) -> usize {
        self.encoders[0].model.positions()
    }

    /// The graph of each encoder by its name, for `batch` prompts of `count` windows.
    ///
    /// # Errors
    /// A refusal if more layers are skipped than there are; as [`TextModel::graph_of`].
    pub fn graphs(
        &self,
        batch: usize,
        count: usize,
        clip_skip: usize,
        dtype: DType,
    ) -> Result<Vec<(&'static str, Graph)>> {
        let graph = |encoder: &TextEncoder| {
            let outputs = encoder.outputs(encoder.states(clip_skip, self.xl)?, self.xl);
            Ok((encoder.name, encoder.graph(batch * count, &outputs, dtype)?))
        };
        self.encoders.iter().map(graph).collect()
    }

    /// Encodes prompts, one list for each encoder (the last list serves the rest), each in `count` windows side by
    /// side. `clip_skip` leaves out that many of the last layers. With `weighting`, prompts are in the syntax of
    /// [`crate::prompt::parse`]; what changes while sampling must have been decided
    /// ([`EditedPrompt::at`](crate::prompt::EditedPrompt::at)).
    ///
    /// # Errors
    /// As [`parse`]; [`Error::Refused`] if more layers are skipped than there are; as [`crate::backend::Device::load`].
    pub fn encode(
        &self,
        runtime: &Runtime<'_>,
        prompts: &[&[String]],
        weighting: bool,
        count: usize,
        clip_skip: usize,
    ) -> Result<TextConditioning> {
        let mut hidden = Vec::new();
        let mut pooled = None;
        for (i, encoder) in self.encoders.iter().enumerate() {
            let prompts = prompts[i.min(prompts.len() - 1)];
            let (states, text) = encoder.encode(runtime, prompts, weighting, count, clip_skip, self.xl)?;
            hidden.push(states);
            pooled = text;
        }
        let hidden_states = HostTensor::concat(&hidden.iter().collect::<Vec<_>>(), 2)
            .map_err(|e| Error::Config(format!("the text encoders do not belong together: {e}")))?;
        Ok(TextConditioning { hidden_states, pooled })
    }
}

impl TextEncoder {
    /// What the U-Net sees: `states`, and for SDXL one vector of the whole text.
    fn outputs(&self, states: TextOutput, xl: bool) -> Vec<TextOutput> {
        let pooled = xl && self.model.projects();
        std::iter::once(states).chain(pooled.then_some(TextOutput::TextEmbeds)).collect()
    }

    /// Which states the U-Net sees, with so many of the last layers left out.
    fn states(&self, clip_skip: usize, xl: bool) -> Result<TextOutput> {
        let layers = self.model.layers();
        // SDXL was trained on the layer before the last, without the final norm.
        let from_end = clip_skip + usize::from(xl);
        if from_end > layers {
            let why = match &self.model {
                TextModel::Clip(_) => format!("the text encoder has {layers} layers"),
                TextModel::Bert(_) => "an LDMBertModel has states after its last layer alone".to_owned(),
            };
            return Err(Refusal::of_value("clip_skip", clip_skip, why).into());
        }
        Ok(match (xl, from_end) {
            (true, k) => TextOutput::HiddenState(layers - k),
            (false, 0) => TextOutput::LastHiddenState,
            (false, k) => TextOutput::NormedHiddenState(layers - k),
        })
    }

    /// Rows of the table of token vectors for so many windows: one for each token, if all are different.
    fn table_rows(&self, windows: usize) -> usize {
        (windows * self.model.positions()).min(self.model.vocab_size())
    }

    /// The model on so many windows, with the vectors of no more tokens than they can hold.
    fn graph(&self, windows: usize, outputs: &[TextOutput], dtype: DType) -> Result<Graph> {
        let model = self.model.with_vocabulary(self.table_rows(windows));
        model.graph_of(windows, self.model.positions(), outputs, dtype)
    }

    fn windows(&self, prompt: &str, weighting: bool) -> Result<Vec<Window>> {
        let pieces = if weighting { parse(prompt)? } else { vec![Piece::Text(prompt.to_owned(), 1.0)] };
        windows(&pieces, &self.tokenizer, self.model.positions())
    }

    fn encode(
        &self,
        runtime: &Runtime<'_>,
        prompts: &[String],
        weighting: bool,
        count: usize,
        clip_skip: usize,
        xl: bool,
    ) -> Result<(HostTensor, Option<HostTensor>)> {
        let length = self.model.positions();
        let states = self.states(clip_skip, xl)?;
        let outputs = self.outputs(states, xl);

        // Every window of every prompt in one batch; short prompts are filled up with empty windows.
        let empty = Window { ids: self.tokenizer.window(&[], length), weights: vec![1.0; length] };
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let mut all = self.windows(prompt, weighting)?;
            all.resize(count, empty.clone());
            for window in all {
                ids.extend(window.ids.into_iter().map(|id| id as f32));
                weights.extend(window.weights);
            }
        }
        let batch = prompts.len() * count;
        let used = UsedTokens::new(&self.weights, self.model.token_table(), &ids, self.table_rows(batch));
        let positions = HostTensor::new([batch, length], used.positions(&ids))?;
        let input_ids = HostTensor::new([batch, length], ids)?;
        let graph = self.graph(batch, &outputs, runtime.dtype)?;
        let mut session = self.fallback.load(runtime.device, &graph, &used, runtime.load)?;
        session.write("input_ids", &positions)?;
        if let TextModel::Clip(model) = &self.model
            && session.has_input("pooled_rows")
        {
            session.write("pooled_rows", &model.pooled_rows(&input_ids)?)?;
        }
        session.run()?;
        let mut hidden = session.read(&states.name())?;
        if weights.iter().any(|w| *w != 1.0) {
            hidden = emphasis(runtime, &hidden, &HostTensor::new([batch, length], weights)?)?;
        }
        let hidden = HostTensor::new([prompts.len(), count * length, self.model.width()], hidden.data)?;
        let pooled = match outputs.get(1) {
            None => None,
            Some(output) => {
                // The whole text's vector is that of its first window.
                let all = session.read(&output.name())?;
                let width = all.shape[1];
                let data = all.data.chunks(width * count).flat_map(|rows| rows[..width].to_vec()).collect();
                Some(HostTensor::new([prompts.len(), width], data)?)
            }
        };
        Ok((hidden, pooled))
    }
}

/// A text encoder's parameters with the vectors of only those tokens that occur in a run: a whole vocabulary is more
/// than some devices bind at once (CLIP's in f32 takes 145 MiB), and a prompt needs few of them.
struct UsedTokens<'a> {
    weights: &'a Weights,
    /// The name of the table.
    table: &'static str,
    /// The tokens, sorted.
    tokens: Vec<usize>,
    /// Rows of the table; those beyond the tokens are zeros. The same for all prompts of one length, so that they share
    /// a program.
    rows: usize,
}

impl<'a> UsedTokens<'a> {
    fn new(weights: &'a Weights, table: &'static str, ids: &[f32], rows: usize) -> Self {
        let mut tokens: Vec<_> = ids.iter().map(|id| *id as usize).collect();
        tokens.sort_unstable();
        tokens.dedup();
        Self { weights, table, tokens, rows }
    }

    /// The rows of `ids` in the smaller table.
    fn positions(&self, ids: &[f32]) -> Vec<f32> {
        let position = |id: &f32| self.tokens.binary_search(&(*id as usize)).expect("the tokens are those of the ids");
        ids.iter().map(|id| position(id) as f32).collect()
    }

    fn is_table(&self, part: &WeightPart) -> bool {
        part.name.strip_suffix(".weight") == Some(self.table)
    }
}

impl WeightSource for UsedTokens<'_> {
    fn read(&self, part: &WeightPart) -> Result<HostTensor> {
        let whole = self.weights.tensor(&part.name)?;
        if !self.is_table(part) {
            return Ok(whole);
        }
        let width = whole.shape[1];
        let rows = self.tokens.iter().flat_map(|token| &whole.data[token * width..][..width]);
        let mut table: Vec<f32> = rows.copied().collect();
        table.resize(self.rows * width, 0.0);
        HostTensor::new([self.rows, width], table)
    }

    fn stored(&self, part: &WeightPart) -> Result<Option<Stored<'_>>> {
        if self.is_table(part) { Ok(None) } else { self.weights.stored(part) }
    }

    fn content(&self, part: &WeightPart) -> Result<ContentId> {
        let id = self.weights.content(part)?;
        if !self.is_table(part) {
            return Ok(id);
        }
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|token| (*token as u64).to_le_bytes()).collect();
        let rows = (self.rows as u64).to_le_bytes();
        Ok(ContentId::of(&[b"tokens", id.bytes(), &rows, &tokens]))
    }
}

/// The vectors `[M, S, D]` of M windows with the weights `[M, S]` of their tokens.
fn emphasis(runtime: &Runtime<'_>, hidden: &HostTensor, weights: &HostTensor) -> Result<HostTensor> {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32(hidden.shape.clone()));
    let w = graph.input("weights", TensorDesc::f32(weights.shape.clone()));
    let weighted = graph.emphasis("emphasis", x, w)?;
    graph.output("weighted", weighted);
    let mut session = runtime.device.load(graph, &std::collections::HashMap::new(), runtime.load)?;
    session.write("x", hidden)?;
    session.write("weights", weights)?;
    session.run()?;
    session.read("weighted")
}
