//! Which buffer each value lives in. Values that are never alive together share a slot; parameters and inputs have
//! buffers of their own.
//!
//! Slots are whole buffers rather than ranges of one arena: a kernel may then declare its inputs read-only (the same
//! buffer cannot be bound read-only and writable at once), and no buffer outgrows a device's limit. Slots are chosen
//! greedily: the smallest free one that is large enough, else the largest free one grown, else a new one.
//!
//! A view (`reshape`) has the buffer of the value that it shows, and keeps it alive.

use super::{BufferIndex, BufferPlan, BufferRole};
use crate::graph::{Graph, NodeKind, ValueId};
use crate::ops::Op;

pub(super) struct Memory {
    buffers: Vec<BufferPlan>,
    value_buffers: Vec<Option<BufferIndex>>,
    value_bytes: Vec<u64>,
    /// For each value, the node after which it is no longer needed; `usize::MAX` for outputs, parameters and inputs.
    last_use: Vec<usize>,
    /// Values whose last use is the node of this index.
    dying: Vec<Vec<ValueId>>,
    /// For each value the one whose buffer it has: itself, unless it is a view.
    shown: Vec<ValueId>,
    free: Vec<BufferIndex>,
    absent: Option<BufferIndex>,
    reuse: bool,
}

impl Memory {
    pub(super) fn new(graph: &Graph, reuse: bool) -> Self {
        let count = graph.nodes().len();
        let shown = shown_values(graph);
        let mut last_use: Vec<usize> = (0..count).collect();
        for (id, node) in graph.values() {
            node.inputs().for_each(|v| last_use[shown[v.index()].index()] = id.index());
        }
        for (id, node) in graph.values() {
            if node.op().is_none() {
                last_use[id.index()] = usize::MAX;
            }
        }
        graph.outputs().iter().for_each(|(_, v)| last_use[shown[v.index()].index()] = usize::MAX);
        let mut dying = vec![Vec::new(); count];
        for (id, _) in graph.values().filter(|(id, _)| shown[id.index()] == *id) {
            if last_use[id.index()] != usize::MAX {
                dying[last_use[id.index()]].push(id);
            }
        }
        let mut memory = Self {
            buffers: Vec::new(),
            value_buffers: vec![None; count],
            value_bytes: graph.nodes().iter().map(|n| n.desc.bytes()).collect(),
            last_use,
            dying,
            shown,
            free: Vec::new(),
            absent: None,
            reuse,
        };
        for (id, node) in graph.values() {
            let role = match node.kind {
                NodeKind::Input => BufferRole::Input,
                NodeKind::Weight(_) | NodeKind::Constant(_) => BufferRole::Parameter,
                NodeKind::Op(..) => continue,
            };
            memory.buffers.push(BufferPlan { bytes: node.desc.bytes().max(16), role });
            memory.value_buffers[id.index()] = Some(memory.buffers.len() - 1);
        }
        memory
    }

    /// The buffer of a value that has been defined.
    pub(super) fn buffer(&self, value: ValueId) -> BufferIndex {
        self.value_buffers[value.index()].expect("nodes come after the nodes they read")
    }

    /// Gives `value` a slot.
    pub(super) fn define(&mut self, value: ValueId) -> BufferIndex {
        let buffer = self.allocate(self.value_bytes[value.index()]);
        self.value_buffers[value.index()] = Some(buffer);
        buffer
    }

    /// Whether `value` is a view, which then has its buffer, and no launch makes it.
    pub(super) fn is_view(&mut self, value: ValueId) -> bool {
        let shown = self.shown[value.index()];
        if shown != value {
            self.value_buffers[value.index()] = Some(self.buffer(shown));
        }
        shown != value
    }

    /// A slot of at least `bytes`.
    pub(super) fn allocate(&mut self, bytes: u64) -> BufferIndex {
        let bytes = bytes.max(16);
        let fits = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, b)| self.buffers[**b].bytes >= bytes)
            .min_by_key(|(_, b)| self.buffers[**b].bytes);
        let largest = self.free.iter().enumerate().max_by_key(|(_, b)| self.buffers[**b].bytes);
        if let Some((position, _)) = fits.or(largest) {
            let buffer = self.free.swap_remove(position);
            self.buffers[buffer].bytes = self.buffers[buffer].bytes.max(bytes);
            return buffer;
        }
        self.buffers.push(BufferPlan { bytes, role: BufferRole::Slot });
        self.buffers.len() - 1
    }

    /// Makes a slot available again.
    pub(super) fn release(&mut self, buffer: BufferIndex) {
        if self.reuse {
            self.free.push(buffer);
        }
    }

    /// Frees the slots of the values last used by the node `value`.
    pub(super) fn end_of(&mut self, value: ValueId) {
        for dead in std::mem::take(&mut self.dying[value.index()]) {
            debug_assert_eq!(self.last_use[dead.index()], value.index());
            if let Some(buffer) = self.value_buffers[dead.index()] {
                self.release(buffer);
            }
        }
    }

    /// The buffer bound where an optional input is absent.
    pub(super) fn absent(&mut self) -> BufferIndex {
        *self.absent.get_or_insert_with(|| {
            self.buffers.push(BufferPlan { bytes: 16, role: BufferRole::Absent });
            self.buffers.len() - 1
        })
    }

    /// All buffers, and the buffer of each value that still holds it when a run has ended.
    pub(super) fn finish(self) -> (Vec<BufferPlan>, Vec<Option<BufferIndex>>) {
        let kept = |(i, buffer): (usize, &Option<BufferIndex>)| {
            buffer.filter(|_| !self.reuse || self.last_use[self.shown[i].index()] == usize::MAX)
        };
        let value_buffers = self.value_buffers.iter().enumerate().map(kept).collect();
        (self.buffers, value_buffers)
    }
}

/// For each value the one whose buffer it has. A view whose elements are stored otherwise is a copy; so is an output
/// that shows an input or a parameter, since an output may be copied to the very input it shows.
fn shown_values(graph: &Graph) -> Vec<ValueId> {
    let mut shown: Vec<ValueId> = Vec::with_capacity(graph.nodes().len());
    for (id, node) in graph.values() {
        let of = match &node.kind {
            NodeKind::Op(Op::Reshape(_), inputs) => inputs[0].expect("a reshape has an input"),
            _ => id,
        };
        let of = if of == id { id } else { shown[of.index()] };
        let is_output = graph.outputs().iter().any(|(_, v)| *v == id);
        let copied = graph.desc(of).dtype != node.desc.dtype || (is_output && graph.node(of).op().is_none());
        shown.push(if copied { id } else { of });
    }
    shown
}
