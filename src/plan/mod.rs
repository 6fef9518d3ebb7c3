//! Turns a graph into a [`Program`]: kernels and buffers for every node, chosen before anything runs.

mod batch;
mod choose;
mod forced;
mod joins;
mod lower;
mod memory;
mod program;
mod programs;
mod rules;
mod states;
mod submissions;
mod text;
mod tuned;

pub use choose::{Candidate, Choice, Decision, choose, explain};
#[cfg(feature = "cli")]
pub(crate) use forced::unknown_node;
pub use forced::{Forced, Target};
#[cfg(feature = "gpu")]
pub(crate) use lower::encode_params;
pub use program::{
    Buffer, BufferIndex, BufferRole, Carry, Content, Launch, PARAMS_STRIDE, Parameter, Port, Program, Value, params_of,
};
pub use programs::Programs;
pub use submissions::{InFlight, Pace, SUBMISSION_FLOPS, submissions};
pub use text::Summary;
pub use tuned::{Found, Table, Trial, Tuned, TunedEntry};

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind};
use crate::kernel::KernelText;
use crate::refusal::{Advised, Remedy};
use crate::tensor::DType;

/// How a plan is made.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Which variant each operation uses.
    pub choice: Choice,
    /// Whether values may share buffers; off, every value has its own (for tests and for reading every intermediate
    /// result).
    pub reuse_memory: bool,
    /// Launches of more work than this are split where the kernel allows it, so that no single one outlasts a driver's
    /// watchdog.
    pub max_launch_flops: u64,
    /// Device memory that a program may take, bytes; `None` is what the device has, where that is known.
    pub max_memory_bytes: Option<u64>,
    /// Other texts for kernels.
    pub texts: Vec<KernelText>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        // Two thirds of a second on a GPU that sustains 100 GFLOP/s, the slowest we expect; watchdogs wait two seconds.
        // Many layers of Stable Diffusion XL take 54 or 60 GFLOP: each is one launch.
        Self {
            choice: Choice::default(),
            reuse_memory: true,
            max_launch_flops: 64_000_000_000,
            max_memory_bytes: None,
            texts: Vec::new(),
        }
    }
}

impl PlanOptions {
    /// The memory that a program may take on this device, bytes, where it is known.
    fn limit(&self, caps: &Caps) -> Option<u64> {
        self.max_memory_bytes.or(caps.memory_bytes)
    }

    /// The options for a smaller program, if this one takes too much and they are not these.
    pub(crate) fn smaller(&self, program: &Program, caps: &Caps) -> Option<Self> {
        let too_large = self.limit(caps).is_some_and(|limit| program.memory_bytes() > limit);
        let compact = || Self { choice: Choice { compact: true, ..self.choice.clone() }, ..self.clone() };
        (too_large && !self.choice.compact).then(compact)
    }
}

impl Program {
    /// Chooses kernels and buffers for every node of `graph`. Where memory is short, kernels that make do with less go
    /// before faster ones.
    ///
    /// # Errors
    /// [`Error::Limits`] if a tensor or the whole does not fit the device; [`Error::Kernel`] if a kernel is broken;
    /// [`Error::Usage`] if a forced variant does not exist or cannot run.
    pub fn new(graph: &Graph, caps: &Caps, options: &PlanOptions) -> Result<Self> {
        let mut program = Self::of_any_size(graph, caps, options)?;
        if let Some(options) = options.smaller(&program, caps) {
            program = Self::of_any_size(graph, caps, &options)?;
        }
        program.check_memory(caps, options)?;
        Ok(program)
    }

    /// As [`Program::new`], however much memory it takes.
    ///
    /// # Errors
    /// As [`Program::new`], except for the memory of the whole.
    pub fn of_any_size(graph: &Graph, caps: &Caps, options: &PlanOptions) -> Result<Self> {
        let drafts = lower::lower(graph, caps, options)?;
        let placed = memory::place(graph, &drafts, options.reuse_memory);
        let values: Vec<Value> = graph
            .values()
            .zip(graph.rates())
            .map(|((id, node), rate)| Value {
                name: node.name.clone(),
                op: node.op().map(ToString::to_string).unwrap_or_default(),
                shape: node.desc.shape.clone(),
                dtype: node.desc.dtype,
                rate,
                buffer: placed.kept[id.index()],
            })
            .collect();
        let port = |name: &str, value: usize| Port {
            name: name.to_owned(),
            shape: values[value].shape.clone(),
            dtype: values[value].dtype,
            rate: values[value].rate,
            buffer: values[value].buffer.expect("inputs, parameters and outputs keep their buffers"),
        };
        let nodes = || graph.values().map(|(id, node)| (id.index(), node));
        let inputs: Vec<_> = nodes()
            .filter(|(_, node)| matches!(node.kind, NodeKind::Input(_)))
            .map(|(value, node)| port(&node.name, value))
            .collect();
        let outputs: Vec<_> = graph.outputs().iter().map(|(name, id)| port(name, id.index())).collect();
        let parameters = nodes()
            .filter_map(|(value, node)| {
                let content = match &node.kind {
                    NodeKind::Weight(spec) => Content::Weight(spec.clone()),
                    NodeKind::Constant(table) => Content::Table((**table).clone()),
                    NodeKind::Input(_) | NodeKind::Op(..) => return None,
                };
                Some(Parameter { value, buffer: placed.kept[value].expect("parameters keep their buffers"), content })
            })
            .collect();
        let find = |ports: &[Port], name: &str| {
            ports.iter().find(|p| p.name == name).expect("Graph::carry checked both names").buffer
        };
        let carries = graph
            .carries()
            .iter()
            .map(|carry| Carry {
                output: carry.output.clone(),
                input: carry.input.clone(),
                from: find(&outputs, &carry.output),
                to: find(&inputs, &carry.input),
                bytes: graph.desc(graph.find_output(&carry.output).expect("as above")).bytes(),
            })
            // A state that was changed where it lies is there already.
            .filter(|carry: &Carry| carry.from != carry.to)
            .collect();
        let memory::Placed { buffers, once, condition, step, .. } = placed;
        let kernels = drafts.kernels;
        Ok(Self { kernels, buffers, parameters, inputs, outputs, carries, once, condition, step, values })
    }

    /// Refuses a program that takes more memory than there is.
    ///
    /// # Errors
    /// [`Error::Limits`] with both figures.
    pub fn check_memory(&self, caps: &Caps, options: &PlanOptions) -> Result<()> {
        let needed = self.memory_bytes();
        match options.limit(caps) {
            Some(available) if needed > available => {
                let parameters = self.role_bytes(BufferRole::Parameter) + self.role_bytes(BufferRole::Prepared);
                let mut stored = self.parameters.iter().map(|parameter| self.values[parameter.value].dtype);
                let lack = Lack { needed, parameters, available, limited: options.max_memory_bytes.is_some() };
                Err(Error::Limits(lack.of("this run", stored.all(|dtype| dtype != DType::F16))))
            }
            _ => Ok(()),
        }
    }
}

/// More memory that is needed than there is, in bytes.
pub(crate) struct Lack {
    /// All of it.
    pub needed: u64,
    /// That of parameters.
    pub parameters: u64,
    /// What there is.
    pub available: u64,
    /// Whether that is a limit that was asked for.
    pub limited: bool,
}

impl Lack {
    /// What to say of it, and what helps enough, as far as can be told. `halves`: it would take half as much in f16.
    pub fn of(&self, what: &str, halves: bool) -> Advised {
        let (needed, parameters, available) = (mib(self.needed), mib(self.parameters), mib(self.available));
        let there_are = if self.limited { "the limit that was set is" } else { "there are" };
        let mut advised = Advised::from(format!(
            "{what} needs {needed} of device memory ({parameters} of it parameters), {there_are} {available}"
        ));
        if self.limited {
            advised = advised.instead(Remedy::Raise(&["max_memory"]));
        }
        // Not all of it halves: temporary buffers stay f32.
        if halves && self.needed / 5 * 3 <= self.available {
            advised = advised.instead(Remedy::Set("precision", "f16".into()));
        }
        if self.parameters < self.available {
            advised = advised.instead(Remedy::Lower(&["width", "height", "batch_size"]));
        }
        if !self.limited {
            advised = advised.instead(Remedy::Change("device"));
        }
        advised
    }
}

/// `12.3 MiB`
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}
