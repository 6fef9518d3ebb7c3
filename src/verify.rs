//! Numerical comparison, and the parity checks that tests and `unmist verify` share.

use crate::backend::Session;
use crate::error::{Error, Result};
use crate::gpu::{GpuDevice, GpuSession};
use crate::graph::{Graph, WeightSource};
use crate::ops::Case;
use crate::plan::{Choice, Plan, PlanOptions};
use crate::reference::ReferenceSession;
use crate::tensor::{DType, HostTensor};

/// How far two tensors are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// `‖a − b‖₂ / ‖b‖₂`
    pub relative_l2: f64,
    /// `max |a − b|`
    pub max_abs: f64,
    /// Flat index of that element.
    pub worst: usize,
}

/// Bounds that two tensors must meet to count as equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Bound on the relative L2 error.
    pub relative_l2: f64,
    /// Every element: `|a − b| ≤ absolute · rms(b) + relative · |b|`. The root mean square makes the bound independent
    /// of the data's scale.
    pub absolute: f64,
    /// See `absolute`.
    pub relative: f64,
}

impl Tolerance {
    /// Bounds derived from one on the relative L2 error: an element may err by 20 times as much, relative to the
    /// tensor's scale. A single element that is wrong by its own size, or zeroed, is far outside.
    pub fn l2(bound: f64) -> Self {
        Self { relative_l2: bound, absolute: 20.0 * bound, relative: 20.0 * bound }
    }
}

/// Compares `found` with `expected`: shape, finiteness, relative L2 and every element.
///
/// # Errors
/// [`Error::Shape`] describing the first bound that is not met.
pub fn compare(found: &HostTensor, expected: &HostTensor, tolerance: Tolerance) -> Result<Difference> {
    if found.shape != expected.shape {
        return Err(Error::Shape(format!("expected shape {:?}, found {:?}", expected.shape, found.shape)));
    }
    let mut error = 0.0;
    let mut norm = 0.0;
    let mut difference = Difference { relative_l2: 0.0, max_abs: 0.0, worst: 0 };
    for (i, (&a, &b)) in found.data.iter().zip(&expected.data).enumerate() {
        if !a.is_finite() || !b.is_finite() {
            return Err(Error::Shape(format!("element {i}: expected {b}, found {a}: both must be finite")));
        }
        let delta = (f64::from(a) - f64::from(b)).abs();
        error += delta * delta;
        norm += f64::from(b) * f64::from(b);
        if delta > difference.max_abs {
            (difference.max_abs, difference.worst) = (delta, i);
        }
    }
    difference.relative_l2 = if error == 0.0 { 0.0 } else { (error / norm).sqrt() };
    let rms = (norm / expected.data.len().max(1) as f64).sqrt();
    if difference.relative_l2.is_nan() || difference.relative_l2 > tolerance.relative_l2 {
        let worst = difference.worst;
        return Err(Error::Shape(format!(
            "relative L2 error {:.3e} exceeds {:.1e}; worst element {worst}: expected {}, found {}",
            difference.relative_l2, tolerance.relative_l2, expected.data[worst], found.data[worst]
        )));
    }
    for (i, (&a, &b)) in found.data.iter().zip(&expected.data).enumerate() {
        let delta = (f64::from(a) - f64::from(b)).abs();
        if delta > tolerance.absolute * rms + tolerance.relative * f64::from(b.abs()) {
            return Err(Error::Shape(format!(
                "element {i}: expected {b}, found {a}, which is further apart than the bound allows"
            )));
        }
    }
    Ok(difference)
}

/// Relative L2 error that rounding inputs and outputs to f16 (11 bits) may cause in one operation, on top of the f32
/// bound.
pub const F16_TOLERANCE: f64 = 1e-3;

/// Why a case could not be compared.
#[derive(Debug)]
pub enum CaseResult {
    /// Compared and equal within the bounds.
    Equal(Difference),
    /// The variant cannot run this case here; the requirement it lacks.
    Unsupported(String),
}

/// How a case's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// All of them in f32.
    F32,
    /// In f16, but for what is f32 in any model.
    F16,
    /// As `F16`, with the result in f32: an operation whose result is too large for f16 ([`crate::overflow`]).
    F16ToF32,
    /// In f32, with the result in f16: one that reads such results.
    F32ToF16,
}

impl Storage {
    /// Every way.
    pub const ALL: [Storage; 4] = [Self::F32, Self::F16, Self::F16ToF32, Self::F32ToF16];

    /// `f16 to f32`
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::F16ToF32 => "f16 to f32",
            Self::F32ToF16 => "f32 to f16",
        }
    }

    /// The graph of `case` and values for its inputs; `None` for an operation whose result is f32 in any model, and so
    /// never mixed.
    fn graph(self, case: &Case) -> Result<Option<CaseGraph>> {
        let half = case.graph(DType::F16)?;
        let y = half.0.find_output("y").expect("Case::graph names it");
        let mixable = half.0.desc(y).dtype == DType::F16;
        let (mut graph, inputs) =
            if matches!(self, Self::F16 | Self::F16ToF32) { half } else { case.graph(DType::F32)? };
        match self {
            Self::F32 | Self::F16 => return Ok(Some((graph, inputs))),
            _ if !mixable => return Ok(None),
            Self::F16ToF32 => graph.store_as(y, DType::F32),
            Self::F32ToF16 => graph.store_as(y, DType::F16),
        }
        Ok(Some((graph, inputs)))
    }
}

type CaseGraph = (Graph, Vec<(&'static str, HostTensor)>);

/// Runs one case through one variant on `gpu` and compares it with the reference; checks that nothing was written out
/// of bounds.
///
/// # Errors
/// [`Error::Shape`] if the results differ, [`Error::Kernel`] if the kernel is broken or wrote out of bounds.
pub fn check_case(gpu: &GpuDevice, case: &Case, variant: &str, storage: Storage) -> Result<CaseResult> {
    let Some((graph, inputs)) = storage.graph(case)? else {
        return Ok(CaseResult::Unsupported("its result is f32 in any model".into()));
    };
    let choice = Choice::of_variant(case.op.name(), variant);
    let options = PlanOptions { choice, ..PlanOptions::default() };
    let plan = match Plan::new(&graph, gpu.caps(), &options) {
        Ok(plan) => plan,
        Err(Error::Usage(reason)) => return Ok(CaseResult::Unsupported(reason)),
        Err(other) => return Err(other),
    };
    let no_weights = std::collections::HashMap::new();
    let mut device = GpuSession::with_guard_bands(gpu, plan, &no_weights)?;
    let mut oracle = ReferenceSession::new(graph, &no_weights)?;
    for (name, tensor) in &inputs {
        device.write(name, tensor)?;
        oracle.write(name, tensor)?;
    }
    device.run()?;
    oracle.run()?;
    let bound = if storage == Storage::F32 { case.tolerance } else { case.tolerance.max(F16_TOLERANCE) };
    let difference = compare(&device.read("y")?, &oracle.read("y")?, Tolerance::l2(bound))?;
    device.check_guard_bands()?;
    Ok(CaseResult::Equal(difference))
}

/// Where a graph on a device first departs from the reference.
#[derive(Debug)]
pub struct Divergence {
    /// Name of the node.
    pub node: String,
    /// Kernels that computed it.
    pub kernels: Vec<&'static str>,
    /// What differs.
    pub error: Error,
}

/// Runs `graph` on `gpu` and on the reference and compares every intermediate value, in order.
///
/// # Errors
/// As loading and running the graph; a difference is a result, not an error.
pub fn first_divergence(
    gpu: &GpuDevice,
    graph: &Graph,
    weights: &dyn WeightSource,
    inputs: &[(&str, HostTensor)],
    options: &PlanOptions,
    bound: f64,
) -> Result<Option<Divergence>> {
    let options = PlanOptions { reuse_memory: false, ..options.clone() };
    let mut device = GpuSession::new(gpu, Plan::new(graph, gpu.caps(), &options)?, weights)?;
    let mut oracle = ReferenceSession::new(graph.clone(), weights)?.keep_all();
    for (name, tensor) in inputs {
        device.write(name, tensor)?;
        oracle.write(name, tensor)?;
    }
    device.run()?;
    oracle.run()?;
    for (id, node) in graph.values().filter(|(_, n)| n.op().is_some()) {
        let expected = oracle.value(id).expect("the reference keeps every value of a run");
        if let Err(error) = compare(&device.value(id)?, expected, Tolerance::l2(bound)) {
            let plan = device.plan();
            let kernels =
                plan.steps.iter().filter(|s| s.value == id).map(|s| plan.kernels[s.kernel].key.name).collect();
            return Ok(Some(Divergence { node: node.name.clone(), kernels, error }));
        }
    }
    Ok(None)
}
