//! Programs as text and as figures, for `unmist inspect` and snapshots.

use std::fmt;

use super::{BufferRole, Program, mib};
use crate::graph::Rate;

/// The figures of a program.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Kernel launches when it is loaded.
    pub once_launches: usize,
    /// Kernel launches when the condition changes.
    pub condition_launches: usize,
    /// Kernel launches of every run.
    pub launches: usize,
    /// Distinct kernels to compile.
    pub kernels: usize,
    /// Floating-point operations of every run.
    pub flops: u64,
    /// Bytes that must move at least in every run.
    pub bytes: u64,
    /// Bytes of parameters as every run reads them, prepared ones included.
    pub parameter_bytes: u64,
    /// Bytes of parameters that are there only while others are prepared from them.
    pub source_bytes: u64,
    /// Bytes of inputs.
    pub input_bytes: u64,
    /// Bytes of what the condition's launches leave for every run.
    pub condition_bytes: u64,
    /// Bytes of slots for intermediate values.
    pub slot_bytes: u64,
    /// Bytes the intermediate values would take if none shared a buffer.
    pub slot_bytes_unshared: u64,
    /// All device memory, bytes: the peak, since everything is allocated before the first run.
    pub memory_bytes: u64,
}

impl Program {
    /// The figures of the program.
    pub fn summary(&self) -> Summary {
        let cost = self.cost(Rate::Step);
        let padded = |elements: usize, size: usize| (elements.next_multiple_of(4) * size) as u64;
        let computed = self.values.iter().filter(|v| !v.op.is_empty());
        Summary {
            once_launches: self.once.len(),
            condition_launches: self.condition.len(),
            launches: self.step.len(),
            kernels: self.kernels.len(),
            flops: cost.flops,
            bytes: cost.bytes,
            parameter_bytes: self.role_bytes(BufferRole::Parameter) + self.role_bytes(BufferRole::Prepared),
            source_bytes: self.role_bytes(BufferRole::Source),
            input_bytes: self.role_bytes(BufferRole::Input),
            condition_bytes: self.role_bytes(BufferRole::Condition),
            slot_bytes: self.role_bytes(BufferRole::Slot),
            slot_bytes_unshared: computed.map(|v| padded(v.elements(), v.dtype.size())).sum(),
            memory_bytes: self.memory_bytes(),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [node, kernel, output] = ["node", "kernel", "output"];
        for rate in Rate::ALL.into_iter().filter(|rate| !self.list(*rate).is_empty()) {
            let when = match rate {
                Rate::Once => "once, when the program is loaded",
                Rate::Condition => "when the condition changes",
                Rate::Step => "in every run",
            };
            writeln!(f, "{when}:")?;
            writeln!(f, "{node:<52} {kernel:<28} {output:<24} {:>16} {:>10} {:>10}", "workgroups", "MFLOP", "KiB")?;
            for launch in self.list(rate) {
                let value = &self.values[launch.value];
                writeln!(
                    f,
                    "{:<52} {:<28} {:<24} {:>16} {:>10.3} {:>10.1}",
                    value.name,
                    self.kernels[launch.kernel].name,
                    value.label(),
                    launch.workgroups.map(|w| w.to_string()).join("x"),
                    launch.cost.flops as f64 / 1e6,
                    launch.cost.bytes as f64 / 1024.0
                )?;
            }
        }
        let s = self.summary();
        writeln!(
            f,
            "{} launches of {} kernels a run ({} when loaded, {} when the condition changes), {:.3} GFLOP, at least {} \
            moved",
            s.launches,
            s.kernels,
            s.once_launches,
            s.condition_launches,
            s.flops as f64 / 1e9,
            mib(s.bytes)
        )?;
        writeln!(
            f,
            "memory {}: parameters {}, inputs {}, kept from the condition {}, intermediate values {} (in {} slots; {} \
            without sharing)",
            mib(s.memory_bytes),
            mib(s.parameter_bytes),
            mib(s.input_bytes),
            mib(s.condition_bytes),
            mib(s.slot_bytes),
            self.buffers.iter().filter(|b| b.role == BufferRole::Slot).count(),
            mib(s.slot_bytes_unshared)
        )
    }
}
