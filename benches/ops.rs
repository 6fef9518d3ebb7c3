//! Times every kernel variant on its operation's largest parity case: `cargo bench [-- OPERATION]`.
//!
//! Each variant is compared with the reference before it is timed. The cases are small, so the figures rank variants on
//! one device and show regressions; they are no measure of a device's peak. `UNMIST_BENCH_DEVICE` chooses the device,
//! as `--device` does.

use std::collections::HashMap;
use std::time::Instant;

use unmist::backend::Session;
use unmist::gpu::{Checks, GpuDevice, GpuSession, select_adapter};
use unmist::graph::Rate;
use unmist::ops::registry;
use unmist::plan::{Choice, PlanOptions, Program};
use unmist::verify::{CaseResult, PreparedCase, Run, Storage};
use unmist::{DType, Result};

/// Runs per sample; one wait for all of them, so that its cost is shared.
const RUNS: u32 = 20;
/// Samples; the fastest counts, the others were disturbed.
const SAMPLES: u32 = 5;

fn main() -> Result<()> {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let selector = std::env::var("UNMIST_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    let Some((_, adapter)) = select_adapter(&selector)? else {
        return Err(unmist::Error::Device("benchmarks need a graphics adapter".into()));
    };
    let gpu = GpuDevice::open(adapter, Checks::Off)?;
    println!("device: {}", gpu.describe());
    println!("{:<22} {:<12} {:<40} {:>10} {:>9} {:>8}", "operation", "variant", "case", "us", "GFLOP/s", "GB/s");
    for info in registry().iter().filter(|i| only.as_deref().is_none_or(|o| o == i.name)) {
        for variant in &info.variants {
            time_variant(&gpu, info, variant)?;
        }
    }
    Ok(())
}

/// Times the case with the most work among those that the variant can run.
fn time_variant(gpu: &GpuDevice, info: &unmist::ops::Info, variant: &str) -> Result<()> {
    let choice = Choice::of_variant(info.name, variant);
    let options = PlanOptions { choice, ..PlanOptions::default() };
    let mut best: Option<(u64, &unmist::ops::Case, Program)> = None;
    for case in &info.cases {
        let (graph, _) = case.graph(DType::F32)?;
        let Ok(plan) = Program::new(&graph, gpu.caps(), &options) else { continue };
        let work = Rate::ALL.iter().map(|rate| plan.cost(*rate)).map(|cost| cost.flops + cost.bytes).sum::<u64>();
        if best.as_ref().is_none_or(|(most, ..)| work > *most) {
            best = Some((work, case, plan));
        }
    }
    let Some((_, case, plan)) = best else {
        println!("{:<22} {:<12} cannot run here", info.name, variant);
        return Ok(());
    };
    let prepared = PreparedCase::new(case, Storage::F32)?.expect("every case is stored in f32");
    let checked = prepared.check(gpu, variant, Run::Unchecked, None)?;
    assert!(matches!(checked, CaseResult::Equal(_)), "the plan above was made");

    let cost = plan.cost(Rate::Step);
    let mut session = GpuSession::new(gpu, plan, &HashMap::new())?;
    for (name, tensor) in case.graph(DType::F32)?.1 {
        session.write(name, &tensor)?;
    }
    session.run()?; // compiles what the driver left to the first run
    session.wait()?;
    let mut seconds = f64::INFINITY;
    for _ in 0..SAMPLES {
        let start = Instant::now();
        (0..RUNS).try_for_each(|_| session.run())?;
        session.wait()?;
        seconds = seconds.min(start.elapsed().as_secs_f64() / f64::from(RUNS));
    }
    println!(
        "{:<22} {:<12} {:<40} {:>10.1} {:>9.3} {:>8.3}",
        info.name,
        variant,
        case.label,
        seconds * 1e6,
        cost.flops as f64 / seconds / 1e9,
        cost.bytes as f64 / seconds / 1e9
    );
    Ok(())
}
