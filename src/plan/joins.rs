//! Concatenations that nobody computes, because each node that reads one can take the two tensors as they are: the skip
//! connections of a U-Net, which would else be copied for the norm and the shortcut behind them.

use std::collections::HashMap;

use super::choose::{Choice, choose};
use crate::caps::Caps;
use crate::graph::{Graph, Node, NodeKind, ValueId};
use crate::ops::{LowerContext, Op};

/// The two tensors that stand for a concatenation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    pub first: ValueId,
    pub second: ValueId,
    /// Channels of the first.
    pub channels: usize,
}

/// The concatenations that need not be computed, by their value.
pub(super) fn find(graph: &Graph, caps: &Caps, choice: &Choice) -> HashMap<ValueId, Joined> {
    let mut readers: HashMap<ValueId, Vec<&Node>> = HashMap::new();
    for node in graph.nodes() {
        node.inputs().for_each(|value| readers.entry(value).or_default().push(node));
    }
    let mut found: HashMap<ValueId, Joined> = HashMap::new();
    for (value, node) in graph.values() {
        let Some(joined) = joined(graph, node) else { continue };
        let whole = |value: ValueId| !found.contains_key(&value);
        let read = readers.get(&value).map_or(&[][..], Vec::as_slice);
        let kept = graph.outputs().iter().any(|(_, output)| *output == value);
        if !kept
            && whole(joined.first)
            && whole(joined.second)
            && read.iter().all(|reader| takes_both(graph, caps, choice, reader, value, joined.channels))
        {
            found.insert(value, joined);
        }
    }
    found
}

/// The tensors that `node` joins, if it does so along the channels, and they are stored alike.
fn joined(graph: &Graph, node: &Node) -> Option<Joined> {
    let NodeKind::Op(Op::Concat(concat), inputs) = &node.kind else { return None };
    let [Some(first), Some(second)] = inputs[..] else { return None };
    let alike = graph.desc(first).dtype == node.desc.dtype && graph.desc(second).dtype == node.desc.dtype;
    let along_channels = concat.axis + 1 == node.desc.shape.len();
    (alike && along_channels).then(|| Joined { first, second, channels: graph.desc(first).channels() })
}

/// Whether `reader` has `value` as its first input alone, and its kernels can take two tensors in its place.
fn takes_both(graph: &Graph, caps: &Caps, choice: &Choice, reader: &Node, value: ValueId, channels: usize) -> bool {
    let NodeKind::Op(op, inputs) = &reader.kind else { return false };
    if inputs[0] != Some(value) || inputs[1..].contains(&Some(value)) {
        return false;
    }
    let descs: Vec<_> = inputs.iter().map(|v| v.map(|v| graph.desc(v))).collect();
    let context = LowerContext { inputs: &descs, output: &reader.desc, caps, joined: Some(channels), in_place: false };
    // What cannot be chosen is refused when the reader is planned.
    choose(op, &reader.name, &context, choice).is_ok_and(|decision| op.joins(decision.variant, &context))
}
