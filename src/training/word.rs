//! Learning a word (Gal et al. 2022, "An Image is Worth One Word", textual inversion): the text encoder goes before the
//! U-Net in one graph, and of both the vectors of one word alone are trained.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeKind, TensorDesc, ValueId, WeightLayout};
use crate::models::TOKEN_EMBEDDING;
use crate::ops::Op;
use crate::tensor::DType;

/// Whose parameters the text encoder's are in a graph with the U-Net ([`crate::graph::WeightSources`]).
pub const TEXT_ENCODER: &str = "text_encoder";
/// Whose the word's vectors are.
pub const WORD: &str = "word";
/// Their name: `[vectors, C]`.
pub const VECTORS: &str = "vectors";

/// `unet` with its `encoder_hidden_states` from the output `states` of `text`. Tokens that stand for the word take
/// their vectors from the parameter [`VECTORS`] of the source [`WORD`], `[vectors, C]`: inputs `word_rows` u32 `[N, T]`
/// say which one, and `word_mask` `[N, T, 1]` is 1 for such tokens.
///
/// # Errors
/// [`Error::Shape`] if the two do not fit together.
pub fn with_word(text: &Graph, states: &str, unet: &Graph, vectors: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut renamed: HashMap<ValueId, ValueId> = HashMap::new();
    for (id, node) in text.values() {
        let mut node: Node = node.clone();
        if let NodeKind::Weight(spec) = &mut node.kind {
            spec.parts.iter_mut().for_each(|part| part.source = Some(TEXT_ENCODER.into()));
        }
        let mut value = graph.push_node(&node, |v| renamed[&v])?;
        if matches!(&node.kind, NodeKind::Op(Op::Embedding(_), _)) && node.name == TOKEN_EMBEDDING {
            value = word_instead(&mut graph, value, vectors)?;
        }
        renamed.insert(id, value);
    }
    let missing = || Error::Shape(format!("the text encoder has no output {states}"));
    let hidden = renamed[&text.find_output(states).ok_or_else(missing)?];
    let mut renamed: HashMap<ValueId, ValueId> = HashMap::new();
    for (id, node) in unet.values() {
        let text = matches!(node.kind, NodeKind::Input(_)) && node.name == "encoder_hidden_states";
        if text && graph.desc(hidden) != &node.desc {
            let (found, expected) = (graph.desc(hidden).label(), node.desc.label());
            return Err(Error::Shape(format!("the text encoder returns {found}, the U-Net takes {expected}")));
        }
        let value = if text { hidden } else { graph.push_node(node, |v| renamed[&v])? };
        renamed.insert(id, value);
    }
    unet.outputs().iter().for_each(|(name, value)| graph.output(name.clone(), renamed[value]));
    Ok(graph)
}

/// `tokens + mask · (vectors[rows] − tokens)`
fn word_instead(graph: &mut Graph, tokens: ValueId, vectors: usize) -> Result<ValueId> {
    let desc = graph.desc(tokens).clone();
    let &[batch, length, width] = desc.shape.as_slice() else {
        return Err(Error::Shape(format!("token vectors {:?}: expected [N, T, C]", desc.shape)));
    };
    let rows = graph.input("word_rows", TensorDesc::u32([batch, length]));
    let mask = graph.input("word_mask", TensorDesc::f32([batch, length, 1]));
    let table = graph.weight_of(Some(WORD), VECTORS, &[vectors, width], WeightLayout::AsIs, DType::F32);
    let word = graph.embedding("word", rows, table)?;
    let tokens = graph.cast("word.tokens", tokens, DType::F32)?;
    let negative = graph.scale("word.negative", tokens, -1.0, 0.0)?;
    let difference = graph.add("word.difference", word, negative)?;
    let masked = graph.mul("word.masked", difference, mask)?;
    let sum = graph.add("word.instead", tokens, masked)?;
    graph.cast("word.cast", sum, desc.dtype)
}
