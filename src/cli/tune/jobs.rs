//! What there is to measure.

use std::collections::HashMap;
use std::time::Instant;

use super::Args;
use crate::backend::{Device, LoadOptions};
use crate::error::{Error, Result};
use crate::generate::places;
use crate::gpu::GpuDevice;
use crate::graph::{Graph, passes};
use crate::measure::{Instance, candidates, is_known};
use crate::models::{LoadedModel, Model, Sizes};
use crate::ops::Knobs;
use crate::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use crate::plan::{PlanOptions, Table, TunedEntry};
use crate::schedulers::Scheduler;

/// A model that runs as a whole.
pub struct Part {
    /// Its name: `unet`, `sd15`.
    pub name: String,
    /// As the passes have rewritten it.
    pub graph: Graph,
    /// How often it runs for a picture.
    pub runs: usize,
}

/// An instance to measure.
pub struct Job {
    pub instance: Instance,
    /// How often it occurs in each of the parts.
    pub counts: Vec<usize>,
    /// What a picture takes of it: seconds, or something in proportion.
    pub weight: f64,
    /// Runs for a picture.
    runs: f64,
}

impl Job {
    /// `contraction f16 [1, 64, 64, 320] x12`
    pub fn label(&self) -> String {
        let times = self.counts.iter().sum::<usize>();
        format!("{} -> {} x{times}", self.instance.op.name(), self.instance.output.label())
    }
}

/// The models that the arguments name, and how often each runs for a picture.
///
/// # Errors
/// As the library.
pub fn parts(args: &Args, gpu: &GpuDevice) -> Result<Vec<Part>> {
    if args.batch_size == 0 || args.width == Some(0) || args.height == Some(0) {
        return Err(Error::Usage("--batch-size, --width and --height must be above 0".into()));
    }
    let optimized = |graph: &Graph| passes::optimize(graph, &args.disable_pass);
    let one = |name: &str, model: &dyn Model| -> Result<Vec<Part>> {
        let own = model.default_sizes();
        let sizes = Sizes {
            batch: args.batch_size,
            height: args.height.unwrap_or(own.height),
            width: args.width.unwrap_or(own.width),
            ..own
        };
        let graph = optimized(&model.graph(&sizes, args.precision.dtype())?)?;
        Ok(vec![Part { name: name.to_owned(), graph, runs: 1 }])
    };
    if let Some(preset) = args.preset {
        return one(preset.name(), preset.model()?.as_ref());
    }
    let path = places::find_with(args.model.as_deref(), args.component.as_deref().unwrap_or("unet"))?;
    let checkpoint = args.unused.open(&path)?;
    if let Some(component) = &args.component {
        return one(component, LoadedModel::open(&checkpoint, component)?.model.as_ref());
    }
    let scheduler = Scheduler::new(DiffusionPipeline::scheduler_config(&checkpoint)?)?;
    let pipeline = DiffusionPipeline::load(&checkpoint, scheduler)?;
    let load = LoadOptions { disabled_passes: args.disable_pass.clone(), ..LoadOptions::default() };
    let device = Device::Gpu(gpu.clone());
    let runtime = Runtime::new(&device, &load, args.precision.dtype());
    let options = SampleOptions {
        batch_size: args.batch_size,
        prompts: vec![String::new()],
        height: args.height,
        width: args.width,
        ..pipeline.defaults()
    };
    let steps = pipeline.steps(&options)?;
    let part = |(name, graph): (&str, Graph)| {
        let runs = match name {
            "unet" => steps,
            // One picture after the other.
            "vae.decoder" => args.batch_size,
            _ => 1,
        };
        Ok(Part { name: name.to_owned(), graph: optimized(&graph)?, runs })
    };
    pipeline.graphs(&runtime, &options)?.into_iter().map(part).collect()
}

/// Jobs that a table knows, with what it says; and others.
type Jobs = (Vec<(Job, TunedEntry)>, Vec<Job>);

/// The different instances for which there is a choice: those that the table knows, with what it says, and the others.
///
/// # Errors
/// As [`crate::plan::choose`].
pub fn jobs(parts: &[Part], gpu: &GpuDevice, table: &Table, again: bool) -> Result<Jobs> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for (part, Part { graph, .. }) in parts.iter().enumerate() {
        for instance in Instance::distinct(graph) {
            let at = *index.entry(key(&instance).key()).or_insert(jobs.len());
            if at == jobs.len() {
                let counts = vec![0; parts.len()];
                jobs.push(Job { instance: instance.clone(), counts, weight: 0.0, runs: 0.0 });
            }
            jobs[at].counts[part] += instance.nodes.len();
        }
    }
    let (mut known, mut left) = (Vec::new(), Vec::new());
    for mut job in jobs {
        // What no kernel can compute is refused when the model runs.
        if candidates(&job.instance, gpu.caps()).unwrap_or(0) < 2 {
            continue;
        }
        job.runs = job.counts.iter().zip(parts).map(|(count, part)| (count * part.runs) as f64).sum();
        let inputs: Vec<_> = job.instance.inputs.iter().map(|input| input.as_ref().map(|(desc, _)| desc)).collect();
        let cost = job.instance.op.cost(&inputs, &job.instance.output);
        // About what devices do in the time in which they move a byte.
        job.weight = (cost.flops as f64 + 20.0 * cost.bytes as f64) * job.runs;
        match table.find(&key(&job.instance)) {
            Some(entry) if !again && is_known(entry, &job.instance, gpu.caps())? => known.push((job, entry.clone())),
            _ => left.push(job),
        }
    }
    Ok((known, left))
}

fn key(instance: &Instance) -> TunedEntry {
    TunedEntry {
        operation: instance.op.name().into(),
        attributes: instance.op.attributes(),
        inputs: instance.inputs.iter().map(|input| input.as_ref().map(|(desc, _)| desc.label())).collect(),
        output: instance.output.label(),
        variant: String::new(),
        knobs: Knobs::default(),
        trials: Vec::new(),
    }
}

/// Orders jobs by the time that they take of a picture with the rules' choices. Where time is short, a fifth of it goes
/// into measuring that, and what is small by its numbers stays estimated.
///
/// # Errors
/// [`Error::Device`] if the device was lost.
pub fn order(jobs: &mut [Job], gpu: &GpuDevice, deadline: Option<Instant>) -> Result<()> {
    jobs.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let now = Instant::now();
    let until = deadline.map(|deadline| now + (deadline - now) / 5);
    let (mut seconds, mut estimates, mut measured) = (0.0, 0.0, 0);
    for job in &mut *jobs {
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        measured += 1;
        let estimate = job.weight;
        match job.instance.time_once(gpu, &PlanOptions::default()) {
            Ok(time) => {
                job.weight = time * job.runs;
                seconds += job.weight;
                estimates += estimate;
            }
            Err(error @ Error::Device(_)) => return Err(error),
            Err(_) => job.weight = 0.0, // which is said when its turn comes
        }
    }
    let ratio = if estimates > 0.0 { seconds / estimates } else { 1.0 };
    jobs[measured..].iter_mut().for_each(|job| job.weight *= ratio);
    jobs.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    Ok(())
}
