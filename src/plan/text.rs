//! Plans as text and as summary data, for `unmist inspect` and snapshots.

use std::fmt;

use super::{BufferRole, Plan, mib};

/// The figures of a plan.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PlanSummary {
    /// Kernel launches.
    pub launches: usize,
    /// Distinct kernels to compile.
    pub kernels: usize,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that must move at least.
    pub bytes: u64,
    /// Bytes of parameters.
    pub parameter_bytes: u64,
    /// Bytes of inputs.
    pub input_bytes: u64,
    /// Bytes of slots for intermediate values.
    pub slot_bytes: u64,
    /// Bytes the intermediate values would take if none shared a buffer.
    pub slot_bytes_unshared: u64,
    /// All device memory, bytes: the peak, since everything is allocated before the first launch.
    pub memory_bytes: u64,
}

impl Plan {
    /// The figures of the plan.
    pub fn summary(&self) -> PlanSummary {
        let cost = self.cost();
        PlanSummary {
            launches: self.steps.len(),
            kernels: self.kernels.len(),
            flops: cost.flops,
            bytes: cost.bytes,
            parameter_bytes: self.role_bytes(&BufferRole::Parameter),
            input_bytes: self.role_bytes(&BufferRole::Input),
            slot_bytes: self.role_bytes(&BufferRole::Slot),
            slot_bytes_unshared: self.graph.nodes().iter().filter(|n| n.op().is_some()).map(|n| n.desc.bytes()).sum(),
            memory_bytes: self.memory_bytes(),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<52} {:<28} {:<24} {:>16} {:>10} {:>10}",
            "node", "kernel", "output", "workgroups", "MFLOP", "KiB"
        )?;
        for step in &self.steps {
            let workgroups = step.workgroups.map(|w| w.to_string()).join("x");
            writeln!(
                f,
                "{:<52} {:<28} {:<24} {:>16} {:>10.3} {:>10.1}",
                step.name,
                self.kernels[step.kernel].key.name,
                self.graph.desc(step.value).label(),
                workgroups,
                step.cost.flops as f64 / 1e6,
                step.cost.bytes as f64 / 1024.0
            )?;
        }
        let s = self.summary();
        writeln!(
            f,
            "{} launches of {} kernels, {:.3} GFLOP, at least {} moved",
            s.launches,
            s.kernels,
            s.flops as f64 / 1e9,
            mib(s.bytes)
        )?;
        writeln!(
            f,
            "memory {}: parameters {}, inputs {}, intermediate values {} (in {} slots; {} without sharing)",
            mib(s.memory_bytes),
            mib(s.parameter_bytes),
            mib(s.input_bytes),
            mib(s.slot_bytes),
            self.buffers.iter().filter(|b| b.role == BufferRole::Slot).count(),
            mib(s.slot_bytes_unshared)
        )
    }
}
