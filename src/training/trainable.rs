//! Parameters that change: inputs of the graph where a model that only runs has weights.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind, TensorDesc, ValueId, WeightLayout, WeightSource, WeightSpec};
use crate::tensor::HostTensor;

/// A parameter that is trained. On the device it is f32 and laid out as kernels read it; where the model computes with
/// less, it reads a rounded copy (Micikevicius et al. 2018, "Mixed Precision Training", section 3.1).
#[derive(Clone, Debug)]
pub struct Trainable {
    /// Its name in the checkpoint.
    pub name: String,
    /// The input of the graph that holds it.
    pub input: String,
    /// That input.
    pub value: ValueId,
    /// Its shape on the device.
    pub shape: Vec<usize>,
    spec: WeightSpec,
}

impl Trainable {
    /// The same graph with those of its weights that `pick` chooses by name as inputs, and these.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if a weight that is picked was put together of several: pass a graph as its model built
    /// it.
    pub fn of(graph: &Graph, pick: impl Fn(&str) -> bool) -> Result<(Graph, Vec<Self>)> {
        let mut new = Graph::new();
        let mut renamed: HashMap<ValueId, ValueId> = HashMap::new();
        let mut trainable: Vec<Self> = Vec::new();
        for (id, node) in graph.values() {
            let value = match &node.kind {
                NodeKind::Weight(spec) if spec.parts.iter().any(|part| pick(&part.name)) => {
                    let [part] = spec.parts.as_slice() else {
                        return Err(Error::Unsupported(format!("{}: made of several parameters", node.name)));
                    };
                    // A parameter that several layers share is one input.
                    let known = trainable.iter().find(|known| known.spec == *spec).map(|known| known.value);
                    let input = known.unwrap_or_else(|| {
                        let input = format!("parameter {}", node.name);
                        let value = new.input(input.clone(), TensorDesc::f32(node.desc.shape.clone()));
                        let (name, shape) = (part.name.clone(), node.desc.shape.clone());
                        trainable.push(Self { name, input, value, shape, spec: spec.clone() });
                        value
                    });
                    new.cast(format!("{}.cast", node.name), input, node.desc.dtype)?
                }
                _ => new.push_node(node, |v| renamed[&v])?,
            };
            renamed.insert(id, value);
        }
        graph.outputs().iter().for_each(|(name, value)| new.output(name.clone(), renamed[value]));
        graph.carries().iter().try_for_each(|carry| new.carry(&carry.output, &carry.input))?;
        Ok((new, trainable))
    }

    /// Its value in a checkpoint, laid out for the device.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is missing or has another shape.
    pub fn load(&self, weights: &dyn WeightSource) -> Result<HostTensor> {
        self.spec.load(weights, &self.shape)
    }

    /// A tensor of the device's layout as checkpoints have it.
    pub fn to_checkpoint(&self, tensor: HostTensor) -> HostTensor {
        match self.spec.layout {
            WeightLayout::AsIs => HostTensor { shape: self.spec.parts[0].shape.clone(), data: tensor.data },
            WeightLayout::Ohwi => tensor.channels_first(),
        }
    }

    /// A tensor of a checkpoint's layout as the device has it.
    pub fn from_checkpoint(&self, tensor: HostTensor) -> HostTensor {
        match self.spec.layout {
            WeightLayout::AsIs => tensor,
            WeightLayout::Ohwi => tensor.channels_last(),
        }
    }

    /// Its shape in the checkpoint.
    pub fn checkpoint_shape(&self) -> &[usize] {
        &self.spec.parts[0].shape
    }
}
