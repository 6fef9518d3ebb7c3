//! The page's WebGPU device: what it can do, its compiled kernels, programs and parameters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::json;

use super::host::{self, Memory};
use crate::caps::Caps;
use crate::content::ContentId;
use crate::error::Result;
use crate::graph::Graph;
use crate::kernel::{Access, Binding, Kernel};
use crate::plan::{Pace, PlanOptions, Program, Programs};
use crate::store::Store;
use crate::tensor::DType;

/// What the page says of its device: `adapter.info`, features and limits, with WebGPU's names in snake case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Adapter {
    /// For people.
    name: String,
    vendor: String,
    architecture: String,
    /// A CPU that implements WebGPU.
    is_fallback_adapter: bool,
    f16: bool,
    subgroups: bool,
    subgroup_min_size: u32,
    subgroup_max_size: u32,
    max_storage_buffer_binding_size: u64,
    max_buffer_size: u64,
    max_compute_workgroup_storage_size: u32,
    max_compute_invocations_per_workgroup: u32,
    max_compute_workgroups_per_dimension: u32,
    max_storage_buffers_per_shader_stage: u32,
    /// Bytes that may be used, where that is known.
    memory: Option<u64>,
}

impl Adapter {
    fn caps(&self) -> Caps {
        let vendors = [("nvidia", 0x10de), ("amd", 0x1002), ("intel", Caps::INTEL)];
        Caps {
            is_cpu: self.is_fallback_adapter,
            vendor: vendors.iter().find(|(name, _)| *name == self.vendor).map_or(0, |(_, number)| *number),
            architecture: Some(self.architecture.clone()).filter(|name| !name.is_empty()),
            compute_units: None,
            f16: self.f16,
            subgroup_sizes: self.subgroups.then_some([self.subgroup_min_size, self.subgroup_max_size]),
            cooperative_matrices: Vec::new(),
            max_binding_bytes: self.max_storage_buffer_binding_size,
            max_buffer_bytes: self.max_buffer_size,
            workgroup_memory_bytes: self.max_compute_workgroup_storage_size,
            max_workgroup_invocations: self.max_compute_invocations_per_workgroup,
            max_workgroups_per_dimension: self.max_compute_workgroups_per_dimension,
            max_storage_buffers: self.max_storage_buffers_per_shader_stage,
            max_loop_rounds: None,
            memory_bytes: self.memory,
        }
    }
}

/// A device of the page. Cheap to clone.
#[derive(Clone)]
pub struct WebDevice {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    caps: Caps,
    /// The host's numbers of compiled kernels.
    pipelines: Mutex<HashMap<ContentId, u32>>,
    programs: Programs,
    store: Store<Memory>,
    pace: Pace,
}

impl WebDevice {
    pub(super) fn new(adapter: &Adapter) -> Self {
        let inner = Inner {
            name: adapter.name.clone(),
            caps: adapter.caps(),
            pipelines: Mutex::default(),
            programs: Programs::default(),
            store: Store::default(),
            pace: Pace::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the page calls it.
    pub fn describe(&self) -> String {
        self.inner.name.clone()
    }

    /// Features and limits as plans see them.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// The parameters that this device holds, for all sessions.
    pub fn store(&self) -> &Store<Memory> {
        &self.inner.store
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.inner.pace
    }

    /// As `GpuDevice::program`.
    ///
    /// # Errors
    /// As [`Program::of_any_size`].
    pub fn program(&self, graph: &Graph, options: &PlanOptions) -> Result<Arc<Program>> {
        self.inner.programs.program(graph, self.caps(), options)
    }

    /// Compiles the kernels of a program, all at once.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] with what the browser's compiler says.
    pub fn compile(&self, program: &Program) -> Result<()> {
        let mut wanted: Vec<(u32, &Kernel)> = Vec::new();
        let known = |kernel: &Kernel| self.inner.pipelines.lock().expect("nobody panics").contains_key(&kernel.hash);
        for kernel in program.kernels.iter().filter(|kernel| !known(kernel)) {
            if !wanted.iter().any(|(_, other)| other.hash == kernel.hash) {
                wanted.push((host::fresh(), kernel));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let kernels: Vec<_> = wanted
            .iter()
            .map(|(number, kernel)| {
                let bindings: Vec<_> = kernel.reflection.bindings.iter().map(|b| json!([b.index, kind(b)])).collect();
                let label = format!("{} {}", kernel.name, kernel.settings);
                // naga takes subgroup operations for granted, and refuses the line that the standard asks for.
                let enable = if kernel.reflection.uses_subgroups { "enable subgroups;\n" } else { "" };
                let code = format!("{enable}{}", kernel.wgsl);
                json!({"number": number, "label": label.trim(), "code": code, "bindings": bindings})
            })
            .collect();
        host::compile(&json!(kernels).to_string())?;
        let mut pipelines = self.inner.pipelines.lock().expect("nobody panics");
        pipelines.extend(wanted.into_iter().map(|(number, kernel)| (kernel.hash, number)));
        Ok(())
    }

    /// The host's number of a kernel that was compiled.
    pub(super) fn pipeline(&self, kernel: &Kernel) -> u32 {
        self.inner.pipelines.lock().expect("nobody panics")[&kernel.hash]
    }
}

/// What a kernel binds, as `GPUBindGroupLayoutEntry` has it: a type of buffer, or the access and format of a texture.
fn kind(binding: &Binding) -> &'static str {
    match (binding.texture, binding.access, binding.dtype) {
        (true, Access::ReadWrite, Some(DType::F16)) => "write-only rgba16float",
        (true, Access::ReadWrite, _) => "write-only rgba32float",
        (true, _, Some(DType::F16)) => "read-only rgba16float",
        (true, ..) => "read-only rgba32float",
        (false, Access::Uniform, _) => "uniform",
        (false, Access::Read, _) => "read-only-storage",
        (false, Access::ReadWrite, _) => "storage",
    }
}
