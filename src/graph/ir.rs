//! Values, nodes and the graph that holds them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::Op;
use crate::tensor::{DType, HostTensor};

/// Names a value: the single output of one node. Only valid for the graph that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Position of the node in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Shape and element type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorDesc {
    /// Dimensions, outermost first; activations are `[N, H, W, C]` or `[N, T, C]`.
    pub shape: Vec<usize>,
    /// How elements are stored on the device.
    pub dtype: DType,
}

impl TensorDesc {
    /// A description of an f32 tensor.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::F32 }
    }

    /// A description of a u32 tensor.
    pub fn u32(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::U32 }
    }

    /// The same element type with another shape.
    pub fn with_shape(&self, shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: self.dtype }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size of the last dimension: the channels of an activation.
    pub fn channels(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Bytes on the device. Every buffer is a whole number of 4-element vectors, so that kernels may always read and
    /// write those.
    pub fn bytes(&self) -> u64 {
        (self.elements().next_multiple_of(4) * self.dtype.size()) as u64
    }

    /// `f32 [2, 3, 4]`, as used in dumps and messages.
    pub fn label(&self) -> String {
        format!("{} {:?}", self.dtype.name(), self.shape)
    }
}

/// One tensor of a checkpoint: where it comes from, its name and the shape it must have there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct WeightPart {
    /// Whose tensor it is, for models that are put together of several checkpoints (an adapter beside a U-Net); none:
    /// the model's own. [`super::WeightSources`] finds them.
    pub source: Option<String>,
    /// Key in the checkpoint, e.g. `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// Shape in the checkpoint (PyTorch's layout).
    pub shape: Vec<usize>,
}

/// How a checkpoint tensor is laid out for the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum WeightLayout {
    /// Elements in checkpoint order (possibly with another shape).
    AsIs,
    /// Convolution weights `[C_out, C_in, KH, KW]` → `[C_out, KH, KW, C_in]`, so that the products of one output run
    /// along contiguous memory.
    Ohwi,
}

/// A parameter: one checkpoint tensor, or several concatenated along their first dimension (fused Q, K, V projections).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct WeightSpec {
    /// Checkpoint tensors, concatenated along dimension 0 after `layout` is applied to each.
    pub parts: Vec<WeightPart>,
    /// Layout change applied to each part.
    pub layout: WeightLayout,
}

/// How often a value changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rate {
    /// Never: it depends on parameters alone.
    Once,
    /// With the condition of a run: the prompt, the class, the picture to edit.
    Condition,
    /// With every run of the graph, such as every step of a denoise loop.
    #[default]
    Step,
}

impl Rate {
    /// From the rarest change to the most frequent.
    pub const ALL: [Rate; 3] = [Self::Once, Self::Condition, Self::Step];

    /// `once`, `condition` or `step`
    pub fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Condition => "condition",
            Self::Step => "step",
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// Written by the caller: before every run, or when the condition changes.
    Input(Rate),
    /// A parameter from the checkpoint.
    Weight(WeightSpec),
    /// A table computed on the host when the graph was built.
    Constant(Arc<HostTensor>),
    /// The result of an operation on other values; `None` is an absent optional input.
    Op(Op, Vec<Option<ValueId>>),
}

/// One node and the description of its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its path in the model, e.g. `down_blocks.0.resnets.0.conv1`, or the name of an input.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// What it produces.
    pub desc: TensorDesc,
}

impl Node {
    /// The values this node reads.
    pub fn inputs(&self) -> impl Iterator<Item = ValueId> + '_ {
        match &self.kind {
            NodeKind::Op(_, inputs) => inputs.as_slice(),
            _ => &[],
        }
        .iter()
        .flatten()
        .copied()
    }

    /// The operation, if the node is the result of one.
    pub fn op(&self) -> Option<&Op> {
        match &self.kind {
            NodeKind::Op(op, _) => Some(op),
            _ => None,
        }
    }
}

/// Elements of the largest tensor that a graph may hold. Far beyond any device's memory, so that the plan's own refusal
/// comes first for every real model; but no product of sizes overflows below it. (A browser's memory has 32-bit
/// addresses.)
const MAX_ELEMENTS: usize = if usize::BITS > 32 { 1 << (usize::BITS - 24) } else { 1 << (usize::BITS - 4) };

/// After each run, `output` is copied on the device into `input`: how a denoise loop keeps its state there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carry {
    /// Name of an output.
    pub output: String,
    /// Name of the input that receives it; same shape and element type.
    pub input: String,
}

/// A computation in single-assignment form: every node comes after the nodes it reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    outputs: Vec<(String, ValueId)>,
    carries: Vec<Carry>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// All nodes, in an order in which they can run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that produces `value`.
    pub fn node(&self, value: ValueId) -> &Node {
        &self.nodes[value.index()]
    }

    /// Every value with its node.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, node)| (ValueId(i as u32), node))
    }

    /// Shape and element type of `value`.
    pub fn desc(&self, value: ValueId) -> &TensorDesc {
        &self.node(value).desc
    }

    /// Shape of `value`.
    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.desc(value).shape
    }

    /// Named results.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// State kept on the device between runs.
    pub fn carries(&self) -> &[Carry] {
        &self.carries
    }

    /// The input called `name`.
    pub fn find_input(&self, name: &str) -> Option<ValueId> {
        self.values().find(|(_, n)| matches!(n.kind, NodeKind::Input(_)) && n.name == name).map(|(id, _)| id)
    }

    /// The output called `name`.
    pub fn find_output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|(n, _)| n == name).map(|(_, id)| *id)
    }

    fn insert(&mut self, name: impl Into<String>, kind: NodeKind, desc: TensorDesc) -> ValueId {
        self.nodes.push(Node { name: name.into(), kind, desc });
        ValueId((self.nodes.len() - 1) as u32)
    }

    /// A value that the caller writes before each run.
    pub fn input(&mut self, name: impl Into<String>, desc: TensorDesc) -> ValueId {
        self.insert(name, NodeKind::Input(Rate::Step), desc)
    }

    /// A value that the caller writes when what is asked for changes, such as the encoded prompt. What depends on such
    /// values and on parameters alone is computed once for all steps of a run.
    pub fn condition(&mut self, name: impl Into<String>, desc: TensorDesc) -> ValueId {
        self.insert(name, NodeKind::Input(Rate::Condition), desc)
    }

    /// A parameter; `shape` is the checkpoint's, `dtype` how it is stored on the device.
    pub fn weight(&mut self, name: impl Into<String>, shape: &[usize], layout: WeightLayout, dtype: DType) -> ValueId {
        self.weight_of(None, name, shape, layout, dtype)
    }

    /// As [`Graph::weight`], of the checkpoint called `source` if there is one; its node is then called SOURCE:NAME.
    pub fn weight_of(
        &mut self,
        source: Option<&str>,
        name: impl Into<String>,
        shape: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> ValueId {
        let name = name.into();
        let device_shape = match layout {
            WeightLayout::AsIs => shape.to_vec(),
            WeightLayout::Ohwi => vec![shape[0], shape[2], shape[3], shape[1]],
        };
        let node = source.map_or(name.clone(), |source| format!("{source}:{name}"));
        let parts = vec![WeightPart { source: source.map(str::to_owned), name, shape: shape.to_vec() }];
        self.insert(node, NodeKind::Weight(WeightSpec { parts, layout }), TensorDesc { shape: device_shape, dtype })
    }

    /// A parameter given by a full specification (used by passes that merge parameters).
    pub fn weight_spec(&mut self, name: impl Into<String>, spec: WeightSpec, desc: TensorDesc) -> ValueId {
        self.insert(name, NodeKind::Weight(spec), desc)
    }

    /// A table computed on the host, stored as f32.
    pub fn constant(&mut self, name: impl Into<String>, tensor: HostTensor) -> ValueId {
        let desc = TensorDesc::f32(tensor.shape.clone());
        self.insert(name, NodeKind::Constant(Arc::new(tensor)), desc)
    }

    /// A table of whole numbers below 2²⁴ (indices), stored as u32.
    pub fn constant_u32(&mut self, name: impl Into<String>, tensor: HostTensor) -> ValueId {
        let desc = TensorDesc::u32(tensor.shape.clone());
        self.insert(name, NodeKind::Constant(Arc::new(tensor)), desc)
    }

    /// Adds an operation; infers and checks its shape.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Unsupported`] naming the node, if the inputs do not fit the operation;
    /// [`Error::Limits`] if a tensor has more than 2⁴⁰ elements (2²⁸ where addresses have 32 bits).
    pub fn push(&mut self, name: impl Into<String>, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> Result<ValueId> {
        let (name, op) = (name.into(), op.into());
        let descs: Vec<Option<&TensorDesc>> = inputs.iter().map(|v| v.map(|v| self.desc(v))).collect();
        let check_size = |desc: &TensorDesc| {
            let elements = desc.shape.iter().try_fold(1usize, |product, d| product.checked_mul(*d));
            let too_large = || {
                Error::Limits(format!("{name}: a tensor of shape {:?} is larger than any memory", desc.shape).into())
            };
            elements.filter(|e| *e <= MAX_ELEMENTS).map(drop).ok_or_else(too_large)
        };
        descs.iter().flatten().try_for_each(|desc| check_size(desc))?;
        let at_node = |e: Error| match e {
            Error::Shape(m) => Error::Shape(format!("{name} ({}): {m}", op.name())),
            Error::Unsupported(m) => Error::Unsupported(format!("{name} ({}): {m}", op.name())),
            other => other,
        };
        let desc = op.infer(&descs).map_err(at_node)?;
        check_size(&desc)?;
        Ok(self.insert(name, NodeKind::Op(op, inputs.to_vec()), desc))
    }

    /// Copies `node` into this graph with its inputs replaced, keeping its name and inferring its output anew. Used by
    /// passes.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn push_node(&mut self, node: &Node, rename: impl Fn(ValueId) -> ValueId) -> Result<ValueId> {
        match &node.kind {
            NodeKind::Op(op, inputs) => {
                let inputs: Vec<_> = inputs.iter().map(|v| v.map(&rename)).collect();
                self.push(node.name.clone(), op.clone(), &inputs)
            }
            kind => Ok(self.insert(node.name.clone(), kind.clone(), node.desc.clone())),
        }
    }

    /// Stores `value` as `dtype`, whatever was chosen for it; kernels compute in f32 in any case.
    pub(crate) fn store_as(&mut self, value: ValueId, dtype: DType) {
        self.nodes[value.index()].desc.dtype = dtype;
    }

    /// Puts `prefix` before the names of all operations from the node at `first` on: of a model that has the names of
    /// another one in the same graph.
    pub(crate) fn prefix_operations(&mut self, first: usize, prefix: &str) {
        let nodes = self.nodes[first..].iter_mut().filter(|node| node.op().is_some());
        nodes.for_each(|node| node.name.insert_str(0, prefix));
    }

    /// Names `value` as a result.
    pub fn output(&mut self, name: impl Into<String>, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// Copies output `output` into input `input` after each run.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no such output or input, or if they differ in shape or element type.
    pub fn carry(&mut self, output: &str, input: &str) -> Result<()> {
        let from = self.find_output(output).ok_or_else(|| Error::Shape(format!("no output named {output}")))?;
        let to = self.find_input(input).ok_or_else(|| Error::Shape(format!("no input named {input}")))?;
        if self.desc(from) != self.desc(to) {
            let (from, to) = (self.desc(from).label(), self.desc(to).label());
            return Err(Error::Shape(format!(
                "output {output} is {from}, input {input} is {to}: they must be equal to carry one to the other"
            )));
        }
        self.carries.push(Carry { output: output.into(), input: input.into() });
        Ok(())
    }

    /// Every checkpoint tensor the graph reads, with the shape it must have, in order of first use.
    pub fn weight_parts(&self) -> Vec<&WeightPart> {
        let mut seen = std::collections::HashSet::new();
        let specs = self.nodes.iter().filter_map(|n| match &n.kind {
            NodeKind::Weight(spec) => Some(spec),
            _ => None,
        });
        specs.flat_map(|s| &s.parts).filter(|p| seen.insert((&p.source, &p.name))).collect()
    }

    /// Bytes that the CPU reference holds at its peak: all parameters, and the values alive between definition and last
    /// use, all as f32.
    pub fn reference_bytes(&self) -> u64 {
        let bytes = |node: &Node| 4 * node.desc.elements() as u64;
        let mut uses = self.use_counts();
        let mut alive: u64 = self.nodes.iter().filter(|n| n.op().is_none()).map(bytes).sum();
        let mut peak = alive;
        for node in self.nodes.iter().filter(|n| n.op().is_some()) {
            alive += bytes(node);
            peak = peak.max(alive);
            for input in node.inputs() {
                uses[input.index()] -= 1;
                if uses[input.index()] == 0 && self.node(input).op().is_some() {
                    alive -= bytes(self.node(input));
                }
            }
        }
        peak
    }

    /// How often each value changes: as often as what it is computed from.
    pub fn rates(&self) -> Vec<Rate> {
        let mut rates: Vec<Rate> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            rates.push(match node.kind {
                NodeKind::Input(rate) => rate,
                NodeKind::Weight(_) | NodeKind::Constant(_) => Rate::Once,
                NodeKind::Op(..) => node.inputs().map(|v| rates[v.index()]).max().unwrap_or(Rate::Once),
            });
        }
        rates
    }

    /// How often each value is read, outputs included.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.nodes.len()];
        for value in self.nodes.iter().flat_map(Node::inputs).chain(self.outputs.iter().map(|(_, v)| *v)) {
            counts[value.index()] += 1;
        }
        counts
    }
}
