//! `CLIPTextModel` and `CLIPTextModelWithProjection`: turn token ids into the vectors that condition a U-Net (Radford
//! et al. 2021).

use serde_json::{Value, json};

use super::config::ConfigReader;
use super::layers::Layers;
use super::model::{Model, NamedTensors, Sizes};
use crate::checkpoint::Json;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::ops::activation::ActivationKind;
use crate::ops::attention::Attention;
use crate::tensor::{DType, HostTensor};

/// How to find the token whose state represents the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfText {
    /// The largest id: configs written before transformers 4.31 have the wrong `eos_token_id` 2, and the true one is
    /// the vocabulary's last.
    LargestId,
    /// The first occurrence of this id.
    Id(usize),
}

/// The name of the token vectors in a checkpoint.
pub(crate) const TOKEN_EMBEDDING: &str = "text_model.embeddings.token_embedding";

/// The fields of `config.json` that say what a CLIP text encoder computes; see `CLIPTextConfig` in transformers for
/// their meaning.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are transformers' own, under transformers' names")]
pub struct CLIPTextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: ActivationKind,
    pub layer_norm_eps: f64,
    /// `eos_token_id`
    pub end_of_text: EndOfText,
    /// Width of `text_embeds`, if the model has a projection (`projection_dim`, which configs of models without one
    /// hold too).
    pub projection_dim: Option<usize>,
}

/// Fields that change nothing here: training, special tokens that only the tokenizer uses, and what transformers writes
/// into the config of every model, mostly about the generation of text.
const NO_EFFECT: &[&str] = &[
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

impl CLIPTextConfig {
    /// Reads a `config.json`: a text encoder's own, or that of a whole CLIP model, which holds it as `text_config`.
    /// `class_name` tells `CLIPTextModelWithProjection` from `CLIPTextModel`; without it, the config's
    /// `architectures` do.
    ///
    /// # Errors
    /// [`Error::Config`] if a value makes no sense, [`Error::Unsupported`] for a value or a field that the
    /// engine does not know, by name.
    pub fn from_json(json: &Json, class_name: Option<&str>) -> Result<Self> {
        let file = json.path.display();
        let class_name = class_name.or_else(|| json.value["architectures"][0].as_str()).unwrap_or("CLIPTextModel");
        let projection = match class_name {
            "CLIPTextModel" => false,
            "CLIPTextModelWithProjection" => true,
            other => {
                return Err(Error::Unsupported(format!(
                    "{file}: a text encoder of class \"{other}\"; expected CLIPTextModel or CLIPTextModelWithProjection"
                )));
            }
        };
        let nested = json.value.get("text_config").filter(|v| v.is_object());
        let json = Json { value: nested.unwrap_or(&json.value).clone(), ..json.clone() };
        let r = ConfigReader::new(&json)?;
        r.only("model_type", &[json!("clip_text_model")])?;
        r.ignore(NO_EFFECT);
        let projection_dim = r.count("projection_dim", 512)?;
        let config = Self {
            vocab_size: r.count("vocab_size", 49_408)?,
            hidden_size: r.count("hidden_size", 512)?,
            intermediate_size: r.count("intermediate_size", 2048)?,
            num_hidden_layers: r.count("num_hidden_layers", 12)?,
            num_attention_heads: r.count("num_attention_heads", 8)?,
            max_position_embeddings: r.count("max_position_embeddings", 77)?,
            hidden_act: r.activation("hidden_act")?.unwrap_or(ActivationKind::QuickGelu),
            layer_norm_eps: r.positive("layer_norm_eps", 1e-5)?,
            end_of_text: match r.get("eos_token_id").map(Value::as_u64) {
                None => EndOfText::Id(49_407),
                Some(Some(2)) => EndOfText::LargestId,
                Some(Some(id)) => EndOfText::Id(id as usize),
                Some(None) => return Err(r.unsupported("eos_token_id", "one token id")),
            },
            projection_dim: projection.then_some(projection_dim),
        };
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err(r.wrong("num_attention_heads", &format!("a divisor of hidden_size {}", config.hidden_size)));
        }
        if config.num_hidden_layers > 1024 {
            return Err(r.wrong("num_hidden_layers", "a whole number from 1 to 1024"));
        }
        r.finish()?;
        Ok(config)
    }
}

/// One result of a text encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextOutput {
    /// `hidden_states.K`, `[N, T, hidden_size]`: the input of layer K; for K = number of layers the output of the last
    /// one. The final layer norm is not applied.
    HiddenState(usize),
    /// The same after the final layer norm, as clip skip takes it: `final_layer_norm.K`.
    NormedHiddenState(usize),
    /// `last_hidden_state`, `[N, T, hidden_size]`: after all layers and the final layer norm.
    LastHiddenState,
    /// `pooler_output`, `[N, hidden_size]`: the last hidden state of the token that ends the text.
    PoolerOutput,
    /// `text_embeds`, `[N, projection_dim]`: the pooled state, projected.
    TextEmbeds,
}

impl TextOutput {
    /// Its name among a graph's outputs.
    pub fn name(self) -> String {
        match self {
            Self::HiddenState(k) => format!("hidden_states.{k}"),
            Self::NormedHiddenState(k) => format!("final_layer_norm.{k}"),
            Self::LastHiddenState => "last_hidden_state".into(),
            Self::PoolerOutput => "pooler_output".into(),
            Self::TextEmbeds => "text_embeds".into(),
        }
    }
}

/// A text encoder: token ids in, one vector for each token and one for the whole text out.
#[derive(Clone, Debug, PartialEq)]
pub struct CLIPTextModel {
    /// What it computes.
    pub config: CLIPTextConfig,
}

impl CLIPTextModel {
    /// The model that `config.json` describes; `class_name` as in [`CLIPTextConfig::from_json`].
    ///
    /// # Errors
    /// As [`CLIPTextConfig::from_json`].
    pub fn from_json(json: &Json, class_name: Option<&str>) -> Result<Self> {
        Ok(Self { config: CLIPTextConfig::from_json(json, class_name)? })
    }

    /// Everything the model can return, except hidden states after the final layer norm.
    pub fn outputs(&self) -> Vec<TextOutput> {
        let mut outputs: Vec<_> = (0..=self.config.num_hidden_layers).map(TextOutput::HiddenState).collect();
        outputs.extend([TextOutput::LastHiddenState, TextOutput::PoolerOutput]);
        outputs.extend(self.config.projection_dim.map(|_| TextOutput::TextEmbeds));
        outputs
    }

    /// A graph that computes `outputs` and no more: inputs `input_ids` u32 `[N, T]` and, for pooled outputs,
    /// `pooled_rows` u32 `[N]` ([`CLIPTextModel::pooled_rows`]). Outputs are f32, everything between is stored as
    /// `dtype`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more tokens than the model has positions, [`Error::Unsupported`] if it
    /// has no such output.
    pub fn graph_of(&self, batch: usize, tokens: usize, outputs: &[TextOutput], dtype: DType) -> Result<Graph> {
        let c = &self.config;
        if tokens == 0 || tokens > c.max_position_embeddings {
            return Err(Error::Shape(format!(
                "input_ids [N, {tokens}]: the text encoder takes 1 to {} tokens",
                c.max_position_embeddings
            )));
        }
        let layers_of = |output: &TextOutput| match output {
            TextOutput::HiddenState(k) | TextOutput::NormedHiddenState(k) => *k,
            TextOutput::LastHiddenState | TextOutput::PoolerOutput | TextOutput::TextEmbeds => c.num_hidden_layers,
        };
        let layers = outputs.iter().map(layers_of).max().unwrap_or(0);
        if layers > c.num_hidden_layers {
            return Err(Error::Unsupported(format!(
                "hidden state {layers} of a text encoder with {} layers",
                c.num_hidden_layers
            )));
        }

        let mut graph = Graph::new();
        let input_ids = graph.input("input_ids", TensorDesc::u32([batch, tokens]));
        let pools = |o: &TextOutput| matches!(o, TextOutput::PoolerOutput | TextOutput::TextEmbeds);
        let pooled_rows = outputs.iter().any(pools).then(|| graph.input("pooled_rows", TensorDesc::u32([batch])));
        let m = &mut Layers::new(&mut graph, dtype);
        let states = self.hidden_states(m, input_ids, layers)?;
        let (mut normed, mut pooled) = (vec![None; states.len()], None);
        for output in outputs {
            let mut norm = |m: &mut Layers<'_>, k: usize| -> Result<ValueId> {
                if normed[k].is_none() {
                    normed[k] = Some(m.layer_norm("text_model.final_layer_norm", states[k], c.layer_norm_eps)?);
                }
                Ok(normed[k].expect("set above"))
            };
            let value = match *output {
                TextOutput::HiddenState(k) => states[k],
                TextOutput::NormedHiddenState(k) => norm(m, k)?,
                TextOutput::LastHiddenState => norm(m, c.num_hidden_layers)?,
                TextOutput::PoolerOutput | TextOutput::TextEmbeds => {
                    if pooled.is_none() {
                        let last = norm(m, c.num_hidden_layers)?;
                        pooled =
                            Some(m.graph.embedding("pooler", pooled_rows.expect("added for these outputs"), last)?);
                    }
                    let pooled = pooled.expect("set above");
                    if *output == TextOutput::PoolerOutput { pooled } else { self.project(m, pooled)? }
                }
            };
            let value = m.graph.cast(format!("{}.cast", output.name()), value, DType::F32)?;
            m.graph.output(output.name(), value);
        }
        Ok(graph)
    }

    /// The rows of `[N·T, C]` that pooling takes: for each text `n·T + position` of the token that ends it.
    /// A text without that token is pooled at its first one, as in transformers.
    ///
    /// # Errors
    /// [`Error::Shape`] if `input_ids` is not `[N, T]`.
    pub fn pooled_rows(&self, input_ids: &HostTensor) -> Result<HostTensor> {
        let &[batch, tokens] = input_ids.shape.as_slice() else {
            return Err(Error::Shape(format!("input_ids: expected [N, T], found {:?}", input_ids.shape)));
        };
        let position = |ids: &[f32]| match self.config.end_of_text {
            EndOfText::Id(id) => ids.iter().position(|i| *i as usize == id).unwrap_or(0),
            // The first of several equal ids.
            EndOfText::LargestId => (0..ids.len()).rev().max_by_key(|i| ids[*i] as usize).unwrap_or(0),
        };
        let rows = input_ids.data.chunks(tokens.max(1)).enumerate().map(|(n, ids)| (n * tokens + position(ids)) as f32);
        HostTensor::new([batch], rows.collect())
    }

    /// The inputs of the first `layers` layers, and the output of the last of them.
    fn hidden_states(&self, m: &mut Layers<'_>, input_ids: ValueId, layers: usize) -> Result<Vec<ValueId>> {
        let c = &self.config;
        let (batch, tokens) = (m.graph.shape(input_ids)[0], m.graph.shape(input_ids)[1]);

        // 1. which token, and where in the text
        let token = m.embedding(TOKEN_EMBEDDING, input_ids, c.vocab_size, c.hidden_size)?;
        let positions = HostTensor::from_fn([batch, tokens], |i| (i % tokens) as f32);
        let positions = m.graph.constant_u32("text_model.embeddings.position_ids", positions);
        let position = m.embedding(
            "text_model.embeddings.position_embedding",
            positions,
            c.max_position_embeddings,
            c.hidden_size,
        )?;
        let mut h = m.graph.add("text_model.embeddings.add", token, position)?;

        // 2. layers
        let mut states = vec![h];
        for i in 0..layers {
            h = self.layer(m, &format!("text_model.encoder.layers.{i}"), h)?;
            states.push(h);
        }
        Ok(states)
    }

    /// `CLIPEncoderLayer`: attention to earlier tokens, then feed-forward; each normalises its input and is added to
    /// it.
    fn layer(&self, m: &mut Layers<'_>, path: &str, x: ValueId) -> Result<ValueId> {
        let c = &self.config;
        let at = |name: &str| format!("{path}.{name}");

        let h = m.layer_norm(&at("layer_norm1"), x, c.layer_norm_eps)?;
        let q = m.linear(&at("self_attn.q_proj"), h, c.hidden_size, true)?;
        let k = m.linear(&at("self_attn.k_proj"), h, c.hidden_size, true)?;
        let v = m.linear(&at("self_attn.v_proj"), h, c.hidden_size, true)?;
        let attention = Attention { heads: c.num_attention_heads, causal: true, ..Attention::default() };
        let h = m.graph.attention(at("self_attn.attention"), q, Some(k), Some(v), attention)?;
        let h = m.linear(&at("self_attn.out_proj"), h, c.hidden_size, true)?;
        let x = m.graph.add(at("self_attn.add"), x, h)?;

        let h = m.layer_norm(&at("layer_norm2"), x, c.layer_norm_eps)?;
        let h = m.linear(&at("mlp.fc1"), h, c.intermediate_size, true)?;
        let h = m.activation(&at("mlp.activation_fn"), h, c.hidden_act)?;
        let h = m.linear(&at("mlp.fc2"), h, c.hidden_size, true)?;
        m.graph.add(at("mlp.add"), x, h)
    }

    fn project(&self, m: &mut Layers<'_>, pooled: ValueId) -> Result<ValueId> {
        let missing = || {
            Error::Unsupported(
                "text_embeds: a CLIPTextModel has no projection, a CLIPTextModelWithProjection has".into(),
            )
        };
        m.linear("text_projection", pooled, self.config.projection_dim.ok_or_else(missing)?, false)
    }
}

impl Model for CLIPTextModel {
    fn input_names(&self) -> Vec<&'static str> {
        vec!["input_ids"]
    }

    fn default_sizes(&self) -> Sizes {
        Sizes { tokens: self.config.max_position_embeddings, ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        self.graph_of(sizes.batch, sizes.tokens, &self.outputs(), dtype)
    }

    fn index_bound(&self, input: &str) -> Option<usize> {
        (input == "input_ids").then_some(self.config.vocab_size)
    }

    fn complete(&self, inputs: &mut NamedTensors) -> Result<()> {
        if let Some(rows) = inputs.get("input_ids").map(|ids| self.pooled_rows(ids)).transpose()? {
            inputs.insert("pooled_rows".into(), rows);
        }
        Ok(())
    }
}
