//! The kinds of operations in a graph: formula, kernels, reference and gradient of each.

use std::collections::BTreeSet;

use super::nodes::Node;
use super::sources;
use crate::error::{Error, Result};
use crate::graph::{Graph, Kept, NodeKind, ValueId};
use crate::kernel::find_kernel;
use crate::measure::Instance;
use crate::tensor::DType;

/// What has no gradient.
const NONE: &str = "none";

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
    /// For each input, as `conv2d weight`, the operations that pass a gradient back to it, or [`NONE`].
    pub gradient: Vec<(String, String)>,
}

/// The kinds of operations of `nodes`, in the order of their first node. `graph` is what they were before the passes
/// put some together, which is what training differentiates.
///
/// # Errors
/// [`Error::Io`] if a kernel's text cannot be read.
pub fn of(graph: &Graph, nodes: &[Node]) -> Result<Vec<Kind>> {
    let instances = Instance::distinct(graph);
    let mut names: Vec<&'static str> = Vec::new();
    for node in nodes {
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
        let gradient = gradients_of(instances.iter().filter(|instance| instance.op.name() == name))?;
        Ok(Kind { name, formula, kernels, reference: sources::reference(name), gradient })
    };
    names.into_iter().map(kind).collect()
}

/// The gradients of all that goes by each name, `conv2d` and `linear`: of the instance with the most of them.
fn gradients_of<'a>(instances: impl Iterator<Item = &'a Instance>) -> Result<Vec<(String, String)>> {
    let known = |all: &[(String, String)]| all.iter().filter(|(_, by)| by != NONE).count();
    let mut best: Vec<(&str, Vec<(String, String)>)> = Vec::new();
    for instance in instances {
        let (kind, found) = (instance.op.kind_name(), gradients(instance)?);
        match best.iter_mut().find(|(name, _)| *name == kind) {
            Some((_, before)) if known(before) >= known(&found) => {}
            Some((_, before)) => *before = found,
            None => best.push((kind, found)),
        }
    }
    let named = |(kind, of): (&str, Vec<(String, String)>)| {
        let name = move |(input, by): (String, String)| (format!("{kind} {input}"), by);
        of.into_iter().map(name).collect::<Vec<_>>()
    };
    Ok(best.into_iter().flat_map(named).collect())
}

/// Which operations pass a gradient back to each input of `instance` that holds numbers, or [`NONE`].
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
        Err(Error::Unsupported(_)) => Ok(NONE.to_owned()),
        Err(other) => Err(other),
    }
}
