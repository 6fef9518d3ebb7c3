//! The kinds of operations in a graph: formula, kernels, reference and gradient of each.

use std::collections::BTreeSet;

use super::nodes::Node;
use super::sources;
use crate::error::{Error, Result};
use crate::graph::{Graph, Kept, NodeKind, ValueId};
use crate::kernel::find_kernel;
use crate::measure::Instance;
use crate::tensor::DType;

/// One kind of operation.
pub struct Kind {
    /// As the registry names it.
    pub name: &'static str,
    /// What it computes, from the header of its first kernel, with the source.
    pub formula: String,
    /// The kernels that computed it in this run, or else its first one: name and text.
    pub kernels: Vec<(String, String)>,
    /// The file of the reference, and its text.
    pub reference: Option<(String, String)>,
    /// For each input the operations that pass a gradient back to it, or why none do.
    pub gradient: Vec<(String, String)>,
}

/// The kinds of operations of `graph`, in the order of their first node. `nodes` are the same operations, measured.
///
/// # Errors
/// [`Error::Io`] if a kernel's text cannot be read.
pub fn of(graph: &Graph, nodes: &[Node]) -> Result<Vec<Kind>> {
    let instances = Instance::distinct(graph);
    let mut names: Vec<&'static str> = Vec::new();
    for node in nodes.iter().filter(|node| !names.contains(&node.operation)).collect::<Vec<_>>() {
        if !names.contains(&node.operation) {
            names.push(node.operation);
        }
    }
    let kind = |name: &'static str| {
        let first = sources::first_kernel(name);
        let used = nodes.iter().filter(|node| node.operation == name).flat_map(|node| &node.kernels);
        let mut used: BTreeSet<&str> = used.map(String::as_str).collect();
        if used.is_empty() {
            used.extend(first);
        }
        let kernels = used.into_iter().map(|kernel| Ok((kernel.to_owned(), find_kernel(kernel)?.into_owned())));
        let kernels = kernels.collect::<Result<Vec<_>>>()?;
        let header = first.map(find_kernel).transpose()?;
        let formula = header.map_or("the same numbers in another shape".to_owned(), |text| sources::formula(&text));
        let instance = instances.iter().find(|instance| instance.op.name() == name);
        let gradient = instance.map(gradients).transpose()?.unwrap_or_default();
        Ok(Kind { name, formula, kernels, reference: sources::reference(name), gradient })
    };
    names.into_iter().map(kind).collect()
}

/// Which operations pass a gradient back to each input of `instance` that holds numbers, or why none do.
fn gradients(instance: &Instance) -> Result<Vec<(String, String)>> {
    let of_input = |(position, name): (usize, &&str)| {
        let (desc, _) = instance.inputs.get(position)?.as_ref()?;
        (desc.dtype != DType::U32).then(|| Ok(((*name).to_owned(), gradient(instance, position)?)))
    };
    instance.op.input_names().iter().enumerate().filter_map(of_input).collect()
}

fn gradient(instance: &Instance, position: usize) -> Result<String> {
    let mut graph = instance.graph()?;
    let (_, y) = graph.outputs()[0];
    let NodeKind::Op(_, inputs) = &graph.node(y).kind else { unreachable!("the graph has one operation") };
    let Some(wanted) = inputs[position] else { return Ok(String::new()) };
    let dy = graph.input("dy", graph.desc(y).clone());
    match graph.differentiate(y, dy, &[wanted], &Kept::All) {
        Ok(_) => {
            let mut names: Vec<&str> = Vec::new();
            let new = graph.values().filter(|(id, _)| *id > dy);
            for op in new.filter_map(|(_, node): (ValueId, _)| node.op()) {
                if !names.contains(&op.kind_name()) {
                    names.push(op.kind_name());
                }
            }
            Ok(if names.is_empty() { "dy as it is".to_owned() } else { names.join(", ") })
        }
        Err(Error::Unsupported(_)) => Ok("none".to_owned()),
        Err(other) => Err(other),
    }
}
