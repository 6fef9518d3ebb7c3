//! The text encoders that pipelines have, behind one face.

use super::clip_text::{CLIPTextModel, TOKEN_EMBEDDING, TextOutput};
use super::ldm_bert::{LDM_BERT_TOKENS, LDMBertModel};
use super::model::Model;
use crate::checkpoint::Component;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::tensor::DType;

/// A text encoder of one kind or another.
#[derive(Clone, Debug, PartialEq)]
pub enum TextModel {
    /// Stable Diffusion's.
    Clip(CLIPTextModel),
    /// Latent diffusion's before that.
    Bert(LDMBertModel),
}

impl TextModel {
    /// The text encoder that a component describes.
    ///
    /// # Errors
    /// As [`CLIPTextModel::from_json`] and [`LDMBertModel::from_json`].
    pub fn of(component: &Component) -> Result<Self> {
        match component.class_name.as_deref() {
            Some("LDMBertModel") => Ok(Self::Bert(LDMBertModel::from_json(&component.config)?)),
            class => Ok(Self::Clip(CLIPTextModel::from_json(&component.config, class)?)),
        }
    }

    /// Either of them as a [`Model`].
    pub fn as_model(&self) -> &dyn Model {
        match self {
            Self::Clip(model) => model,
            Self::Bert(model) => model,
        }
    }

    /// Tokens in its vocabulary.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Clip(model) => model.config.vocab_size,
            Self::Bert(model) => model.config.vocab_size,
        }
    }

    /// The most tokens of a text.
    pub fn positions(&self) -> usize {
        match self {
            Self::Clip(model) => model.config.max_position_embeddings,
            Self::Bert(model) => model.config.max_position_embeddings,
        }
    }

    /// Width of the states.
    pub fn width(&self) -> usize {
        match self {
            Self::Clip(model) => model.config.hidden_size,
            Self::Bert(model) => model.config.d_model,
        }
    }

    /// How many of the last layers can be left out.
    pub fn layers(&self) -> usize {
        match self {
            Self::Clip(model) => model.config.num_hidden_layers,
            Self::Bert(_) => 0,
        }
    }

    /// Whether it returns one vector for the whole text, too.
    pub fn projects(&self) -> bool {
        matches!(self, Self::Clip(model) if model.config.projection_dim.is_some())
    }

    /// The name of the token vectors in a checkpoint.
    pub fn token_table(&self) -> &'static str {
        match self {
            Self::Clip(_) => TOKEN_EMBEDDING,
            Self::Bert(_) => LDM_BERT_TOKENS,
        }
    }

    /// The same with a vocabulary of so many tokens.
    #[must_use]
    pub fn with_vocabulary(&self, tokens: usize) -> Self {
        let mut model = self.clone();
        match &mut model {
            Self::Clip(model) => model.config.vocab_size = tokens,
            Self::Bert(model) => model.config.vocab_size = tokens,
        }
        model
    }

    /// A graph that computes `outputs`, as [`CLIPTextModel::graph_of`].
    ///
    /// # Errors
    /// As the models' `graph_of`; [`Error::Unsupported`] if it has no such output.
    pub fn graph_of(&self, batch: usize, tokens: usize, outputs: &[TextOutput], dtype: DType) -> Result<Graph> {
        match (self, outputs) {
            (Self::Clip(model), _) => model.graph_of(batch, tokens, outputs, dtype),
            (Self::Bert(model), [TextOutput::LastHiddenState]) => model.graph_of(batch, tokens, dtype),
            (Self::Bert(_), _) => {
                let names: Vec<_> = outputs.iter().map(|output| output.name()).collect();
                Err(Error::Unsupported(format!(
                    "{} of an LDMBertModel, which returns last_hidden_state",
                    names.join(", ")
                )))
            }
        }
    }
}
