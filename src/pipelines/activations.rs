//! How large the numbers inside a model are, block by block, for those who want to see them.

use crate::error::Result;
use crate::graph::{Graph, NodeKind, ValueId};
use crate::ops::Op;
use crate::session::Session;
use crate::tensor::HostTensor;

/// Output of a step's graph: the model's prediction, after guidance.
const PREDICTION: &str = "explained.prediction";

/// The values of a step's graph whose size can be seen.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    /// Names of the blocks, in the order in which they run; the output of each is `explained.NAME`.
    blocks: Vec<String>,
    /// Whether the prediction is an output.
    prediction: bool,
}

/// What a block of the model returned in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// The block, by the name that its parameters begin with: `down_blocks.0.resnets.1`.
    pub block: String,
    /// Its shape on the device, channels last.
    pub shape: Vec<usize>,
    /// √(mean of squares) of all its numbers.
    pub rms: f64,
}

impl Activations {
    /// Makes outputs of what each block of a step's graph returns, and of its prediction.
    pub(super) fn expose(graph: &mut Graph) -> Self {
        let mut blocks: Vec<(String, ValueId)> = Vec::new();
        let mut prediction = None;
        for (id, node) in graph.values() {
            let NodeKind::Op(op, inputs) = &node.kind else { continue };
            if let (Op::PredOriginalSample(_), Some(Some(value))) = (op, inputs.get(1)) {
                prediction = Some(*value);
            }
            let Some(block) = block_of(&node.name) else { continue };
            match blocks.iter_mut().find(|(name, _)| name == block) {
                Some((_, last)) => *last = id,
                None => blocks.push((block.to_owned(), id)),
            }
        }
        blocks.iter().for_each(|(name, value)| graph.output(output_of(name), *value));
        prediction.into_iter().for_each(|value| graph.output(PREDICTION, value));
        Self { blocks: blocks.into_iter().map(|(name, _)| name).collect(), prediction: prediction.is_some() }
    }

    /// What each block returned in the last step, in the order in which they run; nothing if none is exposed.
    pub(super) fn read(&self, session: &mut dyn Session) -> Result<Vec<Activation>> {
        let of_block = |block: &String| {
            let value = session.read(&output_of(block))?;
            Ok(Activation { block: block.clone(), rms: rms(&value), shape: value.shape })
        };
        self.blocks.iter().map(of_block).collect()
    }

    /// The root of the mean square of the last step's prediction; `None` if it is not exposed.
    pub(super) fn prediction(&self, session: &mut dyn Session) -> Result<Option<f64>> {
        self.prediction.then(|| Ok(rms(&session.read(PREDICTION)?))).transpose()
    }
}

fn output_of(block: &str) -> String {
    format!("explained.{block}")
}

/// The block that a node of a U-Net belongs to: `down_blocks.0.resnets.1` of `down_blocks.0.resnets.1.norm2`; the first
/// and the last convolution are blocks of their own.
fn block_of(node: &str) -> Option<&str> {
    let parts = if node.starts_with("mid_block.") { 3 } else { 4 };
    let of_blocks = ["down_blocks.", "mid_block.", "up_blocks."].iter().any(|start| node.starts_with(start));
    match node {
        "conv_in" | "conv_out" => Some(node),
        // What the time and the text bring is no picture.
        _ if !of_blocks || node.contains("time_emb_proj") => None,
        _ => node.match_indices('.').nth(parts - 1).map(|(end, _)| &node[..end]),
    }
}

/// √(mean of squares)
fn rms(value: &HostTensor) -> f64 {
    (value.data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / value.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_belong_to_the_module_that_holds_their_parameters() {
        for (node, block) in [
            ("conv_in", Some("conv_in")),
            ("down_blocks.0.resnets.1.norm2.act", Some("down_blocks.0.resnets.1")),
            ("up_blocks.2.attentions.0.transformer_blocks.0.ff.add", Some("up_blocks.2.attentions.0")),
            ("mid_block.attentions.0.add_residual", Some("mid_block.attentions.0")),
            ("down_blocks.0.resnets.0.time_emb_proj", None),
            ("time_embedding.linear_1", None),
            ("scheduler_step", None),
        ] {
            assert_eq!(block_of(node), block, "{node}");
        }
        assert_eq!(rms(&HostTensor::new([2], vec![3.0, -4.0]).unwrap()), 12.5f64.sqrt());
    }
}
