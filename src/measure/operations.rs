//! The operations of a model, each by itself: checked, then timed.

use std::collections::{HashMap, HashSet};

use super::ceilings::Arithmetic;
use super::instance::{Instance, PreparedInstance};
use super::report::{Check, Operation};
use super::samples::Samples;
use super::timing::{Effort, time_program, time_side_by_side};
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::graph::{Graph, Rate, TensorDesc};
use crate::ops::Knobs;
use crate::plan::{PlanOptions, Program, explain};

/// The distinct operations that `program`, planned for `graph`, launches in every step. Alike nodes that are computed
/// differently, because one was forced, count as different.
///
/// # Errors
/// As [`Program::new`].
pub fn operations_of(
    gpu: &GpuDevice,
    graph: &Graph,
    program: &Program,
    options: &PlanOptions,
) -> Result<Vec<Instance>> {
    let launched: HashSet<&str> =
        program.step.iter().map(|launch| program.values[launch.value].name.as_str()).collect();
    let decisions: HashMap<String, (&str, Knobs)> = explain(graph, gpu.caps(), &options.choice)?
        .into_iter()
        .map(|(node, decision)| (node, (decision.variant, decision.knobs)))
        .collect();
    let mut found: Vec<Instance> = Vec::new();
    for instance in Instance::distinct(graph) {
        let mut parts: Vec<(Way<'_>, Vec<String>)> = Vec::new();
        for node in instance.nodes.iter().filter(|node| launched.contains(node.as_str())) {
            let decision = decisions.get(node);
            match parts.iter_mut().find(|(of, _)| *of == decision) {
                Some((_, nodes)) => nodes.push(node.clone()),
                None => parts.push((decision, vec![node.clone()])),
            }
        }
        found.extend(parts.into_iter().map(|(_, nodes)| Instance { nodes, ..instance.clone() }));
    }
    Ok(found)
}

/// The variant and setting of a node, if it has one.
type Way<'a> = Option<&'a (&'a str, Knobs)>;

/// A way to compute an instance, planned but not run.
pub struct Candidate {
    program: Program,
    /// What is known of it; without samples yet.
    pub operation: Operation,
}

impl Instance {
    /// Plans this instance as `options` ask.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn candidate(&self, gpu: &GpuDevice, prepared: &PreparedInstance, options: &PlanOptions) -> Result<Candidate> {
        let program = prepared.program(gpu, options)?;
        let graph = self.graph()?;
        let (_, decision) = explain(&graph, gpu.caps(), &options.choice)?.pop().expect("the graph has one operation");
        let kernels = program.step.iter().map(|launch| &program.kernels[launch.kernel]);
        let arithmetics: Vec<_> = kernels.clone().map(Arithmetic::of).collect();
        let arithmetic = [Arithmetic::Matrix, Arithmetic::F16].into_iter().find(|a| arithmetics.contains(a));
        let inputs: Vec<Option<&TensorDesc>> =
            self.inputs.iter().map(|input| input.as_ref().map(|(desc, _)| desc)).collect();
        let operation = Operation {
            operation: self.label(),
            shapes: self.shapes(),
            nodes: self.nodes.clone(),
            variant: decision.variant.into(),
            knobs: decision.knobs,
            reason: decision.reason,
            kernels: kernels.map(|kernel| kernel.name.clone()).collect(),
            arithmetic: arithmetic.unwrap_or(Arithmetic::F32),
            cost: self.op.cost(&inputs, &self.output),
            done_flops: program.cost(Rate::Step).flops,
            check: Check::Unchecked,
            seconds: Samples::default(),
        };
        Ok(Candidate { program, operation })
    }

    /// The operation with its attributes, by the name of its kind: `conv2d[windows stride=1,1 padding=1,1,1,1]`.
    pub fn label(&self) -> String {
        let name = self.op.kind_name();
        match self.op.attributes() {
            attributes if attributes.is_empty() => name.into(),
            attributes => format!("{name}[{attributes}]"),
        }
    }

    /// Checks this instance, if asked, and times it as `options` ask.
    ///
    /// # Errors
    /// As [`Program::new`] and [`crate::gpu::GpuSession::new`]. A wrong result is no error but noted.
    pub fn measure(&self, gpu: &GpuDevice, options: &PlanOptions, check: bool, effort: &Effort) -> Result<Operation> {
        let of_this = |error: Error| match error {
            Error::Limits(why) => Error::Limits(why.of(self.label())),
            Error::Kernel(why) => Error::Kernel(format!("{}: {why}", self.label())),
            other => other,
        };
        let prepared = self.prepare()?;
        let mut candidate = self.candidate(gpu, &prepared, options).map_err(of_this)?;
        if check {
            candidate.check(gpu, &prepared)?;
        }
        let mut session = prepared.session(gpu, candidate.program).map_err(of_this)?;
        candidate.operation.seconds = time_program(&mut session, effort)?;
        drop(session);
        // Each instance has parameters of its own, and no other one needs them.
        gpu.store().evict_unused();
        gpu.free_dropped();
        Ok(candidate.operation)
    }
}

impl Candidate {
    /// All kernels that it launches, those that prepare parameters too, without repetition.
    pub fn kernel_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for kernel in self.program.kernels.iter().filter(|kernel| !names.contains(&kernel.name)).collect::<Vec<_>>() {
            names.push(kernel.name.clone());
        }
        names
    }

    /// Compares it with the reference.
    ///
    /// # Errors
    /// [`Error::Kernel`] and [`Error::Device`], if it could not be run at all. A wrong result is no error but noted.
    pub fn check(&mut self, gpu: &GpuDevice, prepared: &PreparedInstance) -> Result<()> {
        self.operation.check = match prepared.check(gpu, self.program.clone()) {
            Ok(difference) => Check::Equal(difference.relative_l2),
            Err(Error::Shape(why) | Error::Kernel(why)) => Check::Wrong(why),
            Err(other) => return Err(other),
        };
        Ok(())
    }

    /// Times several candidates in turn, one sample of each after the other.
    ///
    /// # Errors
    /// As [`crate::gpu::GpuSession::new`].
    pub fn time_side_by_side(
        candidates: Vec<Candidate>,
        gpu: &GpuDevice,
        prepared: &PreparedInstance,
        effort: &Effort,
    ) -> Result<Vec<Operation>> {
        let (programs, mut operations): (Vec<_>, Vec<_>) =
            candidates.into_iter().map(|candidate| (candidate.program, candidate.operation)).unzip();
        let mut sessions =
            programs.into_iter().map(|program| prepared.session(gpu, program)).collect::<Result<Vec<_>>>()?;
        let times = time_side_by_side(&mut sessions.iter_mut().collect::<Vec<_>>(), effort)?;
        operations.iter_mut().zip(times).for_each(|(operation, seconds)| operation.seconds = seconds);
        Ok(operations)
    }
}
