//! The result of planning: pure data that says all a session needs to know, without the graph, its operations or their
//! code. It can be written to a file and read back.

use serde::{Deserialize, Serialize};

use crate::graph::{Rate, WeightSpec};
use crate::kernel::Kernel;
use crate::ops::Cost;
use crate::tensor::{DType, HostTensor};

/// Index into [`Program::buffers`].
pub type BufferIndex = usize;

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BufferRole {
    /// Written by the caller.
    Input,
    /// A parameter as the kernels of every run read it.
    Parameter,
    /// A parameter that only the list [`Program::once`] reads; it exists only while that runs.
    Source,
    /// What the list [`Program::once`] makes of parameters.
    Prepared,
    /// What the list [`Program::condition`] computes and later runs read.
    Condition,
    /// Shared by values that are never alive together; or an output.
    Slot,
    /// Bound where an optional input is absent; never read.
    Absent,
}

impl BufferRole {
    /// The name in tables and on devices.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Parameter => "parameter",
            Self::Source => "source",
            Self::Prepared => "prepared",
            Self::Condition => "condition",
            Self::Slot => "slot",
            Self::Absent => "absent",
        }
    }
}

/// One device buffer, or a storage texture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Buffer {
    /// Size in bytes.
    pub bytes: u64,
    /// What it is for.
    pub role: BufferRole,
    /// The element type of a texture: texels of four elements, in rows of [`crate::kernel::TEXTURE_WIDTH`]. `None` for
    /// buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texture: Option<DType>,
}

/// What a value's buffer holds before anything runs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Tensors of a checkpoint.
    Weight(WeightSpec),
    /// A table that the model computed on the host.
    Table(HostTensor),
}

/// One buffer to fill before the first run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Parameter {
    /// Index into [`Program::values`].
    pub value: usize,
    /// Where it goes.
    pub buffer: BufferIndex,
    /// What it holds.
    pub content: Content,
}

/// A named value that goes in or comes out.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub dtype: DType,
    /// How often it changes.
    pub rate: Rate,
    /// Its buffer.
    pub buffer: BufferIndex,
}

/// A copy on the device at the end of each run, from the buffer of an output to that of an input.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Carry {
    /// Name of the output.
    pub output: String,
    /// Name of the input.
    pub input: String,
    /// Where it comes from.
    pub from: BufferIndex,
    /// Where it goes.
    pub to: BufferIndex,
    /// How many bytes.
    pub bytes: u64,
}

/// A value of the graph as tables, traces and comparisons show it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Value {
    /// Its path in the model.
    pub name: String,
    /// The operation that makes it, with its attributes; empty for inputs and parameters.
    pub op: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub dtype: DType,
    /// How often it changes.
    pub rate: Rate,
    /// The buffer that still holds it when a run has ended; `None` if others have shared its buffer.
    pub buffer: Option<BufferIndex>,
}

impl Value {
    /// `f32 [2, 3, 4]`
    pub fn label(&self) -> String {
        format!("{} {:?}", self.dtype.name(), self.shape)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Launch {
    /// Index into [`Program::values`]: the value it helps to make.
    pub value: usize,
    /// Name of the variant it is part of.
    pub variant: String,
    /// Index into [`Program::kernels`].
    pub kernel: usize,
    /// Buffer and bytes for each storage binding of the kernel, in the order of its reflection (without the uniform).
    pub bindings: Vec<(BufferIndex, u64)>,
    /// Contents of the kernel's `Params`.
    pub params: Vec<u8>,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
    /// Its work.
    pub cost: Cost,
}

/// Bytes from one launch's parameters to the next's in the uniform buffer: the strictest alignment of any backend.
pub const PARAMS_STRIDE: usize = 256;

/// The parameters of some launches as they lie in one uniform buffer, each at a multiple of [`PARAMS_STRIDE`].
pub fn params_of(launches: &[Launch]) -> Vec<u8> {
    let mut bytes = vec![0; PARAMS_STRIDE * launches.len()];
    for (slot, launch) in bytes.chunks_exact_mut(PARAMS_STRIDE).zip(launches) {
        slot[..launch.params.len()].copy_from_slice(&launch.params);
    }
    bytes
}

/// A graph made executable for one device.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Program {
    /// Distinct kernels.
    pub kernels: Vec<Kernel>,
    /// Buffers.
    pub buffers: Vec<Buffer>,
    /// What is filled before the first run.
    pub parameters: Vec<Parameter>,
    /// What the caller writes.
    pub inputs: Vec<Port>,
    /// What the caller reads.
    pub outputs: Vec<Port>,
    /// Copies at the end of each run.
    pub carries: Vec<Carry>,
    /// Launches that depend on parameters alone: they run when the program is loaded.
    pub once: Vec<Launch>,
    /// Launches that depend on the condition: they run when an input of that rate was written.
    pub condition: Vec<Launch>,
    /// Launches of every run.
    pub step: Vec<Launch>,
    /// The values of the graph, in its order.
    pub values: Vec<Value>,
}

impl Program {
    /// The launches of one list.
    pub fn list(&self, rate: Rate) -> &[Launch] {
        match rate {
            Rate::Once => &self.once,
            Rate::Condition => &self.condition,
            Rate::Step => &self.step,
        }
    }

    /// All launches, in the order of the lists.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        Rate::ALL.into_iter().flat_map(|rate| self.list(rate))
    }

    /// The input of this name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The output of this name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|port| port.name == name)
    }

    /// Bytes of the buffers of one role.
    pub fn role_bytes(&self, role: BufferRole) -> u64 {
        self.buffers.iter().filter(|b| b.role == role).map(|b| b.bytes).sum()
    }

    /// Bytes of the uniform buffers: the parameters of every launch that runs when the program has been loaded.
    pub fn params_bytes(&self) -> u64 {
        (self.condition.len() + self.step.len()) as u64 * PARAMS_STRIDE as u64
    }

    /// Bytes that stay allocated while a session of this program lives.
    pub fn resident_bytes(&self) -> u64 {
        let all: u64 = self.buffers.iter().map(|b| b.bytes).sum();
        all - self.role_bytes(BufferRole::Source) + self.params_bytes()
    }

    /// Device memory the program needs at its peak: what stays, and while it is loaded one source at a time.
    pub fn memory_bytes(&self) -> u64 {
        let sources = self.buffers.iter().filter(|b| b.role == BufferRole::Source);
        self.resident_bytes() + sources.map(|b| b.bytes).max().unwrap_or(0)
    }

    /// Work of one list.
    pub fn cost(&self, rate: Rate) -> Cost {
        self.list(rate).iter().fold(Cost::default(), |sum, launch| sum + launch.cost)
    }
}
