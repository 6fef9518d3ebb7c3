//! Runs a whole graph through the reference, node by node.

use std::collections::HashMap;

use crate::backend::{Session, check_input, check_output};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind, ValueId, WeightSource};
use crate::tensor::{DType, HostTensor};

/// A graph on the CPU reference. Values stored as f16 are rounded to f16 after each operation, as a device stores them.
pub struct ReferenceSession {
    graph: Graph,
    values: HashMap<ValueId, HostTensor>,
    /// Keep every intermediate value after a run, not only the outputs.
    keep_all: bool,
}

impl ReferenceSession {
    /// Loads the parameters of `graph` from `weights`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a parameter is missing or does not fit.
    pub fn new(graph: Graph, weights: &dyn WeightSource) -> Result<Self> {
        let mut values = HashMap::new();
        for (id, node) in graph.values() {
            let tensor = match &node.kind {
                NodeKind::Weight(spec) => spec.load(weights, &node.desc.shape)?,
                NodeKind::Constant(tensor) => (**tensor).clone(),
                NodeKind::Input | NodeKind::Op(..) => continue,
            };
            values.insert(id, stored(tensor, node.desc.dtype));
        }
        Ok(Self { graph, values, keep_all: false })
    }

    /// Keeps every intermediate value, for [`ReferenceSession::value`].
    pub fn keep_all(mut self) -> Self {
        self.keep_all = true;
        self
    }

    /// An intermediate value of the last run.
    pub fn value(&self, id: ValueId) -> Option<&HostTensor> {
        self.values.get(&id)
    }
}

/// Rounds to the stored element type.
pub(crate) fn stored(mut tensor: HostTensor, dtype: DType) -> HostTensor {
    if dtype == DType::F16 {
        tensor.data.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
    }
    tensor
}

impl Session for ReferenceSession {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()> {
        let id = check_input(&self.graph, input, tensor)?;
        self.values.insert(id, stored(tensor.clone(), self.graph.desc(id).dtype));
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut uses = self.graph.use_counts();
        for (id, node) in self.graph.values() {
            let NodeKind::Op(op, inputs) = &node.kind else { continue };
            let mut tensors = Vec::with_capacity(inputs.len());
            for input in inputs {
                tensors.push(match input {
                    Some(v) => Some(self.values.get(v).ok_or_else(|| {
                        Error::Shape(format!("input {} was never written", self.graph.node(*v).name))
                    })?),
                    None => None,
                });
            }
            let result = op.reference(&tensors);
            assert_eq!(
                result.shape,
                node.desc.shape,
                "the reference of {} and its shape inference disagree",
                op.name()
            );
            self.values.insert(id, stored(result, node.desc.dtype));
            if self.keep_all {
                continue;
            }
            for input in inputs.iter().flatten() {
                uses[input.index()] -= 1;
                if uses[input.index()] == 0 && self.graph.node(*input).op().is_some() {
                    self.values.remove(input);
                }
            }
        }
        for carry in self.graph.carries() {
            let from = check_output(&self.graph, &carry.output)?;
            let to = self.graph.find_input(&carry.input).expect("Graph::carry checked both names");
            let value = self.values[&from].clone();
            self.values.insert(to, value);
        }
        Ok(())
    }

    fn read(&mut self, output: &str) -> Result<HostTensor> {
        let id = check_output(&self.graph, output)?;
        self.values.get(&id).cloned().ok_or_else(|| Error::Shape(format!("output {output} was read before a run")))
    }
}
