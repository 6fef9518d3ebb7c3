//! States that are changed where they lie: what a training step carries from one run to the next.

use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, NodeKind, ValueId};

/// The values that can lie where the inputs lie to which they are carried: made by an operation that changes its first
/// input in place, from that very input, which nothing reads later.
pub(super) fn find(graph: &Graph) -> HashSet<ValueId> {
    let mut last_read: HashMap<ValueId, usize> = HashMap::new();
    for (id, node) in graph.values() {
        last_read.extend(node.inputs().map(|value| (value, id.index())));
    }
    let mut found = HashSet::new();
    for carry in graph.carries() {
        let output = graph.find_output(&carry.output).expect("Graph::carry checked both names");
        let input = graph.find_input(&carry.input).expect("as above");
        let NodeKind::Op(op, inputs) = &graph.node(output).kind else { continue };
        // An input that is a result itself, or one that several results are carried to, keeps its memory.
        let shown = graph.outputs().iter().filter(|(_, value)| *value == input || *value == output).count();
        let carried = graph.carries().iter().filter(|other| other.input == carry.input).count();
        let alone = shown == 1 && carried == 1;
        if alone && op.is_in_place() && inputs[0] == Some(input) && last_read.get(&input) == Some(&output.index()) {
            found.insert(output);
        }
    }
    found
}
