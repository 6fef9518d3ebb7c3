//! What a device can do, as plain data: lets operations and plans decide without touching a device.

/// Features and limits of a device that matter here.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// A CPU that implements the graphics API (lavapipe, WARP): prefers kernels without barriers.
    pub is_cpu: bool,
    /// Who made the device, as a PCI number (0x10de NVIDIA, 0x1002 AMD, 0x8086 Intel), or what stands for it.
    pub vendor: u32,
    /// Its architecture, where the interface says it (a browser does; Vulkan, Metal and DX12 do not).
    pub architecture: Option<String>,
    /// Compute units or multiprocessors, where the interface says it.
    pub compute_units: Option<u32>,
    /// Whether kernels can calculate in f16 (`enable f16`). Storing f16 needs no feature.
    pub f16: bool,
    /// The least and the greatest number of invocations that subgroups have, if subgroup operations exist.
    pub subgroup_sizes: Option<[u32; 2]>,
    /// Matrix products that the invocations of a subgroup compute together; empty if there are none.
    pub cooperative_matrices: Vec<CooperativeMatrix>,
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
    /// Rounds of all its loops together after which the driver ends an invocation's loops, without a word, if it does.
    pub max_loop_rounds: Option<u32>,
    /// Total memory the plan may use, bytes, where it is known.
    pub memory_bytes: Option<u64>,
}

/// Element type of a cooperative matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatrixElement {
    /// 16-bit float
    F16,
    /// 32-bit float
    F32,
    /// 32-bit signed integer
    I32,
    /// 32-bit unsigned integer
    U32,
}

/// A product `C[m, n] += A[m, k] · B[k, n]` that the device computes as one instruction of a subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CooperativeMatrix {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Elements of A and B.
    pub factors: MatrixElement,
    /// Elements of C.
    pub sums: MatrixElement,
}

impl Caps {
    /// [`vendor`](Self::vendor) of Intel.
    pub const INTEL: u32 = 0x8086;
    /// [`vendor`](Self::vendor) of NVIDIA.
    pub const NVIDIA: u32 = 0x10de;

    /// Number of invocations in every subgroup, if subgroup operations exist and the size is the same for all kernels.
    pub fn subgroup_size(&self) -> Option<u32> {
        self.subgroup_sizes.and_then(|[least, most]| (least == most && least > 0).then_some(least))
    }

    /// Rows of the square matrices of f16 that the device multiplies, with sums in f32, and the invocations of a
    /// subgroup, for kernels that use them.
    ///
    /// # Errors
    /// What the device lacks, in words.
    pub fn matrix_units(&self) -> Result<(usize, usize), String> {
        let usable = |offered: &&CooperativeMatrix| {
            [offered.m, offered.n] == [offered.k; 2]
                && [8, 16].contains(&offered.k)
                && (offered.factors, offered.sums) == (MatrixElement::F16, MatrixElement::F32)
        };
        let largest = self.cooperative_matrices.iter().filter(usable).map(|offered| offered.k).max();
        let size = largest.ok_or("needs products of 8x8 or 16x16 matrices of f16 with sums in f32")?;
        if !self.f16 {
            return Err("needs arithmetic in f16".into());
        }
        let lanes = self.subgroup_size().ok_or("needs subgroups of one size for all kernels")?;
        Ok((size as usize, lanes as usize))
    }

    /// The least that WebGPU guarantees: what kernels are validated against when no device is at hand.
    pub fn webgpu_minimum() -> Self {
        Self {
            is_cpu: false,
            vendor: 0,
            architecture: None,
            compute_units: None,
            f16: false,
            subgroup_sizes: None,
            cooperative_matrices: Vec::new(),
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            workgroup_memory_bytes: 16 << 10,
            max_workgroup_invocations: 256,
            max_workgroups_per_dimension: 65_535,
            max_storage_buffers: 8,
            max_loop_rounds: None,
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
