//! One opened device: features, limits, compiled pipelines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::caps::{Caps, CooperativeMatrix, MatrixElement, host_memory_bytes};
use crate::error::{Error, Result};
use crate::kernel::{Access, Kernel, file_name};

/// Whether wgpu adds bounds checks to kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checks {
    /// Indices are moved into bounds: for tests, and for kernels that nobody has read.
    On,
    /// Kernels are trusted, as they bound their own indices. What users run.
    Off,
}

/// An opened GPU (or CPU driver) and its compiled kernels. Cheap to clone.
#[derive(Clone)]
pub struct GpuDevice {
    inner: Arc<Inner>,
    checks: Checks,
}

struct Inner {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    caps: Caps,
    pipelines: Mutex<HashMap<(Checks, String), Pipeline>>,
    /// The first error that was not returned by the call that caused it, device loss included.
    failure: Arc<Mutex<Option<String>>>,
}

/// A compiled kernel.
#[derive(Clone)]
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

impl GpuDevice {
    /// Opens an adapter.
    ///
    /// # Errors
    /// [`Error::Device`] with the driver's reason.
    pub fn open(adapter: wgpu::Adapter, checks: Checks) -> Result<Self> {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let wanted = wgpu::Features::SUBGROUP
            | wgpu::Features::SHADER_F16
            | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
        let features = adapter.features() & wanted;
        let matrices = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        let experimental_features = if matrices {
            // SAFETY: only cooperative matrices are asked for, and only kernels that name them in their text use them;
            // those bind whole tiles, as wgpu's documentation of the feature demands.
            unsafe { wgpu::ExperimentalFeatures::enabled() }
        } else {
            wgpu::ExperimentalFeatures::disabled()
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("unmist"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Device(format!("{}: {e}", info.name)))?;
        let caps = Caps {
            is_cpu: info.device_type == wgpu::DeviceType::Cpu,
            vendor: info.vendor,
            architecture: None,
            compute_units: None,
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup_sizes: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some([info.subgroup_min_size, info.subgroup_max_size]),
            cooperative_matrices: if matrices { cooperative_matrices(&adapter) } else { Vec::new() },
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
            max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            // A CPU driver's memory is the machine's; how much a GPU has, no API that wgpu reaches tells: there,
            // allocation fails cleanly.
            memory_bytes: (info.device_type == wgpu::DeviceType::Cpu).then(host_memory_bytes).flatten(),
        };
        let failure = Arc::new(Mutex::new(None));
        let record = |failure: &Arc<Mutex<Option<String>>>, message: String| {
            failure.lock().expect("no holder of this lock panics").get_or_insert(message);
        };
        let seen = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error| record(&seen, error.to_string())));
        let seen = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device ends it too; that is no failure.
            if reason != wgpu::DeviceLostReason::Destroyed {
                record(&seen, format!("the device was lost ({reason:?}): {message}"));
            }
        });
        let inner = Inner { adapter, device, queue, caps, pipelines: Mutex::new(HashMap::new()), failure };
        Ok(Self { inner: Arc::new(inner), checks })
    }

    /// The same device, with kernels compiled with or without bounds checks.
    pub fn with_checks(&self, checks: Checks) -> Self {
        Self { inner: self.inner.clone(), checks }
    }

    /// Whether kernels are compiled with bounds checks.
    pub fn checks(&self) -> Checks {
        self.checks
    }

    /// Features and limits as plans see them.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// Adapter name, backend and driver in one line.
    pub fn describe(&self) -> String {
        let info = self.inner.adapter.get_info();
        format!("{} ({:?}, {} {})", info.name, info.backend, info.driver, info.driver_info)
    }

    /// Device memory that buffers take now, bytes; `None` where the backend does not count it. What has just been
    /// dropped counts until the device is polled, which every read and [`GpuDevice::free_dropped`] do.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.inner.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// Waits until the device is idle, and frees the memory of what was dropped.
    pub fn free_dropped(&self) {
        // A device that was lost holds nothing; the next use of it says so.
        drop(self.inner.device.poll(wgpu::PollType::wait_indefinitely()));
    }

    /// Loses the device on purpose, as a driver reset would: for testing that runs then fail cleanly.
    pub fn destroy(&self) {
        self.inner.device.destroy();
        let mut failure = self.inner.failure.lock().expect("no holder of this lock panics");
        failure.get_or_insert("the device was lost: it was destroyed".into());
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// Returns the failure recorded by the driver's callbacks, if any.
    ///
    /// # Errors
    /// [`Error::Device`] with that failure.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.inner.failure.lock().expect("no holder of this lock panics") {
            Some(message) => Err(Error::Device(format!(
                "{}: {message}; lower the load or restart, or use another --device",
                self.describe()
            ))),
            None => Ok(()),
        }
    }

    /// The compiled form of `kernel`; compiled once per device.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's message and the kernel's file.
    pub(super) fn pipeline(&self, kernel: &Kernel) -> Result<Pipeline> {
        let mut pipelines = self.inner.pipelines.lock().expect("no holder of this lock panics");
        let key = (self.checks, kernel.wgsl.clone());
        if let Some(pipeline) = pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let device = &self.inner.device;
        let label = kernel.key.name;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(kernel.wgsl.as_str().into()),
        };
        let module = if self.checks == Checks::On {
            device.create_shader_module(descriptor)
        } else {
            // SAFETY: kernels bound their own indices by their parameters, which the plan derives from the bound
            // buffers' shapes; the parity tests run every kernel so, with guard bands that its bindings reach into, and
            // with the checks on.
            unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let entries: Vec<_> = kernel
            .reflection
            .bindings
            .iter()
            .map(|binding| wgpu::BindGroupLayoutEntry {
                binding: binding.index,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match binding.access {
                        Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                        Access::Uniform => wgpu::BufferBindingType::Uniform,
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(Error::Kernel(format!("{} on {}: {error}", file_name(label), self.describe())));
        }
        let pipeline = Pipeline { pipeline, layout };
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

/// The matrix products that the adapter offers to subgroups.
fn cooperative_matrices(adapter: &wgpu::Adapter) -> Vec<CooperativeMatrix> {
    let element = |ty| match ty {
        wgpu::CooperativeScalarType::F16 => MatrixElement::F16,
        wgpu::CooperativeScalarType::F32 => MatrixElement::F32,
        wgpu::CooperativeScalarType::I32 => MatrixElement::I32,
        wgpu::CooperativeScalarType::U32 => MatrixElement::U32,
    };
    let offered = adapter.cooperative_matrix_properties();
    let all = offered.iter().map(|p| CooperativeMatrix {
        m: p.m_size,
        n: p.n_size,
        k: p.k_size,
        factors: element(p.ab_type),
        sums: element(p.cr_type),
    });
    all.collect()
}
