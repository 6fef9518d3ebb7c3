//! One opened device: features, limits, compiled pipelines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use super::cache::DiskCache;
use super::memory::{Memory, texel};
use super::timed::{Anchor, Pending};
use crate::caps::{Caps, CooperativeMatrix, MatrixElement, host_memory_bytes};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::kernel::{Access, Binding, Kernel, file_name};
use crate::parallel::*;
use crate::plan::{Pace, PlanOptions, Program, Programs};
use crate::refusal::{Advised, Remedy};
use crate::store::Store;
use crate::trace;

/// Whether wgpu adds bounds checks to kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checks {
    /// Indices are moved into bounds: for tests, and for kernels that nobody has read.
    On,
    /// Kernels are trusted, because they bound their own indices. What users run.
    Off,
}

/// Bytes of a driver's cache that holds nothing: wgpu's header and Vulkan's. Drivers that have a cache of their own,
/// such as Mesa's, leave it so.
const EMPTY_CACHE: usize = 64 + 32;

/// An opened GPU (or CPU driver), its compiled kernels, programs and parameters. Cheap to clone.
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
    /// Adapter and driver, in full.
    identity: ContentId,
    /// Each is compiled once, for whoever asks first; the others wait.
    pipelines: Mutex<Pipelines>,
    cache: Option<DiskCache>,
    programs: Programs,
    store: Store<Memory>,
    /// How fast it has been.
    pace: Pace,
    /// For the record of a run: both clocks at its beginning, and launches since.
    anchor: OnceLock<Option<Anchor>>,
    pending: Mutex<Vec<Pending>>,
    /// The first error that was not returned by the call that caused it, device loss included.
    failure: Arc<Mutex<Option<String>>>,
}

/// A kernel as it came from the compiler, or what that said.
type Compiled = std::result::Result<Pipeline, String>;

/// Kernels by checks and hash.
type Pipelines = HashMap<(Checks, ContentId), Arc<OnceLock<Compiled>>>;

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
        let mut wanted = wgpu::Features::SUBGROUP
            | wgpu::Features::SHADER_F16
            | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES
            | wgpu::Features::PIPELINE_CACHE;
        if info.device_type == wgpu::DeviceType::Cpu {
            // Its memory is the host's: parameters are written directly where kernels read them.
            wanted |= wgpu::Features::MAPPABLE_PRIMARY_BUFFERS;
        }
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
            .map_err(|e| Error::Device(format!("{}: {e}", info.name).into()))?;
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
            // LP_MAX_TGSI_LOOP_ITERATIONS in Mesa's sources; seen in 22.3.6.
            max_loop_rounds: info.name.starts_with("llvmpipe").then_some(65_535),
            // A CPU driver's memory is the machine's. No API that wgpu reaches says how much a GPU has; there,
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
            // Dropping the device also ends it, which is no failure.
            if reason != wgpu::DeviceLostReason::Destroyed {
                record(&seen, format!("the device was lost ({reason:?}): {message}"));
            }
        });
        let caches = features.contains(wgpu::Features::PIPELINE_CACHE);
        let identity = ContentId::of(&[format!("{info:?}").as_bytes()]);
        let inner = Inner {
            adapter,
            device,
            queue,
            caps,
            identity,
            pipelines: Mutex::default(),
            cache: caches.then(|| DiskCache::open(identity)).flatten(),
            programs: Programs::default(),
            store: Store::default(),
            pace: Pace::default(),
            anchor: OnceLock::new(),
            pending: Mutex::default(),
            failure,
        };
        let gpu = Self { inner: Arc::new(inner), checks };
        if gpu.is_traced() {
            let anchor = gpu.anchor()?;
            gpu.inner.anchor.get_or_init(|| anchor);
        }
        Ok(gpu)
    }

    /// The same device, with kernels compiled with or without bounds checks.
    pub fn with_checks(&self, checks: Checks) -> Self {
        Self { inner: self.inner.clone(), checks }
    }

    /// Whether kernels are compiled with bounds checks.
    pub fn checks(&self) -> Checks {
        self.checks
    }

    /// The parameters that this device holds, for all sessions.
    pub fn store(&self) -> &Store<Memory> {
        &self.inner.store
    }

    /// How fast this device has been, for all sessions.
    pub(super) fn pace(&self) -> &Pace {
        &self.inner.pace
    }

    /// The program of a graph that the passes have rewritten, a smaller one where memory is short; planned once, and
    /// remembered.
    ///
    /// # Errors
    /// As [`Program::of_any_size`].
    pub fn program(&self, graph: &Graph, options: &PlanOptions) -> Result<Arc<Program>> {
        self.inner.programs.program(graph, self.caps(), options)
    }

    /// How many programs were planned on this device so far.
    pub fn programs_planned(&self) -> u64 {
        self.inner.programs.planned()
    }

    /// Features and limits as plans see them.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// What tells adapter and driver from others.
    pub(super) fn identity(&self) -> ContentId {
        self.inner.identity
    }

    /// The adapter's name, as its driver gives it.
    pub fn adapter_name(&self) -> String {
        self.inner.adapter.get_info().name
    }

    /// Both clocks when the device was opened, if a run is recorded.
    pub(super) fn first_anchor(&self) -> Option<Anchor> {
        self.inner.anchor.get().copied().flatten()
    }

    pub(super) fn add_pending(&self, pending: Pending) {
        self.inner.pending.lock().expect("no holder of this lock panics").push(pending);
    }

    pub(super) fn take_pending(&self) -> Vec<Pending> {
        std::mem::take(&mut self.inner.pending.lock().expect("no holder of this lock panics"))
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
        // A lost device holds nothing; its next use reports the loss.
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

    /// A buffer of `bytes`, mapped for writing if asked.
    ///
    /// # Errors
    /// [`Error::Limits`] if there is no memory for it.
    pub(super) fn create_buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        mapped: bool,
    ) -> Result<wgpu::Buffer> {
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: mapped };
        self.allocate(bytes, |device| device.create_buffer(&descriptor))
    }

    /// What `create` makes of `bytes`.
    ///
    /// # Errors
    /// [`Error::Limits`] if there is no memory for it.
    pub(super) fn allocate<T>(&self, bytes: u64, create: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        let device = &self.inner.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let created = create(device);
        match pollster::block_on(scope.pop()) {
            None => Ok(created),
            Some(_) => {
                let why = format!("{} has no room for {} more", self.describe(), crate::plan::mib(bytes));
                let half = Remedy::Set("precision", "f16".into());
                Err(Error::Limits(Advised::from(why).instead(half).or_less_work()))
            }
        }
    }

    /// Waits until everything submitted has run.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub(super) fn wait(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())?;
        self.check()
    }

    /// Waits until this submission has run.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub(super) fn wait_for(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
    }

    fn poll(&self, wait: wgpu::PollType) -> Result<()> {
        let _span = trace::span("wait");
        let lost = |e: wgpu::PollError| Error::Device(format!("{}: {e}", self.describe()).into());
        self.inner.device.poll(wait).map(drop).map_err(lost)
    }

    /// The contents of a part of a buffer, after everything submitted before.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub(super) fn fetch(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        self.fetch_all(&[(buffer, offset, bytes)])
    }

    /// The contents of parts of buffers (buffer, offset, bytes), one after the other.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub(super) fn fetch_all(&self, ranges: &[(&wgpu::Buffer, u64, u64)]) -> Result<Vec<u8>> {
        let _span = trace::span("read from the device");
        let device = &self.inner.device;
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: ranges.iter().map(|(_, _, bytes)| bytes).sum(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read") });
        let mut end = 0;
        for (buffer, offset, bytes) in ranges {
            encoder.copy_buffer_to_buffer(buffer, *offset, &staging, end, *bytes);
            end += bytes;
        }
        self.inner.queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            // The receiver only goes away after this callback ran or the wait below failed; then nobody needs the
            // message.
            drop(sender.send(result));
        });
        self.wait()?;
        let lost = |what: String| Error::Device(format!("{}: {what}", self.describe()).into());
        receiver.recv().map_err(|e| lost(e.to_string()))?.map_err(|e| lost(e.to_string()))?;
        let view = staging.slice(..).get_mapped_range().map_err(|e| lost(e.to_string()))?;
        Ok(view.to_vec())
    }

    /// Returns the failure recorded by the driver's callbacks, if any.
    ///
    /// # Errors
    /// [`Error::Device`] with that failure.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.inner.failure.lock().expect("no holder of this lock panics") {
            Some(message) => {
                let why = format!("{}: {message}; it may help to restart, or to put less load on it", self.describe());
                Err(Error::Device(Advised::from(why).instead(Remedy::Change("device"))))
            }
            None => Ok(()),
        }
    }

    /// Compiles all kernels of a program, several at once; those that are compiled already cost nothing.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's message and the kernel's file.
    pub fn compile(&self, program: &Program) -> Result<()> {
        (&program.kernels).into_par_iter().try_for_each(|kernel| self.pipeline(kernel).map(drop))
    }

    /// The compiled form of `kernel`; compiled once per device.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's message and the kernel's file.
    pub(super) fn pipeline(&self, kernel: &Kernel) -> Result<Pipeline> {
        let cell = {
            let mut pipelines = self.inner.pipelines.lock().expect("no holder of this lock panics");
            pipelines.entry((self.checks, kernel.hash)).or_default().clone()
        };
        cell.get_or_init(|| self.compile_kernel(kernel)).clone().map_err(Error::Kernel)
    }

    fn compile_kernel(&self, kernel: &Kernel) -> Compiled {
        let _span = trace::span_of("compile", || format!("{} {}", kernel.name, kernel.settings));
        let id = ContentId::of(&[kernel.hash.bytes(), &[u8::from(self.checks == Checks::On)]]);
        let device = &self.inner.device;
        let label = kernel.name.as_str();
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
                ty: binding_type(binding),
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
        let (cache, known) = self.driver_cache(&id).map_or((None, None), |(cache, known)| (Some(cache), known));
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: cache.as_ref(),
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(format!("{} on {}: {error}", file_name(label), self.describe()));
        }
        if let (Some(disk), Some(data)) = (&self.inner.cache, cache.and_then(|cache| cache.get_data()))
            && data.len() > EMPTY_CACHE
            && known.as_ref() != Some(&data)
        {
            disk.save(&id, &data);
        }
        Ok(Pipeline { pipeline, layout })
    }

    /// The driver's cache for one kernel, and what was on disk of it.
    fn driver_cache(&self, id: &ContentId) -> Option<(wgpu::PipelineCache, Option<Vec<u8>>)> {
        let known = self.inner.cache.as_ref()?.load(id);
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: known.as_deref(), fallback: true };
        // SAFETY: the data is what `get_data` returned for this adapter and driver: the file is named by them and
        // carries a checksum.
        let cache = unsafe { self.inner.device.create_pipeline_cache(&descriptor) };
        Some((cache, known))
    }
}

fn binding_type(binding: &Binding) -> wgpu::BindingType {
    if let Some(dtype) = binding.dtype.filter(|_| binding.texture) {
        return wgpu::BindingType::StorageTexture {
            access: match binding.access {
                Access::ReadWrite => wgpu::StorageTextureAccess::WriteOnly,
                Access::Read | Access::Uniform => wgpu::StorageTextureAccess::ReadOnly,
            },
            format: texel(dtype),
            view_dimension: wgpu::TextureViewDimension::D2,
        };
    }
    wgpu::BindingType::Buffer {
        ty: match binding.access {
            Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
            Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
            Access::Uniform => wgpu::BufferBindingType::Uniform,
        },
        has_dynamic_offset: false,
        min_binding_size: None,
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
