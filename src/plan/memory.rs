//! The second half of planning: which buffer each tensor lives in, and which list each launch belongs to.
//!
//! Values that are never alive together share a slot; parameters, inputs and what one list computes for a later one
//! have buffers of their own. Slots are whole buffers rather than ranges of one arena: a kernel may then declare its
//! inputs read-only (the same buffer cannot be bound read-only and writable at once), and no buffer outgrows a device's
//! limit. The largest values choose their slots first, and each takes the one whose other values end or begin nearest
//! to it in time: Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", section 4.3.

use std::cmp::Reverse;

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
    let lists = Rate::ALL.map(|rate| drafts.launches.iter().filter(|draft| draft.rate == rate).collect::<Vec<_>>());
    memory.place_computed(drafts, &lists.concat());
    let [once, condition, step] = lists.map(|list| memory.list(&list));
    let Memory { buffers, places, lasting, .. } = memory;
    let kept = drafts.shown.iter().map(|shown| places[*shown].filter(|_| lasting[*shown])).collect();
    Placed { buffers, kept, once, condition, step }
}

struct Memory {
    buffers: Vec<Buffer>,
    /// The buffer of each tensor, once it has one.
    places: Vec<Option<BufferIndex>>,
    /// Whether a tensor keeps its buffer for ever.
    lasting: Vec<bool>,
    absent: Option<BufferIndex>,
}

/// From the launch that writes a tensor first to the one that uses it last.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    last: usize,
}

impl Span {
    /// Launches that lie between the two spans; `None` if they overlap.
    fn gap(self, other: Span) -> Option<usize> {
        self.first.checked_sub(other.last + 1).or_else(|| other.first.checked_sub(self.last + 1))
    }
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

        let mut memory = Self { buffers: Vec::new(), places: vec![None; count], lasting, absent: None };
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

    /// Gives what the launches compute, listed in the order in which they run, its buffers.
    fn place_computed(&mut self, drafts: &Drafts, launches: &[&Draft]) {
        let mut spans: Vec<Option<Span>> = vec![None; drafts.bytes.len()];
        for (i, draft) in launches.iter().enumerate() {
            for tensor in draft.bindings.iter().filter_map(|(tensor, ..)| *tensor) {
                let first = spans[tensor].map_or(i, |span| span.first);
                spans[tensor] = Some(Span { first, last: i });
            }
        }
        let mut sharing = Vec::new();
        for (tensor, span) in spans.into_iter().enumerate() {
            let Some(span) = span.filter(|_| self.places[tensor].is_none()) else { continue };
            if self.lasting[tensor] {
                let role = match drafts.rates[tensor] {
                    Rate::Once => BufferRole::Prepared,
                    Rate::Condition => BufferRole::Condition,
                    Rate::Step => BufferRole::Slot,
                };
                self.places[tensor] = Some(self.add(drafts.bytes[tensor], role, drafts.textures[tensor]));
            } else {
                sharing.push((tensor, span));
            }
        }
        sharing.sort_by_key(|(tensor, span)| (Reverse(drafts.bytes[*tensor]), span.first));
        let mut slots: Vec<(BufferIndex, Vec<Span>)> = Vec::new();
        for (tensor, span) in sharing {
            let texture = drafts.textures[tensor];
            let nearest = |spans: &[Span]| spans.iter().map(|other| span.gap(*other)).min().flatten();
            let alike = slots.iter_mut().filter(|slot| self.buffers[slot.0].texture == texture);
            let free = alike.filter_map(|slot| Some((nearest(&slot.1)?, slot)));
            let slot = match free.min_by_key(|(gap, _)| *gap) {
                Some((_, slot)) => slot,
                None => {
                    slots.push((self.add(drafts.bytes[tensor], BufferRole::Slot, texture), Vec::new()));
                    slots.last_mut().expect("just pushed")
                }
            };
            slot.1.push(span);
            self.places[tensor] = Some(slot.0);
        }
    }

    /// Launches with their buffers.
    fn list(&mut self, drafts: &[&Draft]) -> Vec<Launch> {
        let mut launches = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let mut bindings = Vec::with_capacity(draft.bindings.len());
            for &(tensor, bytes, _) in &draft.bindings {
                let buffer = match tensor {
                    None => self.absent(),
                    Some(tensor) => self.places[tensor].expect("whatever a launch binds has been placed"),
                };
                bindings.push((buffer, bytes));
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
