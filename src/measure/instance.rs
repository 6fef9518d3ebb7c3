//! One operation as it occurs in a model.

use std::collections::HashMap;

use super::timing::{Effort, time_program};
use crate::caps::Caps;
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuSession};
use crate::graph::{Graph, NodeKind, Rate, TensorDesc, ValueId, WeightLayout};
use crate::ops::{Fill, LowerContext, Op, registry, sample};
use crate::plan::{PlanOptions, Program};
use crate::reference::stored;
use crate::session::Session;
use crate::tensor::{DType, HostTensor};
use crate::verify::{Difference, PreparedCase, Run};

/// One operation with the shapes, element types and rates that it has somewhere in a graph. Parameters stay parameters,
/// so that what is prepared from them alone does not count as work of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The operation.
    pub op: Op,
    /// Its inputs by position, and how often each changes.
    pub inputs: Vec<Option<(TensorDesc, Rate)>>,
    /// Its output.
    pub output: TensorDesc,
    /// Names of the nodes that are like this.
    pub nodes: Vec<String>,
}

impl Instance {
    /// The distinct instances among the nodes of `graph` that run in every step, in the order of their first node.
    pub fn distinct(graph: &Graph) -> Vec<Self> {
        let rates = graph.rates();
        let mut found: Vec<Self> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (id, node) in graph.values().filter(|(id, _)| rates[id.index()] == Rate::Step) {
            let NodeKind::Op(op, inputs) = &node.kind else { continue };
            let given = |value: ValueId| (graph.desc(value).clone(), rates[value.index()]);
            let inputs: Vec<_> = inputs.iter().map(|value| value.map(given)).collect();
            let instance =
                Self { op: op.clone(), inputs, output: graph.desc(id).clone(), nodes: vec![node.name.clone()] };
            let key = format!("{:?} {:?} {:?}", instance.op, instance.inputs, instance.output);
            match known.get(&key) {
                Some(&index) => found[index].nodes.push(node.name.clone()),
                None => {
                    known.insert(key, found.len());
                    found.push(instance);
                }
            }
        }
        found
    }

    /// Hands `look` the instance as kernels are chosen for it on a device.
    pub(super) fn with_context<T>(&self, caps: &Caps, look: impl FnOnce(&LowerContext<'_>) -> T) -> T {
        let inputs: Vec<_> = self.inputs.iter().map(|input| input.as_ref().map(|(desc, _)| desc)).collect();
        look(&LowerContext { inputs: &inputs, output: &self.output, caps, joined: None, in_place: false })
    }

    /// `f16 [1, 64, 64, 320], f16 [320, 3, 3, 320] -> f16 [1, 64, 64, 320]`
    pub fn shapes(&self) -> String {
        let inputs: Vec<String> =
            self.inputs.iter().map(|i| i.as_ref().map_or("-".into(), |(desc, _)| desc.label())).collect();
        format!("{} -> {}", inputs.join(", "), self.output.label())
    }

    /// A graph of this operation alone: the operation's names for its inputs, `y` for its output.
    ///
    /// # Errors
    /// If the inputs do not fit the operation, which no graph's do not.
    pub fn graph(&self) -> Result<Graph> {
        let mut graph = Graph::new();
        let ids: Vec<Option<ValueId>> = self
            .inputs
            .iter()
            .zip(self.op.input_names())
            .map(|(input, name)| {
                let (desc, rate) = input.as_ref()?;
                Some(match (rate, desc.dtype) {
                    // Indices that depend on parameters alone are tables, which need their contents.
                    (Rate::Once, DType::F32 | DType::F16) => {
                        graph.weight(*name, &desc.shape, WeightLayout::AsIs, desc.dtype)
                    }
                    (Rate::Condition, _) => graph.condition(*name, desc.clone()),
                    _ => graph.input(*name, desc.clone()),
                })
            })
            .collect();
        let y = graph.push(self.nodes.first().map_or("y", String::as_str), self.op.clone(), &ids)?;
        graph.store_as(y, self.output.dtype);
        graph.output("y", y);
        Ok(graph)
    }

    /// Values for every input, by the operation's names, already rounded to how they are stored. Those of matrices are
    /// scaled so that sums over them stay near one.
    fn values(&self) -> HashMap<String, HostTensor> {
        // Indices count rows of the table beside them.
        let tables = self.inputs.iter().flatten().filter(|(desc, _)| desc.dtype != DType::U32);
        let bound = tables.filter_map(|(desc, _)| desc.shape.first()).min().copied().unwrap_or(1);
        let value = |position: usize, desc: &TensorDesc, rate: Rate| {
            let fill = if desc.dtype == DType::U32 { Fill::Index(bound as u32) } else { Fill::Normal };
            let mut tensor = fill.tensor(&desc.shape, position as u64 + 1);
            if rate == Rate::Once && desc.shape.len() > 1 && desc.dtype != DType::U32 {
                let terms = desc.shape[1..].iter().product::<usize>().max(1);
                tensor.data.iter_mut().for_each(|v| *v /= (terms as f32).sqrt());
            }
            stored(tensor, desc.dtype)
        };
        let named = self.inputs.iter().zip(self.op.input_names()).enumerate();
        named
            .filter_map(|(i, (input, name))| input.as_ref().map(|(d, rate)| (name.to_string(), value(i, d, *rate))))
            .collect()
    }

    /// Seconds of one run as `options` choose, by the device's clock: enough to order instances by.
    ///
    /// # Errors
    /// As [`Program::new`] and [`GpuSession::new`].
    pub fn time_once(&self, gpu: &GpuDevice, options: &PlanOptions) -> Result<f64> {
        let (graph, values) = (self.graph()?, self.values());
        let mut session = GpuSession::new(gpu, Program::new(&graph, gpu.caps(), options)?, &values)?;
        let names: Vec<String> = session.inputs().iter().map(|port| port.name.clone()).collect();
        names.iter().try_for_each(|name| session.write(name, &values[name]))?;
        Ok(time_program(&mut session, &Effort { least: 1, most: 1, ..Effort::default() })?.least())
    }

    /// The loosest bound on the relative L2 error in f32 that any case of the operation has.
    fn bound(&self) -> f64 {
        let info = registry().into_iter().find(|info| info.name == self.op.name()).expect("the registry has them all");
        info.cases.iter().map(|case| case.tolerance).fold(0.0, f64::max)
    }

    /// The instance with values; what the reference makes of them (of a sample of elements where the whole would take
    /// long) is computed with the first check.
    ///
    /// # Errors
    /// As [`Instance::graph`].
    pub fn prepare(&self) -> Result<PreparedInstance> {
        let sample = sample(self.output.elements());
        Ok(PreparedInstance { case: PreparedCase::of_graph(self.graph()?, self.values(), sample, self.bound()) })
    }
}

/// An [`Instance`] with values, ready to be checked and timed in any variant.
pub struct PreparedInstance {
    case: PreparedCase,
}

impl PreparedInstance {
    /// The program for this instance alone.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn program(&self, gpu: &GpuDevice, options: &PlanOptions) -> Result<Program> {
        Program::new(self.case.graph(), gpu.caps(), options)
    }

    /// Runs a program of this instance and compares its result with the reference, with guard bands.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the results differ, [`crate::Error::Kernel`] if a kernel is broken or wrote out of
    /// bounds.
    pub fn check(&self, gpu: &GpuDevice, program: Program) -> Result<Difference> {
        self.case.run(gpu, program, Run::Unchecked)
    }

    /// A session of such a program with its inputs written, to be timed.
    ///
    /// # Errors
    /// As [`GpuSession::new`].
    pub fn session(&self, gpu: &GpuDevice, program: Program) -> Result<GpuSession> {
        let mut session = GpuSession::new(gpu, program, self.case.values())?;
        self.case.write(&mut session)?;
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::LoadedModel;

    #[test]
    fn a_models_operations_stand_for_themselves() {
        let checkpoint = crate::checkpoint::Checkpoint::open("weights/emoji-64").expect("it ships");
        let LoadedModel { model, .. } = LoadedModel::open(&checkpoint, "unet").expect("it has one");
        let graph = model.graph(&model.default_sizes(), DType::F16).expect("its own size");
        let graph = crate::graph::passes::optimize(&graph, &[]).expect("all passes");
        let instances = Instance::distinct(&graph);
        let rates = graph.rates();
        let nodes: usize = instances.iter().map(|instance| instance.nodes.len()).sum();
        let in_step = graph.values().filter(|(id, node)| node.op().is_some() && rates[id.index()] == Rate::Step);
        assert_eq!(nodes, in_step.count());
        assert!(instances.len() < nodes, "some are alike");
        for instance in &instances {
            let alone = instance.graph().expect("as in the model");
            let y = alone.find_output("y").expect("it has one");
            assert_eq!(alone.desc(y), &instance.output, "{:?}", instance.nodes);
            assert_eq!(alone.rates()[y.index()], Rate::Step, "{:?}", instance.nodes);
        }
    }
}
