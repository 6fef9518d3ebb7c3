//! What was measured on a device, as data: what `bench` prints, writes and compares.

use serde::{Deserialize, Serialize};

use super::ceilings::{Arithmetic, Ceilings};
use super::samples::Samples;
use crate::ops::{Cost, Knobs};
use crate::tensor::DType;

/// One run of `bench`. All times are in seconds, and every sample is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`Report::FORMAT`].
    pub format: String,
    /// Version of unmist.
    pub unmist: String,
    /// Adapter, interface and driver.
    pub device: String,
    /// Whether the device is a CPU driver, whose times say nothing about GPUs.
    pub cpu_driver: bool,
    /// What was timed.
    pub subject: Subject,
    /// What the device can do at most.
    pub ceilings: Ceilings,
    /// The model as a whole; none for single operations.
    pub step: Option<Step>,
    /// Each operation with its shapes.
    pub operations: Vec<Operation>,
    /// A whole picture.
    pub picture: Option<Picture>,
}

/// What was timed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// A preset, a path, or an operation.
    pub model: String,
    /// Component of the model; empty for single operations.
    pub component: String,
    /// How weights and activations are stored.
    pub precision: DType,
    /// Pictures or texts at once.
    pub batch: usize,
    /// Rows of the picture or latent that goes in.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A model as a whole, in the order in which things happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Distinct kernels.
    pub kernels: usize,
    /// Launches of a step.
    pub launches: usize,
    /// Work of a step, as its kernels do it.
    pub cost: Cost,
    /// Device memory that the plan takes while it is loaded, bytes.
    pub planned_bytes: u64,
    /// What the device has allocated, where it says so.
    pub allocated_bytes: Option<u64>,
    /// Choosing kernels and buffers.
    pub plan_seconds: f64,
    /// Compiling the kernels; less if the driver's cache has them.
    pub compile_seconds: f64,
    /// Loading the parameters and preparing what depends on them alone.
    pub load_seconds: f64,
    /// The first step, with what the driver puts off until then.
    pub first_seconds: f64,
    /// Each later step, from submission until the device is done.
    pub seconds: Samples,
    /// Each launch within a step, where the device has timestamps.
    #[serde(default)]
    pub within: Vec<LaunchTime>,
}

/// A launch within a step, between its neighbours: a pass of its own, so that it overlaps none of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchTime {
    /// The node that it helps to compute.
    pub node: String,
    /// Path of its kernel below `wgsl/`, without extension.
    pub kernel: String,
    /// The kernel's constants.
    pub settings: String,
    /// Its work.
    pub cost: Cost,
    /// The median.
    pub seconds: f64,
}

/// A whole picture, or as many as the batch has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Picture {
    /// Whether it was really made. Else it is what step and decoder add up to: without texts, loading and first steps.
    pub measured: bool,
    /// Steps.
    pub steps: usize,
    /// Rows and columns in pixels.
    pub size: [usize; 2],
    /// Everything before the first step: texts, compiling, loading. 0 for a sum.
    pub before_seconds: f64,
    /// All steps.
    pub steps_seconds: f64,
    /// From the last step to the picture; of a model on pixels next to nothing.
    pub decode_seconds: f64,
}

impl Picture {
    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.before_seconds + self.steps_seconds + self.decode_seconds
    }
}

/// One operation with its shapes, by one variant in one setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// `conv2d[windows stride=1,1 padding=1,1,1,1]`
    pub operation: String,
    /// `f16 [1, 64, 64, 320], f16 [320, 3, 3, 320] -> f16 [1, 64, 64, 320]`
    pub shapes: String,
    /// The nodes of the model that are like this.
    pub nodes: Vec<String>,
    /// The variant.
    pub variant: String,
    /// Its setting.
    pub knobs: Knobs,
    /// Why this one.
    pub reason: String,
    /// The kernels of a step, in order.
    pub kernels: Vec<String>,
    /// How they calculate.
    pub arithmetic: Arithmetic,
    /// The work that the operation is, however a variant does it.
    pub cost: Cost,
    /// Floating-point operations that its kernels do: fewer for Winograd's form.
    pub done_flops: u64,
    /// Whether it is right.
    pub check: Check,
    /// Time on the device.
    pub seconds: Samples,
}

/// The comparison with the reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Not compared.
    Unchecked,
    /// Equal; the relative L2 error.
    Equal(f64),
    /// Not equal; how.
    Wrong(String),
}

impl Report {
    /// What [`Report::format`] says.
    pub const FORMAT: &str = "unmist bench 1";

    /// The time of a step's operations, one by one, seconds.
    pub fn operations_seconds(&self) -> f64 {
        self.operations.iter().map(Operation::in_step_seconds).sum()
    }

    /// The part of [`Report::operations_seconds`] that this operation takes, in all of its nodes.
    pub fn share(&self, operation: &Operation) -> f64 {
        operation.in_step_seconds() / self.operations_seconds().max(f64::MIN_POSITIVE)
    }
}

impl Operation {
    /// Seconds of all its nodes together.
    pub fn in_step_seconds(&self) -> f64 {
        self.nodes.len().max(1) as f64 * self.seconds.median()
    }

    /// Floating-point operations a second, of the operation's own work: what variants are compared by.
    pub fn flops_per_second(&self) -> f64 {
        self.cost.flops as f64 / self.seconds.median()
    }

    /// Bytes a second of those that must move at least.
    pub fn bytes_per_second(&self) -> f64 {
        self.cost.bytes as f64 / self.seconds.median()
    }

    /// What its kernels do.
    pub fn done(&self) -> Cost {
        Cost { flops: self.done_flops, bytes: self.cost.bytes }
    }

    /// The part of the nearer ceiling that it reaches.
    pub fn share_of_ceiling(&self, ceilings: &Ceilings) -> f64 {
        ceilings.least_seconds(self.done(), self.arithmetic) / self.seconds.median()
    }

    /// Whether bytes are the nearer ceiling.
    pub fn is_bound_by_bytes(&self, ceilings: &Ceilings) -> bool {
        let flops = self.done_flops as f64 / ceilings.flops(self.arithmetic);
        self.cost.bytes as f64 / ceilings.copy.rate() > flops
    }

    /// What another run's operation must have in common with this to be compared: the operation and its shapes.
    pub fn key(&self) -> (&str, &str) {
        (&self.operation, &self.shapes)
    }
}
