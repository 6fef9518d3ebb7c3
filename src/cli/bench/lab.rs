//! The kernel lab: one operation in all its variants and settings side by side, or someone's own kernel beside ours.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::attributes;
use super::model::Opened;
use super::{Args as BenchArgs, refuse_wrong, table, write};
use crate::cli::{print, say};
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::graph::TensorDesc;
use crate::kernel::KernelText;
use crate::measure::{
    Candidate, Ceilings, Check, Effort, Instance, Operation, PreparedInstance, Report, Samples, Subject, Verdict,
};
use crate::ops::{Knobs, LowerContext};
use crate::plan::{Choice, Forced, PlanOptions, Target, explain, unknown_node};

/// Options of the kernel lab.
#[derive(clap::Args)]
#[command(next_help_heading = "Kernel lab")]
pub struct Args {
    /// One operation by itself, by its name or alias: conv2d, linear, attention, group_norm, … (`unmist verify` lists
    /// them) in all its variants
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["model", "preset", "operation", "picture"])]
    kernel: Option<String>,
    /// One operation of the model, by the name of its node (`unmist inspect` lists them)
    #[arg(long, value_name = "NAME", conflicts_with_all = ["kernel", "operation", "picture"])]
    node: Option<String>,
    /// Shapes of the operation's inputs in their order, or by name, - for none: 1x64x64x320,320x3x3x320,bias=320
    /// [default: the
    /// smallest that it has in a real model]
    #[arg(long, value_name = "SHAPE,…", requires = "kernel")]
    shape: Option<String>,
    /// What else the operation needs to know. conv2d: stride, padding, dilation (2, or 2:1 for each axis), groups,
    /// upsample; conv2d, linear: activation, gate, scale; attention: heads, kv_heads, causal, scale, packing; norm:
    /// kind, groups, eps, activation
    #[arg(long, value_name = "NAME=VALUE,…", requires = "shape")]
    attributes: Option<String>,
    /// Only these variants
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    variant: Vec<String>,
    /// Settings: `all`, or numbers that they must have [default: the one that the rules choose]
    #[arg(long, value_name = "all|NAME=VALUE,…")]
    knobs: Option<String>,
    /// A kernel of your own, beside the one that it would replace: the same bindings and parameters, directives as in
    /// wgsl/
    #[arg(long, value_name = "FILE.wgsl")]
    wgsl: Option<PathBuf>,
    /// Which kernel that is, where the variant launches several: a path below wgsl/ without extension
    #[arg(long, value_name = "KERNEL", requires = "wgsl")]
    replaces: Option<String>,
    /// Again whenever that file is saved, until Ctrl-C
    #[arg(long, requires = "wgsl")]
    watch: bool,
}

impl Args {
    /// Whether one operation is asked for.
    pub fn is_asked_for(&self) -> bool {
        self.kernel.is_some()
            || self.node.is_some()
            || self.wgsl.is_some()
            || self.knobs.is_some()
            || !self.variant.is_empty()
    }
}

/// Runs the command for single operations.
pub fn run(args: &BenchArgs) -> Result<()> {
    let lab = &args.lab;
    let instance = instance(args)?;
    let gpu = args.open_device()?;
    let caution = if gpu.caps().is_cpu { table::CAUTION } else { "" };
    print(&format!("device: {}\n{caution}", gpu.describe()));
    let bench = Bench { args, gpu: &gpu, prepared: instance.prepare()?, instance, ceilings: OnceCell::new() };
    let operations = match &lab.wgsl {
        Some(file) => bench.beside(file)?,
        None => bench.all()?,
    };
    let report = Report {
        format: Report::FORMAT.into(),
        unmist: env!("CARGO_PKG_VERSION").into(),
        device: gpu.describe(),
        cpu_driver: gpu.caps().is_cpu,
        subject: Subject {
            model: bench.instance.label(),
            component: String::new(),
            precision: args.precision.dtype(),
            batch: 1,
            height: 1,
            width: 1,
        },
        ceilings: bench.ceilings()?.clone(),
        step: None,
        operations,
        picture: None,
    };
    write::all(args, &report)?;
    refuse_wrong(&report)
}

/// The operation to be tried.
fn instance(args: &BenchArgs) -> Result<Instance> {
    let lab = &args.lab;
    let precision = args.precision.dtype();
    match (&lab.kernel, &lab.node, &lab.shape) {
        (Some(name), _, Some(shape)) => {
            let attributes = lab.attributes.as_deref().unwrap_or("");
            attributes::parse(name, shape, attributes, precision)
        }
        (Some(name), _, None) => attributes::usual(name, precision),
        (None, Some(node), _) => {
            let opened = Opened::new(args)?;
            let graph = opened.graph(args, &opened.sizes(args))?;
            if let Some(why) = unknown_node(node, std::slice::from_ref(&graph)) {
                return Err(Error::Usage(format!("--node {node}: {why}")));
            }
            let found = Instance::distinct(&graph).into_iter().find(|instance| instance.nodes.contains(node));
            let instance = found.ok_or_else(|| {
                Error::Usage(format!("--node {node}: it depends on parameters or the prompt alone, so no step runs it"))
            })?;
            Ok(Instance { nodes: vec![node.clone()], ..instance })
        }
        (None, None, _) => Err(Error::Usage(
            "--variant, --knobs and --wgsl are about one operation: give --kernel OPERATION, or --node NAME for one of \
            a model"
                .into(),
        )),
    }
}

/// One operation on a device.
struct Bench<'a> {
    args: &'a BenchArgs,
    gpu: &'a GpuDevice,
    instance: Instance,
    prepared: PreparedInstance,
    ceilings: OnceCell<Ceilings>,
}

impl Bench<'_> {
    /// What the device can do: measured when something is to be timed, not before it is known to be right.
    fn ceilings(&self) -> Result<&Ceilings> {
        if let Some(known) = self.ceilings.get() {
            return Ok(known);
        }
        let ceilings = Ceilings::measure(self.gpu)?;
        print(&table::ceilings(&ceilings));
        Ok(self.ceilings.get_or_init(|| ceilings))
    }

    fn title(&self) -> String {
        format!("\n{}  {}\n", self.instance.label(), self.instance.shapes())
    }

    /// The options that force a variant in a setting.
    fn options(&self, variant: &str, knobs: Knobs, texts: Vec<KernelText>) -> Result<PlanOptions> {
        let mut options = self.args.load_options(self.gpu)?.plan;
        let target = Target::Operation(self.instance.op.name().into());
        let forced = Forced { target, variant: variant.into(), knobs };
        options.choice = Choice { forced: vec![forced], ..options.choice };
        Ok(PlanOptions { texts, ..options })
    }

    /// Every variant that can run, in the rules' setting or in those that were asked for.
    fn ways(&self) -> Result<Vec<(&'static str, Knobs)>> {
        let (op, lab) = (&self.instance.op, &self.args.lab);
        let names = op.variant_names();
        if let Some(unknown) = lab.variant.iter().find(|wanted| !names.contains(&wanted.as_str())) {
            let has = format!("{} has {}", op.name(), names.join(", "));
            return Err(Error::Usage(format!("--variant {unknown}: {has}")));
        }
        let inputs: Vec<Option<&TensorDesc>> =
            self.instance.inputs.iter().map(|input| input.as_ref().map(|(desc, _)| desc)).collect();
        let context = LowerContext {
            inputs: &inputs,
            output: &self.instance.output,
            caps: self.gpu.caps(),
            joined: None,
            in_place: false,
        };
        let (every, wanted) = match lab.knobs.as_deref() {
            Some("all") => (true, Knobs::default()),
            Some(text) => (true, Knobs::parse(text).map_err(|why| Error::Usage(format!("--knobs {text}: {why}")))?),
            None => (false, Knobs::default()),
        };
        let (mut ways, mut refused) = (Vec::new(), Vec::new());
        for (index, name) in names.iter().enumerate() {
            if !lab.variant.is_empty() && !lab.variant.iter().any(|wanted| wanted == name) {
                continue;
            }
            if let Err(why) = op.legal(index, &context) {
                refused.push(format!("{name}: {why}"));
                continue;
            }
            let listed: Vec<Knobs> = op.knobs(index, &context).into_iter().filter(|k| k.include(&wanted)).collect();
            match (every, listed.is_empty()) {
                (_, true) => refused.push(format!("{name}: no setting has {wanted}")),
                (true, false) => ways.extend(listed.into_iter().map(|knobs| (*name, knobs))),
                (false, false) => ways.push((name, Knobs::default())), // the rules fill it in
            }
        }
        for why in &refused {
            print(&format!("  not {why}\n"));
        }
        if ways.is_empty() {
            return Err(Error::Usage(format!("no variant of {} that was asked for can run here", op.name())));
        }
        Ok(ways)
    }

    fn candidate(&self, variant: &str, knobs: Knobs, texts: Vec<KernelText>) -> Result<Candidate> {
        let options = self.options(variant, knobs, texts)?;
        let mut candidate = self.instance.candidate(self.gpu, &self.prepared, &options)?;
        if !self.args.no_check {
            candidate.check(self.gpu, &self.prepared)?;
        }
        Ok(candidate)
    }

    /// Times candidates in turn; the time for one is there for each.
    fn time(&self, candidates: Vec<Candidate>) -> Result<Vec<Operation>> {
        let effort = self.args.effort();
        let effort = Effort { seconds: effort.seconds * candidates.len() as f64, ..effort };
        Candidate::time_side_by_side(candidates, self.gpu, &self.prepared, &effort)
    }

    /// What the rules choose.
    fn chosen(&self) -> Result<(String, Knobs)> {
        let choice = self.args.load_options(self.gpu)?.plan.choice;
        let decision = explain(&self.instance.graph()?, self.gpu.caps(), &choice)?.pop();
        let (_, decision) = decision.expect("the graph has one operation");
        Ok((decision.variant.into(), decision.knobs))
    }

    /// All ways side by side, compared with the one that the rules choose, or else with the first.
    fn all(&self) -> Result<Vec<Operation>> {
        let ways = self.ways()?;
        let ceilings = self.ceilings()?;
        print(&self.title());
        let candidates = ways.into_iter().map(|(variant, knobs)| self.candidate(variant, knobs, Vec::new()));
        let mut operations = self.time(candidates.collect::<Result<_>>()?)?;
        let (variant, knobs) = self.chosen()?;
        let of_rules = operations.iter().position(|o| o.variant == variant && o.knobs == knobs);
        let base: Samples = operations[of_rules.unwrap_or(0)].seconds.clone();
        let base_of = operations[of_rules.unwrap_or(0)].variant.clone();
        operations.sort_by(|a, b| a.seconds.median().total_cmp(&b.seconds.median()));
        for operation in &operations {
            let is_base = operation.seconds == base;
            let verdict = match is_base {
                true if of_rules.is_some() => "the rules' choice".to_owned(),
                true => "what the others are compared with".to_owned(),
                false => format!("{} than {base_of}", table::verdict(base.verdict(&operation.seconds)))
                    .replace("same than", "the same as"),
            };
            self.show(operation, &verdict, ceilings);
        }
        Ok(operations)
    }

    fn show(&self, operation: &Operation, verdict: &str, ceilings: &Ceilings) {
        print(&format!("  {}  {verdict}\n      {}\n", table::figures(operation, ceilings), table::way(operation)));
        if let Check::Wrong(why) = &operation.check {
            print(&format!("      WRONG: {why}\n"));
        }
    }

    /// Someone's own kernel beside ours: once, or whenever it is saved.
    fn beside(&self, file: &Path) -> Result<Vec<Operation>> {
        loop {
            let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
            let result = self.beside_once(file, &text);
            if !self.args.lab.watch {
                return result;
            }
            match result {
                Ok(_) => {}
                // What is wrong with the kernel is there to be corrected, everything else stays wrong.
                Err(error @ Error::Kernel(_)) => say(format_args!("error: {error}")),
                Err(other) => return Err(other),
            }
            print("waiting until it is saved again; Ctrl-C ends\n");
            wait_for_change(file, &text);
        }
    }

    fn beside_once(&self, file: &Path, text: &str) -> Result<Vec<Operation>> {
        let lab = &self.args.lab;
        let (variant, knobs) = match lab.variant.as_slice() {
            [] => self.chosen()?,
            [one] => (one.clone(), Knobs::default()),
            _ => return Err(Error::Usage("--wgsl is compared with one --variant".into())),
        };
        let knobs = match lab.knobs.as_deref() {
            None => knobs,
            Some(text) => Knobs::parse(text).map_err(|why| Error::Usage(format!("--knobs {text}: {why}")))?,
        };
        let ours = self.candidate(&variant, knobs.clone(), Vec::new())?;
        let kernel = self.replaced(file, &ours.kernel_names())?;
        let shown = file.display().to_string();
        let own = KernelText { kernel: kernel.clone(), file: shown.clone(), text: text.to_owned() };
        let yours = self.candidate(&variant, knobs, vec![own]).map_err(|error| match error {
            Error::Kernel(why) => Error::Kernel(format!("{shown} in place of {kernel}: {why}")),
            other => other,
        })?;
        if let Check::Wrong(why) = &yours.operation.check {
            return Err(Error::Kernel(format!("{shown} in place of {kernel} is wrong, and was not timed: {why}")));
        }
        let ceilings = self.ceilings()?;
        let operations = self.time(vec![ours, yours])?;
        print(&self.title());
        let [ours, yours] = operations.as_slice() else { unreachable!("two were timed") };
        let verdict = match ours.seconds.verdict(&yours.seconds) {
            Verdict::Same => "the same as ours, as far as these samples tell".to_owned(),
            verdict => format!("{} than ours", table::verdict(verdict)),
        };
        let range = |samples: &Samples| {
            let [low, high] = samples.interval().map(table::duration);
            format!("median of {} within {low} to {high}", samples.len())
        };
        self.show(ours, &format!("ours; {}", range(&ours.seconds)), ceilings);
        self.show(yours, &format!("{shown}; {}", range(&yours.seconds)), ceilings);
        let ratio = yours.seconds.median() / ours.seconds.median();
        print(&format!("  {shown} is {verdict}: {ratio:.3} of its time\n"));
        Ok(operations)
    }

    /// The kernel that `file` takes the place of.
    fn replaced(&self, file: &Path, kernels: &[String]) -> Result<String> {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let listed = || kernels.join(", ");
        if let Some(wanted) = &self.args.lab.replaces {
            let found = kernels.contains(wanted).then(|| wanted.clone());
            return found
                .ok_or_else(|| Error::Usage(format!("--replaces {wanted}: this variant launches {}", listed())));
        }
        let named = || kernels.iter().find(|kernel| kernel.rsplit('/').next() == Some(stem));
        match kernels {
            [one] => Ok(one.clone()),
            _ => named().cloned().ok_or_else(|| {
                Error::Usage(format!("--wgsl: give --replaces, as this variant launches several kernels: {}", listed()))
            }),
        }
    }
}

/// Waits until `file` can be read and is no longer `text`. Editors write in several ways, some of them through another
/// file, so that only what can be read counts.
fn wait_for_change(file: &Path, text: &str) {
    while std::fs::read_to_string(file).is_ok_and(|now| now == text) || !file.exists() {
        std::thread::sleep(Duration::from_millis(200));
    }
}
