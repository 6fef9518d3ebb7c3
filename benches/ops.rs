//! Times every kernel variant on the shapes that its operation has in real models (Stable Diffusion 1.5, XL, their
//! autoencoder), or on its largest small case if it has none: `cargo bench [-- OPERATION]`.
//!
//! Each variant is compared with the reference before it is timed, on a sample of elements if the whole would take
//! minutes. `UNMIST_BENCH_DEVICE` chooses the device, as `--device` does. `unmist bench --kernel` does the same for one
//! shape, and says what part of the device's ceilings each variant reaches.

use std::collections::HashMap;

use unmist::backend::Session;
use unmist::gpu::{Checks, GpuDevice, GpuSession, select_adapter};
use unmist::graph::Rate;
use unmist::measure::{Effort, time_program};
use unmist::ops::{Case, Size, registry};
use unmist::plan::{Choice, PlanOptions, Program};
use unmist::verify::{CaseResult, PreparedCase, Run, Storage};
use unmist::{DType, Result};

/// Two seconds and ± 1 %.
const EFFORT: Effort = Effort { least: 5, most: 100, seconds: 2.0, uncertainty: 0.01, warm_up: 0.2 };

fn main() -> Result<()> {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let selector = std::env::var("UNMIST_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    let Some((_, adapter)) = select_adapter(&selector)? else {
        return Err(unmist::Error::Device("benchmarks need a graphics adapter".into()));
    };
    let gpu = GpuDevice::open(adapter, Checks::Off)?;
    println!("device: {}", gpu.describe());
    println!(
        "{:<22} {:<18} {:<40} {:>10} {:>7} {:>9} {:>8}",
        "operation", "variant", "case", "us", "±", "GFLOP/s", "GB/s"
    );
    for info in registry().iter().filter(|i| only.as_deref().is_none_or(|o| o == i.name)) {
        for variant in &info.variants {
            time_variant(&gpu, info, variant)?;
        }
    }
    Ok(())
}

/// Times a variant on the operation's shapes in real models, or, if it has none, on the small case with the most work.
fn time_variant(gpu: &GpuDevice, info: &unmist::ops::Info, variant: &str) -> Result<()> {
    let plan = |case: &Case| -> Result<Option<Program>> {
        let options = PlanOptions { choice: Choice::of_variant(info.name, variant), ..PlanOptions::default() };
        match Program::new(&case.structure(DType::F32)?, gpu.caps(), &options) {
            Ok(plan) => Ok(Some(plan)),
            Err(unmist::Error::Usage(_)) => Ok(None), // the variant cannot compute it
            Err(other) => Err(other),
        }
    };
    let work = |plan: &Program| -> u64 {
        Rate::ALL.iter().map(|rate| plan.cost(*rate)).map(|cost| cost.flops + cost.bytes).sum()
    };
    let mut cases = Vec::new();
    for case in info.cases_of(Size::Perf) {
        cases.extend(plan(case)?.map(|plan| (case, plan)));
    }
    if cases.is_empty() {
        for case in info.cases_of(Size::Small) {
            let Some(plan) = plan(case)? else { continue };
            if cases.first().is_none_or(|(_, largest)| work(&plan) > work(largest)) {
                cases = vec![(case, plan)];
            }
        }
    }
    if cases.is_empty() {
        println!("{:<22} {:<18} cannot run here", info.name, variant);
    }
    cases.into_iter().try_for_each(|(case, plan)| time_case(gpu, info.name, variant, case, plan))
}

fn time_case(gpu: &GpuDevice, operation: &str, variant: &str, case: &Case, plan: Program) -> Result<()> {
    let prepared = PreparedCase::new(case, Storage::F32)?.expect("every case is stored in f32");
    let checked = prepared.check(gpu, variant, Run::Unchecked, None)?;
    assert!(matches!(checked, CaseResult::Equal(_)), "the plan above was made");

    let cost = plan.cost(Rate::Step);
    let mut session = GpuSession::new(gpu, plan, &HashMap::new())?;
    for (name, tensor) in case.graph(DType::F32)?.1 {
        session.write(name, &tensor)?;
    }
    let seconds = time_program(&mut session, &EFFORT)?;
    println!(
        "{:<22} {:<18} {:<40} {:>10.1} {:>5.1} % {:>9.3} {:>8.3}",
        operation,
        variant,
        case.label,
        seconds.median() * 1e6,
        100.0 * seconds.uncertainty(),
        cost.flops as f64 / seconds.median() / 1e9,
        cost.bytes as f64 / seconds.median() / 1e9
    );
    Ok(())
}
