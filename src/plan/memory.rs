//! The second half of planning: which buffer each tensor lives in, and which list each launch belongs to.
//!
//! Values that are never alive together share a slot; parameters, inputs and what one list computes for a later one
//! have buffers of their own. Slots are whole buffers rather than ranges of one arena: a kernel may then declare its
//! inputs read-only (the same buffer cannot be bound read-only and writable at once), and no buffer outgrows a device's
//! limit. Slots are chosen greedily: the smallest free one that is large enough, else the largest free one, which
//! grows, else a new one. No list relies on what another has left in a slot, so all lists share them.

use super::lower::{Draft, Drafts, Tensor};
use super::{Buffer, BufferIndex, BufferRole, Launch};
use crate::graph::{Graph, NodeKind, Rate};
use crate::tensor::DType;

/// The result.
pub(super) struct Placed {
    pub buffers: Vec<Buffer>,
    /// The buffer of each value of the graph that still holds it when a run has ended.
    pub kept: Vec<Option<BufferIndex>>,
    pub once: Vec<Launch>,
    pub condition: Vec<Launch>,
    pub step: Vec<Launch>,
}

/// Gives every tensor a buffer. With `reuse` off, no two share one.
pub(super) fn place(graph: &Graph, drafts: &Drafts, reuse: bool) -> Placed {
    let mut memory = Memory::new(graph, drafts, reuse);
    let [once, condition, step] = Rate::ALL.map(|rate| memory.list(drafts, rate));
    let kept = drafts.shown.iter().map(|shown| memory.places[*shown].filter(|_| memory.lasting[*shown])).collect();
    Placed { buffers: memory.buffers, kept, once, condition, step }
}

struct Memory {
    buffers: Vec<Buffer>,
    /// The buffer of each tensor, once it has one.
    places: Vec<Option<BufferIndex>>,
    /// Whether a tensor keeps its buffer for ever.
    lasting: Vec<bool>,
    free: Vec<BufferIndex>,
    absent: Option<BufferIndex>,
}

impl Memory {
    fn new(graph: &Graph, drafts: &Drafts, reuse: bool) -> Self {
        let count = drafts.bytes.len();
        // The most frequent launch that reads each tensor.
        let mut read_by: Vec<Option<Rate>> = vec![None; count];
        for draft in &drafts.launches {
            for tensor in read(draft) {
                read_by[tensor] = read_by[tensor].max(Some(draft.rate));
            }
        }
        let mut lasting: Vec<bool> = (0..count).map(|t| !reuse || read_by[t] > Some(drafts.rates[t])).collect();
        let outputs: Vec<Tensor> = graph.outputs().iter().map(|(_, value)| drafts.shown[value.index()]).collect();
        outputs.iter().for_each(|value| lasting[*value] = true);

        let mut memory =
            Self { buffers: Vec::new(), places: vec![None; count], lasting, free: Vec::new(), absent: None };
        for (id, node) in graph.values() {
            let value = id.index();
            let role = match node.kind {
                NodeKind::Input(_) => BufferRole::Input,
                NodeKind::Weight(_) | NodeKind::Constant(_) => {
                    let source = reuse && !outputs.contains(&value) && read_by[value] == Some(Rate::Once);
                    if source { BufferRole::Source } else { BufferRole::Parameter }
                }
                NodeKind::Op(..) => continue,
            };
            memory.lasting[value] = true;
            memory.places[value] = Some(memory.add(drafts.bytes[value], role, None));
        }
        memory
    }

    /// The launches of one rate with their buffers.
    fn list(&mut self, drafts: &Drafts, rate: Rate) -> Vec<Launch> {
        let list: Vec<&Draft> = drafts.launches.iter().filter(|draft| draft.rate == rate).collect();
        let mut last_use = vec![0; drafts.bytes.len()];
        for (i, draft) in list.iter().enumerate() {
            draft.bindings.iter().filter_map(|(tensor, ..)| *tensor).for_each(|tensor| last_use[tensor] = i);
        }
        // What earlier lists have left in slots is no longer needed.
        self.free = (0..self.buffers.len()).filter(|b| self.buffers[*b].role == BufferRole::Slot).collect();
        let outputs: Vec<BufferIndex> =
            self.lasting.iter().zip(&self.places).filter_map(|(lasting, place)| place.filter(|_| *lasting)).collect();
        self.free.retain(|buffer| !outputs.contains(buffer));

        let mut launches = Vec::with_capacity(list.len());
        for (i, draft) in list.iter().enumerate() {
            let mut bindings = Vec::with_capacity(draft.bindings.len());
            for &(tensor, bytes, _) in &draft.bindings {
                let buffer = match tensor {
                    None => self.absent(),
                    Some(tensor) => self.place(tensor, drafts),
                };
                bindings.push((buffer, bytes));
            }
            for tensor in draft.bindings.iter().filter_map(|(tensor, ..)| *tensor) {
                if last_use[tensor] == i && !self.lasting[tensor] {
                    // `take`, so that a tensor that is bound twice is freed once.
                    self.free.extend(self.places[tensor].take());
                }
            }
            launches.push(Launch {
                value: draft.value,
                variant: draft.variant.to_owned(),
                kernel: draft.kernel,
                bindings,
                params: draft.params.clone(),
                workgroups: draft.workgroups,
                cost: draft.cost,
            });
        }
        launches
    }

    /// The buffer of a tensor; a new one, or a free slot, if this launch is the first to write it.
    fn place(&mut self, tensor: Tensor, drafts: &Drafts) -> BufferIndex {
        if let Some(buffer) = self.places[tensor] {
            return buffer;
        }
        let bytes = drafts.bytes[tensor];
        let buffer = if self.lasting[tensor] {
            let role = match drafts.rates[tensor] {
                Rate::Once => BufferRole::Prepared,
                Rate::Condition => BufferRole::Condition,
                Rate::Step => BufferRole::Slot,
            };
            self.add(bytes, role, drafts.textures[tensor])
        } else {
            self.slot(bytes, drafts.textures[tensor])
        };
        self.places[tensor] = Some(buffer);
        buffer
    }

    /// A slot of at least `bytes`, for a buffer or for a texture of this element type.
    fn slot(&mut self, bytes: u64, texture: Option<DType>) -> BufferIndex {
        let bytes = bytes.max(16);
        let size = |b: &BufferIndex| self.buffers[*b].bytes;
        let free = || self.free.iter().enumerate().filter(|(_, b)| self.buffers[**b].texture == texture);
        let fits = free().filter(|(_, b)| size(b) >= bytes).min_by_key(|(_, b)| size(b));
        let largest = free().max_by_key(|(_, b)| size(b));
        match fits.or(largest).map(|(position, _)| position) {
            Some(position) => {
                let buffer = self.free.swap_remove(position);
                self.buffers[buffer].bytes = self.buffers[buffer].bytes.max(bytes);
                buffer
            }
            None => self.add(bytes, BufferRole::Slot, texture),
        }
    }

    fn add(&mut self, bytes: u64, role: BufferRole, texture: Option<DType>) -> BufferIndex {
        self.buffers.push(Buffer { bytes: bytes.max(16), role, texture });
        self.buffers.len() - 1
    }

    /// The buffer bound where an optional input is absent.
    fn absent(&mut self) -> BufferIndex {
        match self.absent {
            Some(buffer) => buffer,
            None => *self.absent.insert({
                self.buffers.push(Buffer { bytes: 16, role: BufferRole::Absent, texture: None });
                self.buffers.len() - 1
            }),
        }
    }
}

/// The tensors that a launch reads. Kernels declare their outputs `read_write`, but none reads them.
fn read(draft: &Draft) -> impl Iterator<Item = Tensor> + '_ {
    draft.bindings.iter().filter(|(.., written)| !written).filter_map(|(tensor, ..)| *tensor)
}
