//! One operation on one device, run in several ways, because a fault can hide in one and show in another.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::compare::{Difference, Tolerance, compare};
use crate::caps::Caps;
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::gpu::{Checks, GpuDevice, GpuSession};
use crate::graph::{Graph, NodeKind};
use crate::kernel::reflect;
use crate::ops::{Case, Knobs, LowerContext, Op, Size};
use crate::plan::{Choice, Forced, PlanOptions, Program};
use crate::reference::stored;
use crate::session::Session;
use crate::tensor::{DType, HostTensor};

/// How a case's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// All of them in f32.
    F32,
    /// In f16, except for what is f32 in every model.
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

    /// The graph of `case` in this storage; `None` for an operation whose result is f32 in every model, and so never
    /// mixed.
    pub fn graph(self, case: &Case) -> Result<Option<Graph>> {
        let dtype = if matches!(self, Self::F16 | Self::F16ToF32) { DType::F16 } else { DType::F32 };
        let mut graph = case.structure(dtype)?;
        let y = graph.find_output("y").expect("Case::structure names it");
        if matches!(self, Self::F16ToF32 | Self::F32ToF16) {
            let half = case.structure(DType::F16)?;
            if half.desc(half.find_output("y").expect("as above")).dtype != DType::F16 {
                return Ok(None);
            }
            graph.store_as(y, if self == Self::F16ToF32 { DType::F32 } else { DType::F16 });
        }
        Ok(Some(graph))
    }
}

/// How a case is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// As users run it: nothing checks a kernel's indices. Each buffer's binding reaches into a band of NaN behind it,
    /// so that what a kernel reads there shows in the result and what it writes there shows in the band.
    Unchecked,
    /// As `Unchecked`, with every one-dimensional dispatch folded into three rows, as happens beyond 65 535 workgroups,
    /// and with at least one workgroup more than needed, which must do nothing.
    Folded,
    /// With wgpu's bounds checks in the kernels, and bindings that end where the tensor ends.
    Checked,
}

impl Run {
    /// Every way.
    pub const ALL: [Run; 3] = [Self::Unchecked, Self::Folded, Self::Checked];

    /// `unchecked`
    pub fn name(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Folded => "folded",
            Self::Checked => "checked",
        }
    }

    /// The ways in which cases of a size are run: what is checked or folded behaves alike at every size.
    pub fn of(size: Size) -> &'static [Run] {
        match size {
            Size::Small => &Self::ALL,
            Size::Large | Size::Perf => &[Self::Unchecked],
        }
    }
}

/// The outcome of running a case.
#[derive(Debug)]
pub enum CaseResult {
    /// Compared and equal within the bounds.
    Equal(Difference),
    /// The variant cannot run this case here; the requirement it lacks.
    Unsupported(String),
}

/// Replaces the text of kernels before they are compiled: from a kernel's name and its expanded WGSL to another text
/// with the same bindings and parameters, or `None` to leave it. This is how the harness's controls run kernels with
/// a known fault.
pub type Edit<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// A case with its inputs and expected result, each computed once for all variants and runs.
pub struct PreparedCase {
    op: &'static str,
    graph: Graph,
    /// Inputs and parameters of the graph.
    values: HashMap<String, HostTensor>,
    /// The elements to compare, where the operation can compute single ones; none: all.
    sample: Option<Vec<usize>>,
    /// Made when it is first asked for: what is only timed needs none.
    expected: OnceLock<Expected>,
    tolerance: Tolerance,
}

/// What the reference says.
enum Expected {
    /// Every element.
    Whole(HostTensor),
    /// Some elements: flat indices, and their values.
    Sample(Vec<usize>, HostTensor),
}

impl PreparedCase {
    /// Makes the inputs of `case`; `None` if it is never stored so.
    ///
    /// # Errors
    /// If the case's shapes do not fit the operation, which the tests exclude.
    pub fn new(case: &Case, storage: Storage) -> Result<Option<Self>> {
        let Some(graph) = storage.graph(case)? else { return Ok(None) };
        let values = case.values(&graph);
        let parts = case.parts(&values).into_iter().flatten();
        let values = parts.chain(values.clone()).map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        let elements = graph.desc(graph.find_output("y").expect("Case::structure names it")).elements();
        Ok(Some(Self::of_graph(graph, values, case.sample(elements), case.tolerance)))
    }

    /// A graph whose output `y` is one operation on the tensors that `values` names as the operation does. `sample`:
    /// the elements to compare, where the operation can compute single ones; none: all. `bound`: on the relative L2
    /// error in f32.
    pub(crate) fn of_graph(
        graph: Graph,
        values: HashMap<String, HostTensor>,
        sample: Option<Vec<usize>>,
        bound: f64,
    ) -> Self {
        let y = graph.find_output("y").expect("the graph's output is called so");
        let op = graph.node(y).op().expect("y is the operation's result").name();
        let tolerance = if graph.desc(y).dtype == DType::F16 { Tolerance::f16(bound) } else { Tolerance::l2(bound) };
        Self { op, graph, values, sample, expected: OnceLock::new(), tolerance }
    }

    fn expected(&self) -> &Expected {
        self.expected.get_or_init(|| {
            let y = self.graph.find_output("y").expect("the graph's output is called so");
            let NodeKind::Op(op, inputs) = &self.graph.node(y).kind else {
                unreachable!("y is the operation's result")
            };
            let positions: Vec<Option<&HostTensor>> =
                inputs.iter().zip(op.input_names()).map(|(given, name)| given.map(|_| &self.values[*name])).collect();
            let dtype = self.graph.desc(y).dtype;
            match self.sample.as_ref().and_then(|at| Some((op.reference_at(&positions, at)?, at))) {
                Some((values, at)) => {
                    let tensor = HostTensor { shape: vec![values.len()], data: values };
                    Expected::Sample(at.clone(), stored(tensor, dtype))
                }
                None => Expected::Whole(stored(op.reference(&positions), dtype)),
            }
        })
    }

    /// Runs the case through one variant and compares the result with the reference; checks that nothing was written
    /// out of bounds. `kernel` restricts to plans that launch it, with a setting that the rules do not choose if need
    /// be.
    ///
    /// # Errors
    /// [`Error::Shape`] if the results differ, [`Error::Kernel`] if the kernel is broken or wrote out of bounds.
    pub fn check(&self, gpu: &GpuDevice, variant: &str, run: Run, kernel: Option<&str>) -> Result<CaseResult> {
        let Some(program) = self.program(gpu.caps(), Choice::of_variant(self.op, variant))? else {
            return Ok(CaseResult::Unsupported(format!("{variant} cannot run it")));
        };
        if kernel.is_none_or(|name| program.kernels.iter().any(|k| k.name == name)) {
            return self.run(gpu, program, run).map(CaseResult::Equal);
        }
        match kernel.and_then(|name| self.setting_with(gpu.caps(), variant, name)) {
            Some(knobs) => self.check_setting(gpu, variant, &knobs, run),
            None => Ok(CaseResult::Unsupported("it launches other kernels".into())),
        }
    }

    /// A setting of the variant that launches this kernel, each case another one where there are several.
    fn setting_with(&self, caps: &Caps, variant: &str, kernel: &str) -> Option<Knobs> {
        let launches = |index: usize, op: &Op, context: &LowerContext<'_>, knobs: &Knobs| {
            op.lower(index, context, knobs).launches.iter().any(|launch| launch.kernel == kernel)
        };
        let with: Vec<Knobs> = self.of_variant(caps, variant, |index, op, context| {
            op.knobs(index, context).into_iter().filter(|knobs| launches(index, op, context, knobs)).collect()
        })?;
        let elements = self.graph.desc(self.graph.find_output("y").expect("Case::structure names it")).elements();
        with.get(elements % with.len().max(1)).cloned()
    }

    /// What `with` makes of the variant's number, if such a device can run the case with it.
    fn of_variant<T>(
        &self,
        caps: &Caps,
        variant: &str,
        with: impl FnOnce(usize, &Op, &LowerContext<'_>) -> T,
    ) -> Option<T> {
        let y = self.graph.find_output("y").expect("Case::structure names it");
        let NodeKind::Op(op, inputs) = &self.graph.node(y).kind else { unreachable!("y is the operation's result") };
        let inputs: Vec<_> = inputs.iter().map(|v| v.map(|v| self.graph.desc(v))).collect();
        let context = LowerContext { inputs: &inputs, output: self.graph.desc(y), caps, joined: None, in_place: false };
        let index = op.variant_names().iter().position(|name| *name == variant);
        index.filter(|index| op.legal(*index, &context).is_ok()).map(|index| with(index, op, &context))
    }

    /// The settings that a variant may take for this case on such a device; none if it cannot run it.
    pub fn settings(&self, caps: &Caps, variant: &str) -> Vec<Knobs> {
        self.of_variant(caps, variant, |index, op, context| op.knobs(index, context)).unwrap_or_default()
    }

    /// As [`PreparedCase::check`], with one of the [`PreparedCase::settings`] instead of the rules'.
    ///
    /// # Errors
    /// As [`PreparedCase::check`].
    pub fn check_setting(&self, gpu: &GpuDevice, variant: &str, knobs: &Knobs, run: Run) -> Result<CaseResult> {
        let forced = Forced { knobs: knobs.clone(), ..Forced::operation(self.op, variant) };
        match self.program(gpu.caps(), Choice { forced: vec![forced], ..Choice::default() })? {
            Some(program) => self.run(gpu, program, run).map(CaseResult::Equal),
            None => Ok(CaseResult::Unsupported(format!("{variant} cannot run it with {knobs}"))),
        }
    }

    /// As [`PreparedCase::check`], with the text of kernels replaced.
    ///
    /// # Errors
    /// As [`PreparedCase::check`]; [`Error::Kernel`] too if nothing was replaced, or by a text with other bindings.
    pub fn check_edited(&self, gpu: &GpuDevice, variant: &str, run: Run, edit: Edit<'_>) -> Result<Difference> {
        self.check_emulated(gpu, gpu.caps(), Choice::of_variant(self.op, variant), run, edit)
    }

    /// As [`PreparedCase::check_edited`], planned for a device with `caps`, which the other text emulates on this one.
    ///
    /// # Errors
    /// As [`PreparedCase::check_edited`].
    pub fn check_emulated(
        &self,
        gpu: &GpuDevice,
        caps: &Caps,
        choice: Choice,
        run: Run,
        edit: Edit<'_>,
    ) -> Result<Difference> {
        let cannot = || Error::Kernel(format!("{}: what is forced cannot run this case", self.op));
        let mut program = self.program(caps, choice)?.ok_or_else(cannot)?;
        let mut edited = false;
        for kernel in &mut program.kernels {
            let Some(wgsl) = edit(&kernel.name, &kernel.wgsl) else { continue };
            let reflection = reflect(&kernel.name, &wgsl)?;
            let same = reflection.bindings == kernel.reflection.bindings
                && reflection.params == kernel.reflection.params
                && reflection.params_size == kernel.reflection.params_size;
            if !same {
                return Err(Error::Kernel(format!("{}: the other text has other bindings", kernel.name)));
            }
            kernel.hash = ContentId::of(&[wgsl.as_bytes()]);
            (kernel.wgsl, kernel.reflection) = (wgsl, reflection);
            edited = true;
        }
        if !edited {
            return Err(Error::Kernel(format!("{}: no kernel was replaced", self.op)));
        }
        self.run(gpu, program, run)
    }

    /// Writes the inputs of a session of the case's graph.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub(crate) fn write(&self, session: &mut GpuSession) -> Result<()> {
        let names: Vec<String> = session.inputs().iter().map(|port| port.name.clone()).collect();
        names.iter().try_for_each(|name| session.write(name, &self.values[name]))
    }

    /// The graph of the case.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Its inputs and parameters.
    pub(crate) fn values(&self) -> &HashMap<String, HostTensor> {
        &self.values
    }

    /// `None` if what is forced cannot run the case on this device.
    fn program(&self, caps: &Caps, choice: Choice) -> Result<Option<Program>> {
        match Program::new(&self.graph, caps, &PlanOptions { choice, ..PlanOptions::default() }) {
            Ok(program) => Ok(Some(program)),
            Err(Error::Usage(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Runs a program of the case's graph and compares its result.
    ///
    /// # Errors
    /// As [`PreparedCase::check`].
    pub(crate) fn run(&self, gpu: &GpuDevice, mut program: Program, run: Run) -> Result<Difference> {
        if run == Run::Folded {
            fold(&mut program);
        }
        let gpu = gpu.with_checks(if run == Run::Checked { Checks::On } else { Checks::Off });
        let mut device = GpuSession::with_guard_bands(&gpu, program, &self.values)?;
        self.write(&mut device)?;
        device.run()?;
        let found = device.read("y")?;
        device.check_guard_bands()?;
        match self.expected() {
            Expected::Whole(expected) => compare(&found, expected, self.tolerance),
            Expected::Sample(at, expected) => {
                if let Some(i) = found.data.iter().position(|v| !v.is_finite()) {
                    return Err(Error::Shape(format!("element {i}: found {}: it must be finite", found.data[i])));
                }
                let values = at.iter().map(|&i| found.data[i]).collect();
                compare(&HostTensor { shape: expected.shape.clone(), data: values }, expected, self.tolerance).map_err(
                    |e| Error::Shape(format!("of a sample of {} elements of {:?}: {e}", at.len(), found.shape)),
                )
            }
        }
    }
}

/// Compares the elements that the reference computes by themselves with the same elements of the whole result; `false`
/// if the operation computes no single elements of this case.
///
/// # Errors
/// [`Error::Shape`] if they differ.
pub fn check_sampled(case: &Case) -> Result<bool> {
    let graph = case.structure(DType::F32)?;
    let values = case.values(&graph);
    let mut given = values.iter();
    let inputs: Vec<_> =
        case.inputs.iter().map(|i| i.as_ref().map(|_| &given.next().expect("one value an input").1)).collect();
    let whole = case.op.reference(&inputs);
    let at: Vec<_> = (0..whole.len()).rev().step_by(3).collect();
    let Some(data) = case.op.reference_at(&inputs, &at) else { return Ok(false) };
    let expected = at.iter().map(|i| whole.data[*i]).collect();
    let tensor = |data| HostTensor { shape: vec![at.len()], data };
    compare(&tensor(data), &tensor(expected), Tolerance::l2(1e-6))?;
    Ok(true)
}

/// See [`Run::Folded`]. Only kernels that unfold their index take part; others give y a meaning.
fn fold(program: &mut Program) {
    let Program { kernels, once, condition, step, .. } = program;
    for launch in [once, condition, step].into_iter().flatten() {
        if let [x, 1, 1] = launch.workgroups
            && kernels[launch.kernel].wgsl.contains("flat_index(")
        {
            launch.workgroups = [x / 3 + 1, 3, 1];
        }
    }
}
