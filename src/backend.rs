//! What can run a graph: a GPU or the CPU reference, behind one interface.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::caps::{Caps, host_memory_bytes};
use crate::content::ContentId;
use crate::error::{Error, Result};
#[cfg(feature = "gpu")]
use crate::gpu::{Checks, GpuDevice, GpuSession, select_adapter};
use crate::graph::{Graph, Node, NodeKind, WeightSource, passes};
use crate::plan::{BufferRole, Forced, Lack, PlanOptions, Program, Target, explain};
use crate::reference::ReferenceSession;
pub use crate::session::Session;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
use crate::web::{WebDevice, WebSession};

/// A device that runs graphs. Cheap to clone.
#[derive(Clone)]
pub enum Device {
    /// The CPU reference: no kernels, plain loops.
    Reference,
    /// A graphics adapter.
    #[cfg(feature = "gpu")]
    Gpu(GpuDevice),
    /// A page's WebGPU.
    #[cfg(all(feature = "web", target_arch = "wasm32"))]
    Web(WebDevice),
}

/// How graphs are prepared for a device.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Kernel choice and memory planning.
    pub plan: PlanOptions,
    /// Graph passes that are switched off.
    pub disabled_passes: Vec<String>,
    /// Drops parameters from the device as soon as another model is loaded, instead of keeping them for the next run
    /// while there is room. For a process that makes one picture.
    pub forget_parameters: bool,
    /// Kernels for the nodes of certain graphs, by the contents of these as the passes leave them: those of another
    /// program, before what the rules would choose ([`Device::choices`]).
    pub chosen: Arc<HashMap<ContentId, Vec<Forced>>>,
}

impl LoadOptions {
    /// How to plan a graph that the passes have rewritten.
    fn plan_of(&self, graph: &Graph) -> Cow<'_, PlanOptions> {
        let chosen = if self.chosen.is_empty() { None } else { self.chosen.get(&ContentId::of_debug(graph)) };
        let Some(chosen) = chosen else { return Cow::Borrowed(&self.plan) };
        let mut plan = self.plan.clone();
        plan.choice.forced.extend_from_slice(chosen);
        Cow::Owned(plan)
    }

    /// Refuses kernels that are forced on nodes which none of `graphs` has when the passes have rewritten them.
    ///
    /// # Errors
    /// [`Error::Refused`] naming the node, and nodes of similar names.
    pub fn check_nodes(&self, graphs: &[Graph]) -> Result<()> {
        if self.plan.choice.forced.is_empty() {
            return Ok(());
        }
        let rewritten = graphs.iter().map(|graph| passes::optimize(graph, &self.disabled_passes));
        self.plan.choice.check_nodes(&rewritten.collect::<Result<Vec<_>>>()?)
    }
}

/// The memory that a graph takes on a device, bytes. All of it is taken before the first run, so that the total is the
/// peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// Weights and tables, as runs read them.
    pub parameters: u64,
    /// What is written before a run.
    pub inputs: u64,
    /// Intermediate values, outputs and scratch; values that are never alive together share their memory.
    pub values: u64,
    /// Taken only while the graph is loaded: the largest parameter from which another one is prepared.
    pub loading: u64,
    /// Everything: the peak.
    pub total: u64,
}

impl MemoryPlan {
    fn of(program: &Program) -> Self {
        let parameters = program.role_bytes(BufferRole::Parameter) + program.role_bytes(BufferRole::Prepared);
        let inputs = program.role_bytes(BufferRole::Input);
        let values = program.role_bytes(BufferRole::Slot) + program.role_bytes(BufferRole::Condition);
        let total = program.memory_bytes();
        Self { parameters, inputs, values, loading: total - program.resident_bytes(), total }
    }
}

impl Device {
    /// Opens the device that `selector` names: `reference`, `auto` (the best adapter, or the reference if there is
    /// none), an index, or part of a name.
    ///
    /// # Errors
    /// [`Error::Device`] listing the adapters there are.
    pub fn open(selector: &str) -> Result<Self> {
        if selector == "reference" {
            return Ok(Device::Reference);
        }
        Self::open_adapter(selector)
    }

    #[cfg(feature = "gpu")]
    fn open_adapter(selector: &str) -> Result<Self> {
        match select_adapter(selector)? {
            Some((_, adapter)) => Ok(Device::Gpu(GpuDevice::open(adapter, Checks::Off)?)),
            None => Ok(Device::Reference),
        }
    }

    #[cfg(not(feature = "gpu"))]
    fn open_adapter(selector: &str) -> Result<Self> {
        match selector {
            "auto" => Ok(Device::Reference),
            _ => Err(Error::Device(
                format!("no adapter {selector}: this build of unmist lacks the feature `gpu` and only has `reference`")
                    .into(),
            )),
        }
    }

    /// The device in one line.
    pub fn describe(&self) -> String {
        match self {
            Device::Reference => "CPU reference".into(),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu.describe(),
            #[cfg(all(feature = "web", target_arch = "wasm32"))]
            Device::Web(web) => web.describe(),
        }
    }

    /// Hands what this device did to the recording of a run, if there is one ([`crate::trace`]). To be called once, at
    /// its end.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn end_trace(&self) -> Result<()> {
        match self {
            Device::Reference => Ok(()), // its work is the host's
            #[cfg(all(feature = "web", target_arch = "wasm32"))]
            Device::Web(_) => Ok(()), // pages record nothing
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu.end_trace(),
        }
    }

    /// The memory that `graph` would take, whether there is room for it or not. Loads nothing.
    ///
    /// # Errors
    /// [`Error::Limits`] if one tensor is larger than the device can bind; [`Error::Usage`] for a pass or a
    /// variant that does not exist.
    pub fn memory(&self, graph: &Graph, options: &LoadOptions) -> Result<MemoryPlan> {
        let graph = passes::optimize(graph, &options.disabled_passes)?;
        if let Some(program) = self.program(&graph, options)? {
            return Ok(MemoryPlan::of(&program));
        }
        let bytes = |kind: fn(&NodeKind) -> bool| {
            graph.nodes().iter().filter(|n| kind(&n.kind)).map(|n| 4 * n.desc.elements() as u64).sum()
        };
        let parameters = bytes(|kind| matches!(kind, NodeKind::Weight(_) | NodeKind::Constant(_)));
        let inputs = bytes(|kind| matches!(kind, NodeKind::Input(_)));
        let total = graph.reference_bytes();
        Ok(MemoryPlan { parameters, inputs, values: total - parameters - inputs, loading: 0, total })
    }

    /// The memory that a plan may take, bytes, where it is known.
    pub fn available_memory(&self, options: &LoadOptions) -> Option<u64> {
        options.plan.max_memory_bytes.or_else(|| match self.caps() {
            None => host_memory_bytes(),
            Some(caps) => caps.memory_bytes,
        })
    }

    /// The bytes that kept parameters and a new session may take together.
    fn store_limit(&self, options: &LoadOptions) -> Option<u64> {
        if options.forget_parameters { Some(0) } else { self.available_memory(options) }
    }

    /// Prepares `graph` and loads its parameters.
    ///
    /// # Errors
    /// [`Error::Limits`] if it does not fit, [`Error::Checkpoint`] for its parameters, [`Error::Kernel`] if a
    /// kernel does not compile.
    pub fn load(&self, graph: Graph, weights: &dyn WeightSource, options: &LoadOptions) -> Result<Box<dyn Session>> {
        self.load_optimized(passes::optimize(&graph, &options.disabled_passes)?, weights, options)
    }

    /// As [`Device::load`], for a graph that the passes have already rewritten.
    pub(crate) fn load_optimized(
        &self,
        graph: Graph,
        weights: &dyn WeightSource,
        options: &LoadOptions,
    ) -> Result<Box<dyn Session>> {
        Ok(match self {
            Device::Reference => {
                check_host_memory(&graph, &options.plan)?;
                Box::new(ReferenceSession::new(graph, weights)?)
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                let program = gpu.program(&graph, &options.plan_of(&graph))?;
                program.check_memory(gpu.caps(), &options.plan)?;
                Box::new(GpuSession::within(gpu, program, weights, self.store_limit(options))?)
            }
            #[cfg(all(feature = "web", target_arch = "wasm32"))]
            Device::Web(web) => {
                let program = web.program(&graph, &options.plan_of(&graph))?;
                program.check_memory(web.caps(), &options.plan)?;
                Box::new(WebSession::within(web, program, weights, self.store_limit(options))?)
            }
        })
    }

    /// The kernel that is chosen for each node of `graph`; the reference chooses none.
    ///
    /// # Errors
    /// As [`Device::load`], except for parameters and memory.
    pub fn choices(&self, graph: &Graph, options: &LoadOptions) -> Result<Vec<Forced>> {
        let Some(caps) = self.caps() else { return Ok(Vec::new()) };
        let graph = passes::optimize(graph, &options.disabled_passes)?;
        let chosen = explain(&graph, caps, &options.plan_of(&graph).choice)?.into_iter();
        Ok(chosen
            .map(|(node, decision)| Forced {
                target: Target::Node(node),
                variant: decision.variant.into(),
                knobs: decision.knobs,
            })
            .collect())
    }

    /// What the kernels may use; the reference has no kernels.
    fn caps(&self) -> Option<&Caps> {
        match self {
            Device::Reference => None,
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => Some(gpu.caps()),
            #[cfg(all(feature = "web", target_arch = "wasm32"))]
            Device::Web(web) => Some(web.caps()),
        }
    }

    /// Whether each sample of `batch` is computed with the same bits as the only one of `single`.
    ///
    /// # Errors
    /// As [`Device::load`], except for parameters and memory.
    pub fn computes_each_as(
        &self,
        batch: &Graph,
        single: &Graph,
        samples: usize,
        options: &LoadOptions,
    ) -> Result<bool> {
        let program = |graph| self.program(&passes::optimize(graph, &options.disabled_passes)?, options);
        match (program(batch)?, program(single)?) {
            (Some(batch), Some(single)) => Ok(batch.computes_each_as(&single, samples as u32)),
            _ => Ok(true), // one loop after another
        }
    }

    /// The program of a graph that the passes have rewritten; the reference has none.
    fn program(&self, _graph: &Graph, _options: &LoadOptions) -> Result<Option<Arc<Program>>> {
        match self {
            Device::Reference => Ok(None),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu.program(_graph, &_options.plan_of(_graph)).map(Some),
            #[cfg(all(feature = "web", target_arch = "wasm32"))]
            Device::Web(web) => web.program(_graph, &_options.plan_of(_graph)).map(Some),
        }
    }

    /// Compiles what a graph needs on this device, before its parameters are loaded.
    ///
    /// # Errors
    /// As [`Device::load`], except for parameters and memory.
    pub fn compile(&self, graph: &Graph, options: &LoadOptions) -> Result<()> {
        let program = self.program(&passes::optimize(graph, &options.disabled_passes)?, options)?;
        match (self, program) {
            #[cfg(feature = "gpu")]
            (Device::Gpu(gpu), Some(program)) => gpu.compile(&program),
            #[cfg(all(feature = "web", target_arch = "wasm32"))]
            (Device::Web(web), Some(program)) => web.compile(&program),
            _ => Ok(()), // the reference has nothing to compile
        }
    }
}

/// Refuses a graph whose parameters and intermediate values the reference could not hold.
///
/// # Errors
/// [`Error::Limits`] with both figures.
fn check_host_memory(graph: &Graph, options: &PlanOptions) -> Result<()> {
    let needed = graph.reference_bytes();
    match options.max_memory_bytes.or_else(host_memory_bytes) {
        Some(available) if needed > available => {
            let kind = |n: &&Node| matches!(n.kind, NodeKind::Weight(_) | NodeKind::Constant(_));
            let parameters = graph.nodes().iter().filter(kind).map(|n| 4 * n.desc.elements() as u64).sum();
            let lack = Lack { needed, parameters, available, limited: options.max_memory_bytes.is_some() };
            Err(Error::Limits(lack.of("this run on the CPU reference", false)))
        }
        _ => Ok(()),
    }
}
