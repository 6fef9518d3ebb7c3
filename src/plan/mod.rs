//! From a graph to a linear list of kernel launches with buffers: plain data, printed as text, complete before anything
//! runs.

mod choose;
mod forced;
mod memory;
mod rules;
mod text;
mod tuned;

pub use choose::{Candidate, Choice, Decision, choose, explain};
pub use forced::{Forced, Target};
pub use text::PlanSummary;
pub use tuned::{Tuned, TunedEntry};

use std::collections::HashMap;

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeKind, TensorDesc, ValueId};
use crate::kernel::{Access, Kernel, KernelKey, ParamType, Reflection};
use crate::ops::{Cost, Launch, LowerContext, Operand, Param};
use crate::tensor::DType;

/// Index into [`Plan::buffers`].
pub type BufferIndex = usize;

/// What a buffer is for.
#[derive(Clone, Debug, PartialEq)]
pub enum BufferRole {
    /// Written by the caller.
    Input,
    /// Filled once from the checkpoint or a host table.
    Parameter,
    /// Shared by values that are never alive together.
    Slot,
    /// Bound where an optional input is absent; never read.
    Absent,
}

/// One device buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferPlan {
    /// Size in bytes.
    pub bytes: u64,
    /// What it is for.
    pub role: BufferRole,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanStep {
    /// The node it belongs to.
    pub value: ValueId,
    /// Name of the node.
    pub name: String,
    /// Name of the chosen variant.
    pub variant: &'static str,
    /// Index into [`Plan::kernels`].
    pub kernel: usize,
    /// Buffer and bytes for each storage binding of the kernel, in the order of its reflection (without the uniform).
    pub bindings: Vec<(BufferIndex, u64)>,
    /// Contents of the kernel's `Params`.
    pub params: Vec<u8>,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
    /// Work of this launch.
    pub cost: Cost,
}

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
    /// Device memory that a plan may take, bytes; none: what the device has, where that is known.
    pub max_memory_bytes: Option<u64>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        // Half a second on a GPU that sustains 100 GFLOP/s, the slowest we expect; watchdogs wait two seconds.
        Self { choice: Choice::default(), reuse_memory: true, max_launch_flops: 50_000_000_000, max_memory_bytes: None }
    }
}

/// A graph made executable.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The graph it runs.
    pub graph: Graph,
    /// Distinct kernels.
    pub kernels: Vec<Kernel>,
    /// Launches, in order.
    pub steps: Vec<PlanStep>,
    /// Buffers.
    pub buffers: Vec<BufferPlan>,
    /// The buffer of each value (by [`ValueId::index`]); values that are only alive between steps share slots.
    pub value_buffers: Vec<Option<BufferIndex>>,
}

impl Plan {
    /// Chooses kernels and buffers for every node of `graph`.
    ///
    /// # Errors
    /// [`Error::Limits`] if a tensor or the whole does not fit the device; [`Error::Kernel`] if a kernel is broken;
    /// [`Error::Usage`] if a forced variant does not exist or cannot run.
    pub fn new(graph: &Graph, caps: &Caps, options: &PlanOptions) -> Result<Self> {
        let mut planner = Planner {
            graph,
            caps,
            options,
            kernels: Vec::new(),
            kernel_index: HashMap::new(),
            steps: Vec::new(),
            memory: memory::Memory::new(graph, options.reuse_memory),
        };
        for (value, node) in graph.values() {
            planner.check_fits(&node.name, &node.desc, "--precision f16")?;
            if node.op().is_some() && !planner.memory.is_view(value) {
                planner.lower(value, node)?;
            }
        }
        let Planner { kernels, steps, memory, .. } = planner;
        let (buffers, value_buffers) = memory.finish();
        let plan = Plan { graph: graph.clone(), kernels, steps, buffers, value_buffers };
        plan.check_memory(caps, options)?;
        Ok(plan)
    }

    /// Bytes of device memory the plan needs in all: parameters, inputs, slots and uniforms.
    pub fn memory_bytes(&self) -> u64 {
        self.buffers.iter().map(|b| b.bytes).sum::<u64>() + self.params_bytes()
    }

    /// Bytes of the buffers of one role.
    pub fn role_bytes(&self, role: &BufferRole) -> u64 {
        self.buffers.iter().filter(|b| b.role == *role).map(|b| b.bytes).sum()
    }

    /// Bytes of the uniform buffer: each step's parameters at a multiple of 256, the strictest alignment of any
    /// backend.
    pub fn params_bytes(&self) -> u64 {
        256 * self.steps.len() as u64
    }

    /// Work of the whole plan.
    pub fn cost(&self) -> Cost {
        self.steps.iter().fold(Cost::default(), |sum, step| sum + step.cost)
    }

    /// The buffer that holds `value` when a run has ended; `None` for values that shared theirs.
    pub fn buffer_of(&self, value: ValueId) -> Option<BufferIndex> {
        self.value_buffers[value.index()]
    }

    fn check_memory(&self, caps: &Caps, options: &PlanOptions) -> Result<()> {
        let needed = self.memory_bytes();
        match options.max_memory_bytes.or(caps.memory_bytes) {
            Some(available) if needed > available => Err(Error::Limits(format!(
                "this run needs {} of device memory ({} of it parameters), there are {}; use --precision f16, a smaller --batch-size or picture, or another --device",
                mib(needed),
                mib(self.role_bytes(&BufferRole::Parameter)),
                mib(available)
            ))),
            _ => Ok(()),
        }
    }
}

/// `12.3 MiB`
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

struct Planner<'a> {
    graph: &'a Graph,
    caps: &'a Caps,
    options: &'a PlanOptions,
    kernels: Vec<Kernel>,
    kernel_index: HashMap<String, usize>,
    steps: Vec<PlanStep>,
    memory: memory::Memory,
}

/// Parameters, workgroups and work of one piece of a launch.
type Piece = (Vec<u8>, [u32; 3], Cost);

impl Planner<'_> {
    /// Refuses a tensor that one binding cannot hold, or whose elements a u32 cannot count. `hint` is what helps
    /// besides making the work smaller.
    fn check_fits(&self, name: &str, desc: &TensorDesc, hint: &str) -> Result<()> {
        let bytes = desc.bytes();
        let limit = self.caps.max_binding_bytes.min(self.caps.max_buffer_bytes);
        if bytes > limit || u32::try_from(desc.elements()).is_err() {
            return Err(Error::Limits(format!(
                "{name} {} takes {}, this device binds at most {} at once; use {hint}, a smaller --batch-size or picture, or another --device",
                desc.label(),
                mib(bytes),
                mib(limit)
            )));
        }
        Ok(())
    }

    fn lower(&mut self, value: ValueId, node: &Node) -> Result<()> {
        let NodeKind::Op(op, inputs) = &node.kind else { unreachable!("called for operations only") };
        let descs: Vec<Option<&TensorDesc>> = inputs.iter().map(|v| v.map(|v| self.graph.desc(v))).collect();
        let context = LowerContext { inputs: &descs, output: &node.desc, caps: self.caps };
        let decision = choose(op, &node.name, &context, &self.options.choice).map_err(|e| match e {
            Error::Usage(m) => Error::Usage(format!("{}: {m}", node.name)),
            other => other,
        })?;
        let lowered = op.lower(decision.index, &context, &decision.knobs);
        let cost = op.cost(&descs, &node.desc);

        let output = self.memory.define(value);
        for desc in &lowered.scratch {
            let (what, hint) =
                (format!("{}: scratch", node.name), format!("--force {}=naive, which needs none", op.name()));
            self.check_fits(&what, desc, &hint)?;
        }
        let scratch: Vec<_> = lowered.scratch.iter().map(|desc| self.memory.allocate(desc.bytes())).collect();
        let resolve = |operand: Operand, memory: &memory::Memory| -> Option<(BufferIndex, TensorDesc)> {
            match operand {
                Operand::Input(i) => inputs[i].map(|v| (memory.buffer(v), self.graph.desc(v).clone())),
                Operand::Output => Some((output, node.desc.clone())),
                Operand::Scratch(i) => Some((scratch[i], lowered.scratch[i].clone())),
            }
        };
        let launches = lowered.launches.len() as u64;
        for launch in &lowered.launches {
            // Every name the kernel may bind, with what it stands for.
            let named = |name: &str| -> Option<Operand> {
                let explicit = launch.bindings.iter().find(|(n, _)| *n == name).map(|(_, operand)| *operand);
                explicit
                    .or_else(|| op.input_names().iter().position(|n| *n == name).map(Operand::Input))
                    .or_else(|| (name == "y").then_some(Operand::Output))
            };
            let storage_names =
                launch.bindings.iter().map(|(n, _)| *n).chain(op.input_names().iter().copied()).chain(["y"]);
            let storage = storage_names
                .filter_map(|name| Some((name, resolve(named(name)?, &self.memory)?.1.dtype)))
                .filter(|(_, dtype)| *dtype != DType::U32)
                .collect();
            let kernel =
                self.kernel(KernelKey { name: launch.kernel, constants: launch.constants.clone(), storage })?;
            let reflection = &self.kernels[kernel].reflection;
            let mut bindings = Vec::new();
            for binding in reflection.bindings.iter().filter(|b| b.access != Access::Uniform) {
                let operand = named(&binding.name).ok_or_else(|| {
                    Error::Kernel(format!(
                        "wgsl/{}.wgsl binds {}, which is neither an input of {}, nor y, nor scratch",
                        launch.kernel,
                        binding.name,
                        op.name()
                    ))
                })?;
                bindings.push(match resolve(operand, &self.memory) {
                    Some((buffer, desc)) => {
                        let scratch = matches!(operand, Operand::Scratch(_));
                        if let Some(declared) = binding.dtype.filter(|declared| !scratch && *declared != desc.dtype) {
                            return Err(Error::Kernel(format!(
                                "{}: wgsl/{}.wgsl declares {} as {}, the graph holds {} there",
                                node.name,
                                launch.kernel,
                                binding.name,
                                declared.name(),
                                desc.dtype.name()
                            )));
                        }
                        (buffer, desc.bytes().max(16))
                    }
                    None => (self.memory.absent(), 16),
                });
            }
            if bindings.len() > self.caps.max_storage_buffers as usize {
                return Err(Error::Limits(format!(
                    "wgsl/{}.wgsl binds {} storage buffers, this device allows {}",
                    launch.kernel,
                    bindings.len(),
                    self.caps.max_storage_buffers
                )));
            }
            let flops = if launch.flops > 0 { launch.flops } else { cost.flops / launches };
            let cost = Cost { flops, bytes: cost.bytes / launches };
            for (params, workgroups, cost) in self.split(launch, reflection, cost)? {
                self.steps.push(PlanStep {
                    value,
                    name: node.name.clone(),
                    variant: decision.variant,
                    kernel,
                    bindings: bindings.clone(),
                    params,
                    workgroups,
                    cost,
                });
            }
        }
        scratch.into_iter().for_each(|buffer| self.memory.release(buffer));
        self.memory.end_of(value);
        Ok(())
    }

    /// One launch, or several along y if it is too long for a watchdog or a dispatch and the kernel has the parameter
    /// `first_workgroup_y`.
    fn split(&self, launch: &Launch, reflection: &Reflection, cost: Cost) -> Result<Vec<Piece>> {
        let [x, y, z] = launch.workgroups;
        let splittable = reflection.params.iter().any(|f| f.name == "first_workgroup_y");
        let limit = self.caps.max_workgroups_per_dimension;
        let rows = if splittable {
            let by_work = cost.flops.div_ceil(self.options.max_launch_flops).max(1);
            u64::from(y).div_ceil(by_work).clamp(1, u64::from(limit)) as u32
        } else {
            y
        };
        if x > limit || rows > limit || z > limit {
            return Err(Error::Limits(format!(
                "wgsl/{}.wgsl would need {x} x {y} x {z} workgroups, this device allows {limit} in each dimension",
                launch.kernel
            )));
        }
        let mut pieces = Vec::new();
        let mut first = 0;
        while first < y {
            let count = rows.min(y - first);
            let mut fields = launch.params.clone();
            if splittable {
                fields.push(("first_workgroup_y", Param::U32(first)));
            }
            let share = |total: u64| total * u64::from(count) / u64::from(y);
            pieces.push((
                encode_params(launch.kernel, reflection, &fields)?,
                [x, count, z],
                Cost { flops: share(cost.flops), bytes: share(cost.bytes) },
            ));
            first += count;
        }
        Ok(pieces)
    }

    fn kernel(&mut self, key: KernelKey) -> Result<usize> {
        let kernel_id = format!("{key:?}");
        if let Some(&index) = self.kernel_index.get(&kernel_id) {
            return Ok(index);
        }
        let kernel = Kernel::build(key)?;
        let [x, y, z] = kernel.reflection.workgroup_size;
        let invocations = x * y * z;
        if invocations > self.caps.max_workgroup_invocations
            || kernel.reflection.workgroup_memory > self.caps.workgroup_memory_bytes
        {
            return Err(Error::Limits(format!(
                "wgsl/{}.wgsl needs {invocations} invocations and {} bytes of workgroup memory, this device allows {} and {}",
                kernel.key.name,
                kernel.reflection.workgroup_memory,
                self.caps.max_workgroup_invocations,
                self.caps.workgroup_memory_bytes
            )));
        }
        self.kernels.push(kernel);
        self.kernel_index.insert(kernel_id, self.kernels.len() - 1);
        Ok(self.kernels.len() - 1)
    }
}

/// Lays the named values out as the kernel's `Params` declares them.
fn encode_params(kernel: &str, reflection: &Reflection, fields: &[(&'static str, Param)]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; reflection.params_size as usize];
    if fields.len() != reflection.params.len() {
        let declared: Vec<_> = reflection.params.iter().map(|f| f.name.as_str()).collect();
        let given: Vec<_> = fields.iter().map(|f| f.0).collect();
        return Err(Error::Kernel(format!(
            "wgsl/{kernel}.wgsl declares the parameters {declared:?}, the launch sets {given:?}"
        )));
    }
    for (name, value) in fields {
        let field = reflection.params.iter().find(|f| f.name == *name);
        let (ty, word) = match value {
            Param::U32(v) => (ParamType::U32, v.to_le_bytes()),
            Param::I32(v) => (ParamType::I32, v.to_le_bytes()),
            Param::F32(v) => (ParamType::F32, v.to_le_bytes()),
        };
        let field = field
            .filter(|f| f.ty == ty)
            .ok_or_else(|| Error::Kernel(format!("wgsl/{kernel}.wgsl has no parameter {name} of type {ty:?}")))?;
        bytes[field.offset as usize..][..4].copy_from_slice(&word);
    }
    Ok(bytes)
}
