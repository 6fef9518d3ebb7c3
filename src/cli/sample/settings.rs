//! What is written into a picture about how it was made.

use std::path::Path;

use super::args::Args;
use crate::schedulers::SchedulerConfig;

/// One line in the form that other programs put into pictures.
pub(super) fn settings(args: &Args, model: &Path, scheduler: &SchedulerConfig, width: usize, height: usize) -> String {
    let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let classes: Vec<u64> = args.class.iter().map(|c| *c as u64).collect();
    let mut parts = vec![
        format!("Steps: {}", args.steps),
        format!("Sampler: {}", scheduler.class.name()),
        format!("Eta: {}", args.eta),
        format!("CFG scale: {}", args.guidance_scale.map_or("default".to_owned(), |s| s.to_string())),
        format!("Seed: {}", list(&args.seed)),
        format!("Size: {width}x{height}"),
        format!("Batch size: {}", args.batch_size),
        format!(
            "Model: {}",
            model.file_name().map_or(model.display().to_string(), |n| n.to_string_lossy().into_owned())
        ),
    ];
    if !classes.is_empty() {
        parts.push(format!("Class: {}", list(&classes)));
    }
    parts.push(format!("Precision: {}", args.precision.dtype().name()));
    parts.push(format!("Version: unmist {}", env!("CARGO_PKG_VERSION")));
    parts.join(", ")
}
