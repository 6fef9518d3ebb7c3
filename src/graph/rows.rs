//! One sample of a batch in the place of another.

use std::collections::HashMap;

use super::ir::{Graph, Node, NodeKind, TensorDesc, ValueId};
use crate::error::Result;

/// The graph, with a new input `rows`, u32 `[batch]`: wherever `chosen` returns inputs of a node, by their places, the
/// node sees sample `rows[n]` of these in the place of sample n. `rows` of 0, 1, 2 … change nothing, to the bit; larger
/// ones than `batch` − 1 read the last. Returns how many nodes were chosen, too.
///
/// # Errors
/// [`crate::Error::Shape`] if such an input is not a batch of so many samples.
pub fn gather_rows(
    graph: &Graph,
    rows: &str,
    batch: usize,
    chosen: impl Fn(&Graph, &Node) -> &'static [usize],
) -> Result<(Graph, usize)> {
    let mut new = Graph::new();
    let indices = new.input(rows, TensorDesc::u32([batch]));
    let (mut renamed, mut count) = (HashMap::<ValueId, ValueId>::new(), 0);
    for (id, node) in graph.values() {
        let places = chosen(graph, node);
        let value = match &node.kind {
            NodeKind::Op(op, inputs) if !places.is_empty() => {
                let mut inputs: Vec<_> = inputs.iter().map(|value| value.map(|value| renamed[&value])).collect();
                for place in places {
                    if let Some(value) = inputs[*place] {
                        let name = format!("{}.{rows}.{place}", node.name);
                        inputs[*place] = Some(gather(&mut new, &name, indices, value)?);
                    }
                }
                count += 1;
                new.push(node.name.clone(), op.clone(), &inputs)?
            }
            _ => new.push_node(node, |value| renamed[&value])?,
        };
        renamed.insert(id, value);
    }
    graph.outputs().iter().for_each(|(name, value)| new.output(name.clone(), renamed[value]));
    graph.carries().iter().try_for_each(|carry| new.carry(&carry.output, &carry.input))?;
    Ok((new, count))
}

/// Sample `indices[n]` of `value` `[batch, ..]` for each n.
fn gather(graph: &mut Graph, name: &str, indices: ValueId, value: ValueId) -> Result<ValueId> {
    let shape = graph.shape(value).to_vec();
    let samples = graph.shape(indices)[0];
    let of_one: usize = shape[1..].iter().product();
    let table = graph.reshape(format!("{name}.table"), value, vec![samples, of_one])?;
    let rows = graph.embedding(name, indices, table)?;
    graph.reshape(format!("{name}.samples"), rows, shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostTensor;
    use crate::ops::Op;

    #[test]
    fn chosen_inputs_see_other_samples() {
        let mut graph = Graph::new();
        let a = graph.input("a", TensorDesc::f32([2, 2]));
        let b = graph.input("b", TensorDesc::f32([2, 2]));
        let sum = graph.add("sum", a, b).unwrap();
        graph.output("sum", sum);
        let second: fn(&Graph, &Node) -> &'static [usize] =
            |_, node| if matches!(node.op(), Some(Op::Binary(_))) { &[1] } else { &[] };
        let (changed, count) = gather_rows(&graph, "rows", 2, second).unwrap();
        assert_eq!(count, 1);
        let device = crate::backend::Device::Reference;
        let load = crate::backend::LoadOptions::default();
        let mut session = device.load(changed, &HashMap::new(), &load).unwrap();
        let tensor = |data: [f32; 4]| HostTensor::new([2, 2], data.to_vec()).unwrap();
        session.write("a", &tensor([1.0, 2.0, 3.0, 4.0])).unwrap();
        session.write("b", &tensor([10.0, 20.0, 30.0, 40.0])).unwrap();
        for (rows, sums) in [([0.0, 1.0], [11.0, 22.0, 33.0, 44.0]), ([1.0, 1.0], [31.0, 42.0, 33.0, 44.0])] {
            session.write("rows", &HostTensor::new([2], rows.to_vec()).unwrap()).unwrap();
            session.run().unwrap();
            assert_eq!(session.read("sum").unwrap().data, sums);
        }
        assert!(gather_rows(&graph, "rows", 3, second).is_err(), "of another batch");
    }
}
