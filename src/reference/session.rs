//! Runs a whole graph through the reference, node by node.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind, Rate, ValueId, WeightSource};
use crate::plan::Port;
use crate::session::{Session, check_input, check_output};
use crate::tensor::{DType, HostTensor};

/// A graph on the CPU reference. Values stored as f16 are rounded to f16 after each operation, as a device stores them.
pub struct ReferenceSession {
    graph: Graph,
    /// By [`ValueId::index`].
    rates: Vec<Rate>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    values: HashMap<ValueId, HostTensor>,
    /// The rarest rate at which anything has changed since the last run; values that change less often are still valid.
    changed: Rate,
    /// Keep every intermediate value after a run, not only what the next one may need.
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
                NodeKind::Input(_) | NodeKind::Op(..) => continue,
            };
            values.insert(id, stored(tensor, node.desc.dtype));
        }
        let rates = graph.rates();
        let port = |name: &str, id: ValueId| Port {
            name: name.to_owned(),
            shape: graph.shape(id).to_vec(),
            dtype: graph.desc(id).dtype,
            rate: rates[id.index()],
            buffer: id.index(),
        };
        let inputs = graph
            .values()
            .filter(|(_, node)| matches!(node.kind, NodeKind::Input(_)))
            .map(|(id, node)| port(&node.name, id))
            .collect();
        let outputs = graph.outputs().iter().map(|(name, id)| port(name, *id)).collect();
        Ok(Self { inputs, outputs, rates, graph, values, changed: Rate::Once, keep_all: false })
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

    /// Whether a computed value is needed by later runs: something that runs more often than it changes reads it.
    fn outlives(&self, id: ValueId, readers: &[Option<Rate>]) -> bool {
        readers[id.index()] > Some(self.rates[id.index()])
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
    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()> {
        let port = check_input(&self.inputs, input, tensor)?;
        let id = self.graph.find_input(input).expect("the ports are the graph's");
        self.changed = self.changed.min(port.rate);
        self.values.insert(id, stored(tensor.clone(), port.dtype));
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut uses = self.graph.use_counts();
        // The highest rate among the operations that read each value.
        let mut readers: Vec<Option<Rate>> = vec![None; self.rates.len()];
        for (id, node) in self.graph.values() {
            node.inputs().for_each(|v| readers[v.index()] = readers[v.index()].max(Some(self.rates[id.index()])));
        }
        for (id, node) in self.graph.values() {
            let NodeKind::Op(op, inputs) = &node.kind else { continue };
            // An unchanged value is still there, or nothing that runs will read it.
            if self.rates[id.index()] >= self.changed {
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
            }
            if self.keep_all {
                continue;
            }
            for input in inputs.iter().flatten() {
                uses[input.index()] -= 1;
                let computed = self.graph.node(*input).op().is_some();
                if uses[input.index()] == 0 && computed && !self.outlives(*input, &readers) {
                    self.values.remove(input);
                }
            }
        }
        self.changed = Rate::Step;
        for carry in self.graph.carries() {
            let from = self.graph.find_output(&carry.output).expect("Graph::carry checked both names");
            let to = self.graph.find_input(&carry.input).expect("Graph::carry checked both names");
            let value = self.values[&from].clone();
            self.values.insert(to, value);
        }
        Ok(())
    }

    fn read(&mut self, output: &str) -> Result<HostTensor> {
        check_output(&self.outputs, output)?;
        let id = self.graph.find_output(output).expect("the ports are the graph's");
        self.values.get(&id).cloned().ok_or_else(|| Error::Shape(format!("output {output} was read before a run")))
    }
}
