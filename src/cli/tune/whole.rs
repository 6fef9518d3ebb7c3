//! Whether the sum of all choices is what its parts promise.

use std::collections::HashMap;
use std::time::Instant;

use super::jobs::Part;
use crate::backend::Session;
use crate::error::{Error, Result};
use crate::gpu::{GpuDevice, GpuSession};
use crate::graph::NodeKind;
use crate::measure::Samples;
use crate::models::RandomWeights;
use crate::ops::Fill;
use crate::plan::{Choice, PlanOptions, Program, Tuned};
use crate::tensor::{DType, HostTensor};

/// Runs of each at least, whatever they take.
const LEAST: usize = 5;
/// Runs of each at most.
const MOST: usize = 25;
/// No more once these seconds are spent.
const SECONDS: f64 = 10.0;

/// Wall-clock times of whole runs of one part: by the rules' choices, and by the tuned ones.
pub struct Compared {
    pub before: Samples,
    pub after: Samples,
}

/// Runs a part as a whole, by the rules and tuned in turns; `None` where all choices are the rules', the device has no
/// room for it, or it would take longer than until the deadline.
///
/// # Errors
/// As [`GpuSession::new`].
pub fn compare(gpu: &GpuDevice, part: &Part, tuned: &Tuned, deadline: Option<Instant>) -> Result<Option<Compared>> {
    match compare_in_room(gpu, part, tuned, deadline) {
        Err(Error::Limits(_)) => Ok(None),
        other => other,
    }
}

fn compare_in_room(gpu: &GpuDevice, part: &Part, tuned: &Tuned, deadline: Option<Instant>) -> Result<Option<Compared>> {
    let program = |tuned: Tuned| {
        let choice = Choice { tuned, ..Choice::default() };
        Program::new(&part.graph, gpu.caps(), &PlanOptions { choice, ..PlanOptions::default() })
    };
    let (rules, tuned) = (program(Tuned::default())?, program(tuned.clone())?);
    if rules == tuned {
        return Ok(None);
    }
    let inputs = inputs(part);
    let session = |program: Program| -> Result<GpuSession> {
        let mut session = GpuSession::new(gpu, program, &RandomWeights)?;
        inputs.iter().try_for_each(|(name, tensor)| session.write(name, tensor))?;
        timed(&mut session)?; // with what the driver puts off until then
        Ok(session)
    };
    let mut before = session(rules)?;
    let all = timed(&mut before)? * (2 * LEAST + 2) as f64;
    if deadline.is_some_and(|deadline| (deadline - Instant::now()).as_secs_f64() < all) {
        return Ok(None);
    }
    let mut after = session(tuned)?;
    let mut compared = Compared { before: Samples::default(), after: Samples::default() };
    let start = Instant::now();
    while compared.before.len() < LEAST || (compared.before.len() < MOST && start.elapsed().as_secs_f64() < SECONDS) {
        compared.before.push(timed(&mut before)?);
        compared.after.push(timed(&mut after)?);
    }
    Ok(Some(compared))
}

/// Seconds of a run.
fn timed(session: &mut GpuSession) -> Result<f64> {
    let start = Instant::now();
    session.run()?;
    session.wait()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Numbers of an ordinary size for every input; indices are zero, which every table has.
fn inputs(part: &Part) -> HashMap<String, HostTensor> {
    let nodes = part.graph.nodes().iter().filter(|node| matches!(node.kind, NodeKind::Input(_)));
    let value = |(seed, desc): (usize, &crate::graph::TensorDesc)| match desc.dtype {
        DType::U32 => HostTensor::zeros(desc.shape.clone()),
        _ => Fill::Normal.tensor(&desc.shape, seed as u64 + 1),
    };
    nodes.enumerate().map(|(seed, node)| (node.name.clone(), value((seed, &node.desc)))).collect()
}
