//! `LDMBertModel`: the text encoder of latent diffusion before CLIP (Rombach et al. 2022, arXiv:2112.10752, section 4.3
//! and appendix E.2), a transformer that was trained together with its U-Net. Every token sees every other.

use serde_json::json;

use super::clip_text::TextOutput;
use super::config::ConfigReader;
use super::layers::Layers;
use super::model::{Model, Sizes, parameters_of};
use crate::checkpoint::Json;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::ops::activation::ActivationKind;
use crate::ops::attention::Attention;
use crate::tensor::{DType, HostTensor};

/// The name of the token vectors in a checkpoint.
pub(crate) const LDM_BERT_TOKENS: &str = "model.embed_tokens";

/// torch's default, which the class does not change.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Fields that change nothing here: training, and what transformers writes into the config of every model.
/// `num_hidden_layers` repeats `encoder_layers`, which is what the class looks at.
const NO_EFFECT: &[&str] = &[
    "activation_dropout",
    "architectures",
    "attention_dropout",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "dropout",
    "encoder_layerdrop",
    "id2label",
    "init_std",
    "is_encoder_decoder",
    "label2id",
    "num_hidden_layers",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "use_cache",
];

/// The fields of `config.json` that say what an `LDMBertModel` computes; see `LDMBertConfig` in diffusers.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are diffusers' own, under diffusers' names")]
pub struct LDMBertConfig {
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    /// Width of the states.
    pub d_model: usize,
    pub encoder_layers: usize,
    pub encoder_ffn_dim: usize,
    pub encoder_attention_heads: usize,
    /// Width of a head; all heads together may be narrower or wider than the states.
    pub head_dim: usize,
    pub activation_function: ActivationKind,
}

impl LDMBertConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] if a value makes no sense, [`Error::Unsupported`] for a value or a field that the engine does
    /// not know, by name.
    pub fn from_json(json: &Json) -> Result<Self> {
        let r = ConfigReader::new(json)?;
        r.only("model_type", &[json!("ldmbert")])?;
        // The class reads it and does nothing with it.
        r.only("scale_embedding", &[json!(false)])?;
        r.ignore(NO_EFFECT);
        let config = Self {
            vocab_size: r.count("vocab_size", 30_522)?,
            max_position_embeddings: r.count("max_position_embeddings", 77)?,
            d_model: r.count("d_model", 1280)?,
            encoder_layers: r.count("encoder_layers", 32)?,
            encoder_ffn_dim: r.count("encoder_ffn_dim", 5120)?,
            encoder_attention_heads: r.count("encoder_attention_heads", 8)?,
            head_dim: r.count("head_dim", 64)?,
            activation_function: r.activation("activation_function")?.unwrap_or(ActivationKind::Gelu),
        };
        if config.encoder_layers > 1024 {
            return Err(r.wrong("encoder_layers", "a whole number from 1 to 1024"));
        }
        r.finish()?;
        Ok(config)
    }
}

/// A text encoder: token ids in, one vector for each token out.
#[derive(Clone, Debug, PartialEq)]
pub struct LDMBertModel {
    /// What it computes.
    pub config: LDMBertConfig,
}

impl LDMBertModel {
    /// The model that `config.json` describes.
    ///
    /// # Errors
    /// As [`LDMBertConfig::from_json`].
    pub fn from_json(json: &Json) -> Result<Self> {
        Ok(Self { config: LDMBertConfig::from_json(json)? })
    }

    /// A graph from `input_ids` u32 `[N, T]` to `last_hidden_state` f32 `[N, T, d_model]`; everything between is stored
    /// as `dtype`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more tokens than the model has positions.
    pub fn graph_of(&self, batch: usize, tokens: usize, dtype: DType) -> Result<Graph> {
        let c = &self.config;
        if tokens == 0 || tokens > c.max_position_embeddings {
            return Err(Error::Shape(format!(
                "input_ids [N, {tokens}]: the text encoder takes 1 to {} tokens",
                c.max_position_embeddings
            )));
        }
        let mut graph = Graph::new();
        let input_ids = graph.input("input_ids", TensorDesc::u32([batch, tokens]));
        let m = &mut Layers::new(&mut graph, dtype);

        // 1. which token, and where in the text
        let token = m.embedding(LDM_BERT_TOKENS, input_ids, c.vocab_size, c.d_model)?;
        let positions = HostTensor::from_fn([batch, tokens], |i| (i % tokens) as f32);
        let positions = m.graph.constant_u32("position_ids", positions);
        let position = m.embedding("model.embed_positions", positions, c.max_position_embeddings, c.d_model)?;
        let mut h = m.graph.add("model.embeddings.add", token, position)?;

        // 2. layers
        for i in 0..c.encoder_layers {
            h = self.layer(m, &format!("model.layers.{i}"), h)?;
        }
        let h = m.layer_norm("model.layer_norm", h, LAYER_NORM_EPS)?;
        let name = TextOutput::LastHiddenState.name();
        let h = m.graph.cast(format!("{name}.cast"), h, DType::F32)?;
        graph.output(name, h);
        Ok(graph)
    }

    /// `LDMBertEncoderLayer`: attention to all tokens, then feed-forward; each normalises its input and is added to it.
    fn layer(&self, m: &mut Layers<'_>, path: &str, x: ValueId) -> Result<ValueId> {
        let c = &self.config;
        let at = |name: &str| format!("{path}.{name}");
        let inner = c.encoder_attention_heads * c.head_dim;

        let h = m.layer_norm(&at("self_attn_layer_norm"), x, LAYER_NORM_EPS)?;
        let q = m.linear(&at("self_attn.q_proj"), h, inner, false)?;
        let k = m.linear(&at("self_attn.k_proj"), h, inner, false)?;
        let v = m.linear(&at("self_attn.v_proj"), h, inner, false)?;
        let attention = Attention { heads: c.encoder_attention_heads, ..Attention::default() };
        let h = m.graph.attention(at("self_attn.attention"), q, Some(k), Some(v), attention)?;
        let h = m.linear(&at("self_attn.out_proj"), h, c.d_model, true)?;
        let x = m.graph.add(at("self_attn.add"), x, h)?;

        let h = m.layer_norm(&at("final_layer_norm"), x, LAYER_NORM_EPS)?;
        let h = m.linear(&at("fc1"), h, c.encoder_ffn_dim, true)?;
        let h = m.activation(&at("activation_fn"), h, c.activation_function)?;
        let h = m.linear(&at("fc2"), h, c.d_model, true)?;
        m.graph.add(at("add"), x, h)
    }
}

impl Model for LDMBertModel {
    fn input_names(&self) -> Vec<&'static str> {
        vec!["input_ids"]
    }

    fn default_sizes(&self) -> Sizes {
        Sizes { tokens: self.config.max_position_embeddings, ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        self.graph_of(sizes.batch, sizes.tokens, dtype)
    }

    fn index_bound(&self, input: &str) -> Option<usize> {
        (input == "input_ids").then_some(self.config.vocab_size)
    }

    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let mut all = parameters_of(&self.graph(&self.default_sizes(), DType::F32)?);
        // What the encoder was given to guess words with; nothing here asks for it, but diffusers' class has it.
        let rows = self.config.vocab_size;
        all.push(("to_logits.weight".into(), vec![rows, self.config.d_model]));
        all.push(("to_logits.bias".into(), vec![rows]));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_are_read_or_refused_by_name() {
        let of = |more: &str| {
            let text = format!(r#"{{"model_type": "ldmbert", "dropout": 0.1{more}}}"#);
            LDMBertConfig::from_json(&Json::parse("bert/config.json", text).expect("JSON"))
        };
        let config = of("").expect("sound");
        assert_eq!((config.d_model, config.encoder_layers, config.encoder_ffn_dim), (1280, 32, 5120));
        assert_eq!((config.head_dim, config.encoder_attention_heads, config.vocab_size), (64, 8, 30_522));
        assert_eq!(config.activation_function, ActivationKind::Gelu);
        for (more, part) in [
            (r#", "scale_embedding": true"#, "scale_embedding"),
            (r#", "head_dim": 0"#, "head_dim"),
            (r#", "encoder_layers": 1025"#, "encoder_layers"),
            (r#", "position_embedding_type": "relative""#, "position_embedding_type"),
            (r#", "activation_function": "tanh""#, "activation_function"),
        ] {
            assert!(of(more).expect_err(part).to_string().contains(part));
        }
    }
}
