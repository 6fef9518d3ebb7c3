//! How large the values of a graph get, and how to store in f32 those that f16 cannot hold: the tools of
//! [`crate::overflow`].

use std::collections::BTreeSet;

use super::ir::{Graph, Node, NodeKind, ValueId};
use super::weights::WeightSource;
use crate::encode;
use crate::error::Result;
use crate::tensor::DType;

/// The largest magnitude that f16 holds.
pub const F16_MAX: f32 = 65504.0;

/// The results of operations that a graph stores in f16.
pub fn halves(graph: &Graph) -> impl Iterator<Item = &Node> {
    graph.nodes().iter().filter(|node| node.op().is_some() && node.desc.dtype == DType::F16)
}

/// The names of the parameters that a graph stores in f16 and that are too large for it.
///
/// # Errors
/// As [`WeightSource::read`].
pub fn large_weights(graph: &Graph, weights: &dyn WeightSource) -> Result<Vec<String>> {
    let mut large = Vec::new();
    for node in graph.nodes().iter().filter(|node| node.desc.dtype == DType::F16) {
        let NodeKind::Weight(spec) = &node.kind else { continue };
        for part in &spec.parts {
            let largest = match weights.stored(part)? {
                Some(stored) => encode::max_abs(&stored),
                None => weights.read(part)?.data.iter().fold(0.0, |largest, v| v.abs().max(largest)),
            };
            if largest > F16_MAX {
                large.push(node.name.clone());
                break;
            }
        }
    }
    Ok(large)
}

/// The same graph with the results of the named operations, and the named parameters, stored in f32 where they were in
/// f16.
pub fn widened(graph: &Graph, names: &BTreeSet<String>) -> Graph {
    let mut wide = graph.clone();
    let chosen = |node: &Node| node.desc.dtype == DType::F16 && names.contains(&node.name);
    graph.values().filter(|(_, node)| chosen(node)).for_each(|(id, _)| wide.store_as(id, DType::F32));
    wide
}

/// The same graph with every result in f32, and for each that was in f16 one more output: its largest magnitude,
/// [`Graph::max_abs`]. It follows its value at once, so that measuring keeps no value alive for longer. Returned with
/// it: the name of each measured operation and of its output.
///
/// # Errors
/// As [`Graph::push`], for graphs that could not run.
pub fn measured(graph: &Graph) -> Result<(Graph, Vec<(String, String)>)> {
    let mut out = Graph::new();
    let mut renamed: Vec<ValueId> = Vec::with_capacity(graph.nodes().len());
    let mut outputs = Vec::new();
    for (id, node) in graph.values() {
        let value = out.push_node(node, |v| renamed[v.index()])?;
        renamed.push(value);
        if node.op().is_none() {
            continue;
        }
        out.store_as(value, DType::F32);
        if node.desc.dtype == DType::F16 {
            let output = format!("max_abs.{}", id.index());
            let largest = out.max_abs(format!("{}.max_abs", node.name), value)?;
            out.output(output.clone(), largest);
            outputs.push((node.name.clone(), output));
        }
    }
    graph.outputs().iter().for_each(|(name, v)| out.output(name.clone(), renamed[v.index()]));
    graph.carries().iter().try_for_each(|c| out.carry(&c.output, &c.input))?;
    Ok((out, outputs))
}
