//! Where a whole graph on a device first differs from the reference.

use std::sync::Arc;

use super::compare::{Tolerance, compare};
use crate::error::{Error, Result};
use crate::gpu::{GpuDevice, GpuSession};
use crate::graph::{Graph, WeightSource};
use crate::plan::{PlanOptions, Program};
use crate::reference::ReferenceSession;
use crate::session::Session;
use crate::tensor::HostTensor;

/// Where a graph on a device first differs from the reference.
#[derive(Debug)]
pub struct Divergence {
    /// Name of the node.
    pub node: String,
    /// Kernels that computed it.
    pub kernels: Vec<String>,
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
    let program = Arc::new(Program::new(graph, gpu.caps(), &options)?);
    let mut device = GpuSession::new(gpu, program.clone(), weights)?;
    let mut oracle = ReferenceSession::new(graph.clone(), weights)?.keep_all();
    for (name, tensor) in inputs {
        device.write(name, tensor)?;
        oracle.write(name, tensor)?;
    }
    device.run()?;
    oracle.run()?;
    for (id, node) in graph.values().filter(|(_, n)| n.op().is_some()) {
        let expected = oracle.value(id).expect("the reference keeps every value of a run");
        if let Err(error) = compare(&device.value(&program.values[id.index()])?, expected, Tolerance::l2(bound)) {
            let launches = program.launches().filter(|launch| launch.value == id.index());
            let kernels = launches.map(|launch| program.kernels[launch.kernel].name.clone()).collect();
            return Ok(Some(Divergence { node: node.name.clone(), kernels, error }));
        }
    }
    Ok(None)
}
