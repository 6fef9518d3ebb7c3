//! Brings a program onto a device: its buffers, its parameters, and what is prepared from them. Shared by all sessions
//! that run programs; what a device does for it is a [`LoadTarget`].

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::content::ContentId;
use crate::encode::{encode, encode_weight};
use crate::error::Result;
use crate::graph::{WeightSource, content_of};
use crate::kernel::Access;
use crate::plan::{BufferIndex, BufferRole, Content, Launch, Parameter, Program, Value};
use crate::store::Store;
use crate::trace;

/// Buffers by their index in the program; `None` for those that do not exist yet, or no longer.
pub(crate) type Buffers<M> = Vec<Option<Arc<M>>>;

/// A device that a program is brought onto.
pub(crate) trait LoadTarget {
    /// What kernels bind.
    type Memory;

    /// Its parameters, for all sessions.
    fn store(&self) -> &Store<Self::Memory>;

    /// Whether parameters are shared with other sessions.
    fn shares(&self) -> bool;

    /// A new buffer of the program.
    ///
    /// # Errors
    /// [`crate::Error::Limits`] if there is no memory for it.
    fn create(&mut self, buffer: BufferIndex) -> Result<Self::Memory>;

    /// Writes a parameter into its buffer.
    ///
    /// # Errors
    /// As [`fill`]; [`crate::Error::Limits`] if memory runs out.
    fn write(&mut self, memory: &Self::Memory, parameter: &Parameter) -> Result<()>;

    /// A new buffer with a parameter in it.
    ///
    /// # Errors
    /// As [`LoadTarget::create`] and [`LoadTarget::write`].
    fn upload(&mut self, parameter: &Parameter) -> Result<Self::Memory> {
        let memory = self.create(parameter.buffer)?;
        self.write(&memory, parameter)?;
        Ok(memory)
    }

    /// Runs launches of the list `once`.
    ///
    /// # Errors
    /// [`crate::Error::Limits`] if memory runs out.
    fn run(&mut self, launches: &[Launch], buffers: &Buffers<Self::Memory>) -> Result<()>;

    /// Waits until everything has run, so that the memory of what was dropped is free.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if the device was lost.
    fn wait(&mut self) -> Result<()>;

    /// All is there: what is still on its way goes now.
    ///
    /// # Errors
    /// As [`LoadTarget::create`].
    fn finish(&mut self) -> Result<()>;
}

/// Encodes a parameter as its buffer holds it.
///
/// # Errors
/// As the source of the weights.
pub(crate) fn fill(parameter: &Parameter, value: &Value, weights: &dyn WeightSource, out: &mut [u8]) -> Result<()> {
    let _span = trace::span_of("upload", || format!("{} {}", value.name, value.label()));
    match &parameter.content {
        Content::Weight(spec) => encode_weight(spec, weights, value.dtype, out),
        Content::Table(table) => {
            let bytes = encode(table, value.dtype);
            out[..bytes.len()].copy_from_slice(&bytes);
            Ok(())
        }
    }
}

/// A program on its way to a device.
pub(crate) struct Loader<'a, T: LoadTarget> {
    target: T,
    program: &'a Program,
    weights: &'a dyn WeightSource,
    buffers: Buffers<T::Memory>,
    /// What the buffers of parameters, and of what is prepared from them, hold.
    ids: Vec<Option<ContentId>>,
    /// The parameter that goes to each buffer.
    parameters: HashMap<BufferIndex, &'a Parameter>,
    /// The list `once`: each piece of a launch that was split for its length belongs to its group.
    groups: Vec<Range<usize>>,
}

impl<'a, T: LoadTarget> Loader<'a, T> {
    pub fn new(target: T, program: &'a Program, weights: &'a dyn WeightSource) -> Self {
        let mut groups: Vec<Range<usize>> = Vec::new();
        for (i, launch) in program.once.iter().enumerate() {
            match groups.last_mut() {
                Some(group) if same_launch(&program.once[group.start], launch) => group.end = i + 1,
                _ => groups.push(i..i + 1),
            }
        }
        Self {
            target,
            program,
            weights,
            buffers: vec![None; program.buffers.len()],
            ids: vec![None; program.buffers.len()],
            parameters: program.parameters.iter().map(|p| (p.buffer, p)).collect(),
            groups,
        }
    }

    /// Brings everything to its place. Parameters that no session uses are evicted if the store and this session would
    /// take more than `limit` bytes.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a parameter is missing; [`crate::Error::Limits`] if memory runs out.
    pub fn load(mut self, limit: Option<u64>) -> Result<Buffers<T::Memory>> {
        if self.target.shares() {
            self.identify()?;
            self.find_in_store();
            if let Some(limit) = limit {
                self.target.store().make_room(self.missing_bytes(), limit);
                self.target.wait()?;
            }
        }
        self.create_own()?;
        let span = trace::span("upload parameters");
        for parameter in &self.program.parameters {
            if !self.target.shares() || self.role(parameter.buffer) == BufferRole::Parameter {
                self.load_parameter(parameter.buffer)?;
            }
        }
        drop(span);
        self.prepare()?;
        self.target.finish()?;
        Ok(self.buffers)
    }

    fn role(&self, buffer: BufferIndex) -> BufferRole {
        self.program.buffers[buffer].role
    }

    /// Names the contents of parameters and of what is prepared from them.
    fn identify(&mut self) -> Result<()> {
        for parameter in &self.program.parameters {
            let value = &self.program.values[parameter.value];
            self.ids[parameter.buffer] = Some(self.id(parameter, value)?);
        }
        for group in &self.groups {
            let launches = &self.program.once[group.clone()];
            let mut parts: Vec<&[u8]> = vec![self.program.kernels[launches[0].kernel].hash.bytes()];
            let workgroups: Vec<_> = launches.iter().map(|launch| format!("{:?}", launch.workgroups)).collect();
            for (launch, workgroups) in launches.iter().zip(&workgroups) {
                parts.extend([launch.params.as_slice(), workgroups.as_bytes()]);
            }
            let (read, written) = self.bindings(&launches[0]);
            let inputs: Vec<ContentId> = read.iter().filter_map(|buffer| self.ids[*buffer]).collect();
            parts.extend(inputs.iter().map(ContentId::bytes));
            let id = ContentId::of(&parts);
            for (position, buffer) in written.into_iter().enumerate() {
                // A buffer of its own may be written piece by piece; what a slot held before does not matter.
                let before = self.ids[buffer].filter(|_| self.role(buffer) == BufferRole::Prepared);
                let before = before.map_or(Vec::new(), |id| id.bytes().to_vec());
                self.ids[buffer] = Some(ContentId::of(&[id.bytes(), &[position as u8], &before]));
            }
        }
        Ok(())
    }

    /// What tells a parameter's buffer apart from others: contents, layout and element type.
    fn id(&self, parameter: &Parameter, value: &Value) -> Result<ContentId> {
        let content = match &parameter.content {
            Content::Weight(spec) => spec.content(self.weights)?,
            Content::Table(table) => content_of(table),
        };
        Ok(ContentId::of(&[content.bytes(), value.dtype.name().as_bytes()]))
    }

    /// Takes the buffers that the device already holds.
    fn find_in_store(&mut self) {
        for (index, buffer) in self.program.buffers.iter().enumerate() {
            if matches!(buffer.role, BufferRole::Parameter | BufferRole::Prepared) {
                self.buffers[index] = self.ids[index].and_then(|id| self.target.store().get(&id));
            }
        }
    }

    /// Bytes that are still to be allocated.
    fn missing_bytes(&self) -> u64 {
        let missing = self.program.buffers.iter().zip(&self.buffers).filter(|(_, there)| there.is_none());
        let (sources, others): (Vec<_>, Vec<_>) = missing.partition(|(b, _)| b.role == BufferRole::Source);
        let largest = sources.iter().map(|(b, _)| b.bytes).max().unwrap_or(0);
        others.iter().map(|(b, _)| b.bytes).sum::<u64>() + largest + self.program.params_bytes()
    }

    /// Creates the buffers that belong to this session alone.
    fn create_own(&mut self) -> Result<()> {
        for (index, buffer) in self.program.buffers.iter().enumerate() {
            let shared = matches!(buffer.role, BufferRole::Parameter | BufferRole::Source | BufferRole::Prepared);
            if !(shared && self.target.shares()) {
                self.buffers[index] = Some(Arc::new(self.target.create(index)?));
            }
        }
        Ok(())
    }

    /// Brings a parameter to its buffer, unless it is there.
    fn load_parameter(&mut self, buffer: BufferIndex) -> Result<()> {
        let parameter = self.parameters[&buffer];
        if let Some(own) = self.buffers[buffer].clone().filter(|_| !self.target.shares()) {
            return self.target.write(&own, parameter);
        }
        if self.buffers[buffer].is_none() {
            let id = self.ids[buffer].expect("`identify` names every parameter");
            let bytes = self.program.buffers[buffer].bytes;
            self.buffers[buffer] = Some(match self.target.store().get(&id) {
                Some(there) => there,
                None => {
                    let memory = self.target.upload(parameter)?;
                    self.target.store().count_upload(bytes);
                    self.target.store().insert(id, bytes, memory)
                }
            });
        }
        Ok(())
    }

    /// Runs the list `once`, except for what the store already held. Each source is uploaded when it is needed, and
    /// dropped after its last use.
    fn prepare(&mut self) -> Result<()> {
        let _span = trace::span("prepare parameters");
        let groups = self.needed_groups();
        let mut last_use: HashMap<BufferIndex, usize> = HashMap::new();
        for (i, group) in groups.iter().enumerate() {
            last_use.extend(self.sources(group).into_iter().map(|source| (source, i)));
        }
        for (i, group) in groups.iter().enumerate() {
            let sources = self.sources(group);
            for source in &sources {
                if self.target.shares() {
                    self.load_parameter(*source)?;
                }
            }
            for target in self.bindings(&self.program.once[group.start]).1 {
                if self.buffers[target].is_none() {
                    let id = self.ids[target].expect("`identify` names everything that is prepared");
                    let created = self.target.create(target)?;
                    let bytes = self.program.buffers[target].bytes;
                    self.buffers[target] = Some(self.target.store().insert(id, bytes, created));
                }
            }
            self.target.run(&self.program.once[group.clone()], &self.buffers)?;
            let over: Vec<_> = sources.into_iter().filter(|s| self.target.shares() && last_use[s] == i).collect();
            if !over.is_empty() {
                for source in over {
                    self.buffers[source] = None;
                    self.target.store().forget(&self.ids[source].expect("`identify` names every parameter"));
                }
                self.target.wait()?; // so that their memory is free before the next source comes
            }
        }
        Ok(())
    }

    /// The groups that something missing depends on, in order.
    fn needed_groups(&self) -> Vec<Range<usize>> {
        let prepared = |b: BufferIndex| self.role(b) == BufferRole::Prepared;
        let missing = |b: &BufferIndex| !self.target.shares() || self.buffers[*b].is_none();
        let mut wanted: HashSet<BufferIndex> =
            (0..self.buffers.len()).filter(|b| prepared(*b)).filter(missing).collect();
        let mut needed = Vec::new();
        for group in self.groups.iter().rev() {
            let (read, written) = self.bindings(&self.program.once[group.start]);
            if written.iter().any(|buffer| wanted.contains(buffer)) {
                wanted.extend(
                    read.into_iter().filter(|b| self.role(*b) == BufferRole::Slot || prepared(*b) && missing(b)),
                );
                needed.push(group.clone());
            }
        }
        needed.reverse();
        needed
    }

    /// The sources that a group reads.
    fn sources(&self, group: &Range<usize>) -> Vec<BufferIndex> {
        let (read, _) = self.bindings(&self.program.once[group.start]);
        read.into_iter().filter(|buffer| self.role(*buffer) == BufferRole::Source).collect()
    }

    /// The buffers that a launch reads, and those that it writes.
    fn bindings(&self, launch: &Launch) -> (Vec<BufferIndex>, Vec<BufferIndex>) {
        let storage = self.program.kernels[launch.kernel].reflection.bindings.iter();
        let storage = storage.filter(|binding| binding.access != Access::Uniform);
        let (read, written): (Vec<_>, Vec<_>) =
            storage.zip(&launch.bindings).partition(|(binding, _)| binding.access == Access::Read);
        let buffers = |list: Vec<(_, &(BufferIndex, u64))>| list.into_iter().map(|(_, (buffer, _))| *buffer).collect();
        (buffers(read), buffers(written))
    }
}

/// Whether two launches are pieces of one.
fn same_launch(a: &Launch, b: &Launch) -> bool {
    a.value == b.value && a.kernel == b.kernel && a.bindings == b.bindings
}
