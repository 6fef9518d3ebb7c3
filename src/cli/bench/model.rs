//! A whole model: loading, the first step, the others, and each of its operations.

use std::sync::Arc;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Args, picture, refuse_wrong, table, write};
use crate::cli::print;
use crate::cli::verify::random_inputs;
use crate::error::{Error, Result};
use crate::generate::places;
use crate::gpu::{GpuDevice, GpuSession};
use crate::graph::{Graph, Rate, WeightSource, passes};
use crate::measure::{
    Ceilings, Effort, Instance, LaunchTime, Report, Samples, Step, Subject, operations_of, time_launches, time_wall,
};
use crate::models::{LoadedModel, Model, Preset, RandomWeights, Sizes};
use crate::ops::registry;
use crate::plan::{Launch, PlanOptions, Program};
use crate::session::Session;

/// A model to be timed.
pub struct Opened {
    /// A preset or a path.
    pub name: String,
    pub component: String,
    pub model: Box<dyn Model>,
    pub weights: Box<dyn WeightSource>,
}

impl Opened {
    /// The model that the options ask for.
    pub fn new(args: &Args) -> Result<Self> {
        if let Some(preset) = args.preset {
            return Self::preset(preset);
        }
        let path = places::find_with(args.model.as_deref(), &args.component)?;
        let LoadedModel { model, weights, .. } = LoadedModel::open(&args.unused.open(&path)?, &args.component)?;
        let name = path.display().to_string();
        Ok(Self { name, component: args.component.clone(), model, weights: Box::new(weights) })
    }

    /// A well-known model with random weights.
    pub fn preset(preset: Preset) -> Result<Self> {
        let component = if preset == Preset::Vae { "vae.decoder" } else { "unet" };
        Ok(Self {
            name: preset.name().into(),
            component: component.into(),
            model: preset.model()?,
            weights: Box::new(RandomWeights),
        })
    }

    /// The sizes to run it at.
    pub fn sizes(&self, args: &Args) -> Sizes {
        let own = self.model.default_sizes();
        Sizes {
            batch: args.batch_size,
            height: args.height.unwrap_or(own.height),
            width: args.width.unwrap_or(own.width),
            ..own
        }
    }

    /// Its graph after the passes.
    pub fn graph(&self, args: &Args, sizes: &Sizes) -> Result<Graph> {
        passes::optimize(&self.model.graph(sizes, args.precision.dtype())?, &args.device.disable_pass)
    }
}

/// A model that was timed as a whole.
pub struct Timed {
    pub step: Step,
    pub program: Arc<Program>,
    /// How it was planned, in the end.
    pub options: PlanOptions,
}

/// Plans, compiles, loads and runs a model.
pub fn time(args: &Args, gpu: &GpuDevice, opened: &Opened, graph: &Graph) -> Result<Timed> {
    let helps = |field: &str| field != "batch_size" || args.batch_size > 1;
    let load = args.load_options(gpu)?;
    let start = Instant::now();
    let mut lap = {
        let mut last = start;
        move || std::mem::replace(&mut last, Instant::now()).elapsed().as_secs_f64()
    };
    // As `Program::new`, but with what it decides about memory.
    let mut options = load.plan;
    let mut program = Program::of_any_size(graph, gpu.caps(), &options).map_err(|error| error.offering(&helps))?;
    if let Some(smaller) = options.smaller(&program, gpu.caps()) {
        program = Program::of_any_size(graph, gpu.caps(), &smaller)?;
        options = smaller;
    }
    program.check_memory(gpu.caps(), &options).map_err(|error| error.offering(&helps))?;
    let program = Arc::new(program);
    let plan_seconds = lap();
    gpu.compile(&program)?;
    let compile_seconds = lap();
    let mut session = GpuSession::new(gpu, program.clone(), &*opened.weights)?;
    session.wait()?;
    let load_seconds = lap();
    let allocated_bytes = gpu.allocated_bytes();
    for (name, tensor) in &random_inputs(opened.model.as_ref(), graph)? {
        session.write(name, tensor)?;
    }
    session.wait()?;
    lap();
    session.run()?;
    session.wait()?;
    let first_seconds = lap();
    let effort = Effort { least: args.runs, most: args.runs.max(50), seconds: 1.0, ..Effort::default() };
    // Which also brings a GPU to its full clock.
    let within = within(&mut session, &effort)?;
    let seconds = time_wall(&mut session, &effort)?;
    let step = Step {
        kernels: program.kernels.len(),
        launches: program.step.len(),
        cost: program.cost(Rate::Step),
        planned_bytes: program.resident_bytes(),
        allocated_bytes,
        plan_seconds,
        compile_seconds,
        load_seconds,
        first_seconds,
        seconds,
        within,
    };
    drop(session);
    gpu.store().evict_unused();
    gpu.free_dropped();
    Ok(Timed { step, program, options })
}

/// Each launch of a step; nothing on devices without timestamps.
fn within(session: &mut GpuSession, effort: &Effort) -> Result<Vec<LaunchTime>> {
    let times = match time_launches(session, effort) {
        Err(Error::Unsupported(_)) => return Ok(Vec::new()),
        times => times?,
    };
    let program = session.program();
    let of = |(launch, samples): (&Launch, Samples)| {
        let kernel = &program.kernels[launch.kernel];
        LaunchTime {
            node: program.values[launch.value].name.clone(),
            kernel: kernel.name.clone(),
            settings: kernel.settings.clone(),
            cost: launch.cost,
            seconds: samples.median(),
        }
    };
    Ok(program.step.iter().zip(times).map(of).collect())
}

/// Runs the command for a model.
pub fn run(args: &Args) -> Result<()> {
    check_operations(&args.operation)?;
    let gpu = args.open_device()?;
    let opened = Opened::new(args)?;
    let sizes = opened.sizes(args);
    let graph = opened.graph(args, &sizes)?;
    args.load_options(&gpu)?.plan.choice.check_nodes(std::slice::from_ref(&graph))?;
    print(&format!("device: {}\n", gpu.describe()));
    let ceilings = Ceilings::measure(&gpu)?;
    let mut report = Report {
        format: Report::FORMAT.into(),
        unmist: env!("CARGO_PKG_VERSION").into(),
        device: gpu.describe(),
        cpu_driver: gpu.caps().is_cpu,
        subject: Subject {
            model: opened.name.clone(),
            component: opened.component.clone(),
            precision: args.precision.dtype(),
            batch: sizes.batch,
            height: sizes.height,
            width: sizes.width,
        },
        ceilings,
        step: None,
        operations: Vec::new(),
        picture: None,
    };
    print(&(table::caution(&report).to_owned() + &table::ceilings(&report.ceilings) + "\n"));

    // 1. the whole
    let Timed { step, program, options } = time(args, &gpu, &opened, &graph)?;
    print(&(table::step(&report, &step) + &table::within(&step) + "\n"));
    report.step = Some(step);

    // 2. its operations
    let mut instances = operations_of(&gpu, &graph, &program, &options)?;
    instances.retain(|i| args.operation.is_empty() || args.operation.iter().any(|name| i.op.is_called(name)));
    if instances.is_empty() {
        return Err(Error::Usage(format!(
            "--operation {}: there is none in a step of {} {}",
            args.operation.join(","),
            opened.name,
            opened.component
        )));
    }
    report.operations = measure(args, &gpu, &instances, &options)?;
    // Whatever else keeps the machine busy lowers the ceilings too: the higher ones of before and after count.
    report.ceilings = report.ceilings.or_higher(Ceilings::measure(&gpu)?);
    report.operations.sort_by(|a, b| b.in_step_seconds().total_cmp(&a.in_step_seconds()));
    print(&table::operations(&report, args.all));

    // 3. a picture
    report.picture = args.picture.map(|steps| picture::time(args, &gpu, &report, steps)).transpose()?;
    if let Some(picture) = &report.picture {
        print(&("\n".to_owned() + &table::picture(picture)));
    }
    write::all(args, &report)?;
    refuse_wrong(&report)
}

/// Refuses names that no operation has.
fn check_operations(names: &[String]) -> Result<()> {
    let registry = registry();
    let known: Vec<&str> = registry.iter().flat_map(|info| [&[info.name], info.aliases].concat()).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => Err(Error::Usage(format!("--operation {unknown}: there are {}", known.join(", ")))),
        None => Ok(()),
    }
}

fn measure(
    args: &Args,
    gpu: &GpuDevice,
    instances: &[Instance],
    options: &PlanOptions,
) -> Result<Vec<crate::measure::Operation>> {
    let bar = ProgressBar::new(instances.len() as u64);
    bar.set_style(ProgressStyle::with_template("{pos}/{len} operations {wide_msg}").expect("a sound template"));
    let operations = instances.iter().map(|instance| {
        bar.set_message(instance.label());
        let operation = instance.measure(gpu, options, !args.no_check, &args.effort());
        bar.inc(1);
        operation
    });
    let operations = operations.collect();
    bar.finish_and_clear();
    operations
}
