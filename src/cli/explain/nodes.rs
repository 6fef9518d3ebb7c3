//! The nodes of a step's graph: their work, the kernels that do it, and the time that it takes.

use std::collections::HashMap;

use crate::backend::{Device, LoadOptions};
use crate::error::Result;
use crate::graph::{Graph, NodeKind, Rate};
use crate::measure::{Effort, Operation, operations_of};
use crate::ops::Cost;
use crate::plan::Program;

/// One operation of the graph.
pub struct Node {
    pub name: String,
    /// As the registry names it.
    pub operation: &'static str,
    /// As users know it, with its attributes: `conv2d[windows …]`.
    pub label: String,
    /// `f32 [..], f32 [..] -> f32 [..]`
    pub shapes: String,
    pub cost: Cost,
    /// Whether it runs in every step; else once for each prompt or model.
    pub every_step: bool,
    /// What it launches in a step; nothing on the reference.
    pub kernels: Vec<String>,
    /// By the device's clock, by itself; none on the reference.
    pub seconds: Option<f64>,
}

/// Samples for each operation: enough to see what is large.
const EFFORT: Effort = Effort { least: 3, most: 20, seconds: 0.05, uncertainty: 0.05, warm_up: 0.05 };

/// The operations of `graph`, which the passes have rewritten, each timed by itself on a graphics adapter.
///
/// # Errors
/// As [`Program::new`] and [`crate::measure::Instance::measure`].
pub fn of(device: &Device, load: &LoadOptions, graph: &Graph) -> Result<Vec<Node>> {
    let timed = match device {
        Device::Gpu(gpu) => {
            let program = Program::new(graph, gpu.caps(), &load.plan)?;
            let instances = operations_of(gpu, graph, &program, &load.plan)?;
            let timed: Result<Vec<Operation>> =
                instances.iter().map(|instance| instance.measure(gpu, &load.plan, false, &EFFORT)).collect();
            timed?
        }
        Device::Reference => vec![],
    };
    let of_node: HashMap<&str, &Operation> =
        timed.iter().flat_map(|operation| operation.nodes.iter().map(move |node| (node.as_str(), operation))).collect();
    let rates = graph.rates();
    let node = |(id, node): (crate::graph::ValueId, &crate::graph::Node)| {
        let NodeKind::Op(op, inputs) = &node.kind else { return None };
        let inputs: Vec<_> = inputs.iter().map(|input| input.map(|value| graph.desc(value))).collect();
        let given: Vec<String> =
            inputs.iter().map(|desc| desc.map_or("-".into(), crate::graph::TensorDesc::label)).collect();
        let timed = of_node.get(node.name.as_str());
        let attributes = op.attributes();
        let kind = op.kind_name();
        Some(Node {
            name: node.name.clone(),
            operation: op.name(),
            label: if attributes.is_empty() { kind.to_owned() } else { format!("{kind}[{attributes}]") },
            shapes: format!("{} -> {}", given.join(", "), node.desc.label()),
            cost: op.cost(&inputs, &node.desc),
            every_step: rates[id.index()] == Rate::Step,
            kernels: timed.map(|operation| operation.kernels.clone()).unwrap_or_default(),
            seconds: timed.map(|operation| operation.seconds.median()),
        })
    };
    Ok(graph.values().filter_map(node).collect())
}
