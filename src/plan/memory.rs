//! Which buffer each value lives in. Values that are never alive together share a slot; parameters and inputs have
//! buffers of their own.
//!
//! Slots are whole buffers rather than ranges of one arena: a kernel may then declare its inputs read-only (the same
//! buffer cannot be bound read-only and writable at once), and no buffer outgrows a device's limit. Slots are chosen
//! greedily: the smallest free one that is large enough, else the largest free one grown, else a new one.

use super::{BufferIndex, BufferPlan, BufferRole};
use crate::graph::{Graph, NodeKind, ValueId};

pub(super) struct Memory {
    buffers: Vec<BufferPlan>,
    value_buffers: Vec<Option<BufferIndex>>,
    value_bytes: Vec<u64>,
    /// For each value, the node after which it is no longer needed; `usize::MAX` for outputs, parameters and inputs.
    last_use: Vec<usize>,
    /// Values whose last use is the node of this index.
    dying: Vec<Vec<ValueId>>,
    free: Vec<BufferIndex>,
    absent: Option<BufferIndex>,
    reuse: bool,
}

impl Memory {
    pub(super) fn new(graph: &Graph, reuse: bool) -> Self {
        let count = graph.nodes().len();
        let mut last_use: Vec<usize> = (0..count).collect();
        for (id, node) in graph.values() {
            node.inputs().for_each(|v| last_use[v.index()] = id.index());
        }
        for (id, node) in graph.values() {
            if node.op().is_none() {
                last_use[id.index()] = usize::MAX;
            }
        }
        graph.outputs().iter().for_each(|(_, v)| last_use[v.index()] = usize::MAX);
        let mut dying = vec![Vec::new(); count];
        for (id, _) in graph.values() {
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
            buffer.filter(|_| !self.reuse || self.last_use[i] == usize::MAX)
        };
        let value_buffers = self.value_buffers.iter().enumerate().map(kept).collect();
        (self.buffers, value_buffers)
    }
}
