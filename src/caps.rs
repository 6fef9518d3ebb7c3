//! What a device can do, as plain data: lets operations and plans decide without touching a device.

/// Features and limits of a device that matter here.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// A CPU that implements the graphics API (lavapipe, WARP): prefers kernels without barriers.
    pub is_cpu: bool,
    /// Number of invocations in every subgroup, if subgroup operations exist and the size is the same for all kernels.
    pub subgroup_size: Option<u32>,
    /// Largest storage buffer binding, bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory, bytes.
    pub workgroup_memory_bytes: u32,
    /// Invocations in a workgroup.
    pub max_workgroup_invocations: u32,
    /// Workgroups in one dimension of a dispatch.
    pub max_workgroups_per_dimension: u32,
    /// Storage buffers that one kernel can bind.
    pub max_storage_buffers: u32,
    /// Total memory the plan may use, bytes, where it is known.
    pub memory_bytes: Option<u64>,
}

impl Caps {
    /// The least that WebGPU guarantees: what kernels are validated against when no device is at hand.
    pub fn webgpu_minimum() -> Self {
        Self {
            is_cpu: false,
            subgroup_size: None,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            workgroup_memory_bytes: 16 << 10,
            max_workgroup_invocations: 256,
            max_workgroups_per_dimension: 65_535,
            max_storage_buffers: 8,
            memory_bytes: None,
        }
    }
}

/// Memory that the operating system could give to this process now, bytes; `None` where it does not say (only Linux
/// does, in `/proc/meminfo`).
pub fn host_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
